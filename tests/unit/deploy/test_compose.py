"""Test the Compose files, resolved by Compose, against the code that runs in their containers."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import compose
import pytest
import yaml

from contract.arch import Arch
from contract.platform import platforms
from runtime import flags
from runtime.__main__ import command, parse
from service.__main__ import command as service_command
from service.__main__ import parse as parse_service
from tests.unit.deploy.test_charts import access_variables, make_certificates
from tests.unit.images.dockerfile import stages
from transcriber.__main__ import parse as parse_transcriber
from transcriber.endpoint import ENDPOINT_VARIABLE, checked_endpoint

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "compose"
# The package's own console script drops the exit code.
COMPOSE = Path(compose.__file__).with_name("docker-compose")
VARIANTS = ("gpu", "cpu")


def _resolve(variant: str, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    files = [f"--file={name}" for name in ("compose.yaml", f"{variant}.yaml", *more)]
    command = [str(COMPOSE), f"--env-file={variant}.env", *files, "--profile=tools", "config"]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}
    return subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False)


def _services(variant: str, *more: str, **variables: str) -> dict[str, Any]:
    resolved = _resolve(variant, *more, **variables)
    assert (resolved.returncode, resolved.stderr) == (0, "")
    services: dict[str, Any] = yaml.safe_load(resolved.stdout)["services"]
    return services


def _settings(variant: str) -> dict[str, str]:
    lines = (FOLDER / f"{variant}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_env_names_files_of_variant(variant: str) -> None:
    assert _settings(variant)["COMPOSE_FILE"] == f"compose.yaml:{variant}.yaml"
    assert _settings(variant)["VERSION"] == _version()


@pytest.mark.parametrize("variant", VARIANTS)
def test_env_lists_exactly_the_used_variables(variant: str) -> None:
    texts = [(FOLDER / name).read_text() for name in ("compose.yaml", f"{variant}.yaml")]
    used = {name for text in texts for name in re.findall(r"\$\{(\w+)", text)}
    # cpu.env does not list SM_BATCH_MODE, because the embedded server's two cores are too slow for real time.
    assert used - {"SM_BATCH_MODE"} == _settings(variant).keys() - {"COMPOSE_FILE", "SM_BATCH_MODE"}


@pytest.mark.parametrize("arch", [arch.value for arch in Arch if arch.capability])
def test_image_matches_architecture(arch: str) -> None:
    server = _services("gpu", ARCH=arch, REGISTRY="registry.example/speech/")["server"]
    assert server["image"] == f"registry.example/speech/voxwright-runtime:{_version()}-26.08-{arch}"
    assert arch in (FOLDER / "gpu.env").read_text()


def test_platform_has_gpu_server() -> None:
    assert platforms()[_settings("gpu")["PLATFORM"]].cuda is not None


def test_one_gpu_is_reserved_by_id() -> None:
    (device,) = _services("gpu", GPU="GPU-8f2d")["server"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["GPU-8f2d"], "capabilities": ["gpu"]}
    assert "deploy" not in _services("cpu")["server"]


@pytest.mark.parametrize(
    ("variant", "missing", "sentence"),
    [
        ("gpu", "ARCH", "required variable ARCH is missing a value: name the architecture of the GPU in .env"),
        ("gpu", "VERSION", "required variable VERSION is missing a value: copy gpu"),
        ("cpu", "VERSION", "required variable VERSION is missing a value: copy"),
    ],
)
def test_rejects_missing_required_variable(variant: str, missing: str, sentence: str) -> None:
    resolved = _resolve(variant, **{missing: ""})
    assert resolved.returncode != 0
    assert sentence in resolved.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_runtime_accepts_environment_and_arguments(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = _services(variant, SM_OPERATING_POINT="standard", SM_BATCH_MODE="false")["server"]
    assert server["environment"].keys() <= {option.envvar for option in command().params}
    for name, text in server["environment"].items():
        monkeypatch.setenv(name, text)
    settings = parse(server["command"])
    assert (settings.operating_point, settings.mode) == ("standard", "realtime")
    assert settings.triton_flags == ("--metrics-config=summary_latencies=true",)
    if variant == "cpu":
        assert settings.threads == int(server["cpus"]) == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_empty_operating_point_is_none(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_OPERATING_POINT", _services(variant)["server"]["environment"]["SM_OPERATING_POINT"])
    assert parse([]).operating_point is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_ports_match_server_and_are_local(variant: str) -> None:
    ports = _services(variant)["server"]["ports"]
    assert [int(port["published"]) for port in ports] == [port["target"] for port in ports]
    assert {port["target"] for port in ports} == set(parse([]).ports.flags().values())
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_bind_opens_the_ports_of_clients_only(variant: str) -> None:
    ports = _services(variant, BIND="192.0.2.7")["server"]["ports"]
    assert {port["target"]: port["host_ip"] for port in ports} == {
        8000: "192.0.2.7",
        8001: "192.0.2.7",
        8002: "127.0.0.1",
    }


def test_server_env_and_site_file_add_to_the_server(tmp_path: Path) -> None:
    """As deploy/README.md writes them: variables of runtime, and anything else that Compose knows."""
    folder = tmp_path / "compose"
    shutil.copytree(FOLDER, folder)
    (folder / "server.env").write_text("VOXWRIGHT_LOG_FORMAT=json\nSM_BATCH_MODE=false\n")
    (folder / "site.yaml").write_text("services: {server: {labels: {team: speech}, volumes: ['./ca:/ca:ro']}}\n")
    (folder / ".env").write_text(
        (folder / "cpu.env").read_text().replace("compose.yaml:cpu.yaml", "compose.yaml:cpu.yaml:site.yaml")
    )
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    resolved = subprocess.run(
        [str(COMPOSE), "config"], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    server = yaml.safe_load(resolved.stdout)["services"]["server"]
    assert server["environment"]["VOXWRIGHT_LOG_FORMAT"] == "json"
    # What .env sets is not changed by server.env.
    assert server["environment"]["SM_BATCH_MODE"] == "true"
    assert (server["labels"], server["volumes"][0]["target"]) == ({"team": "speech"}, "/ca")


@pytest.mark.parametrize("variant", VARIANTS)
def test_grace_period_exceeds_exit_timeout(variant: str) -> None:
    assert int(_services(variant)["server"]["stop_grace_period"].removesuffix("s")) > flags.EXIT_TIMEOUT_S


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("service", ["server", "transcriber"])
def test_services_run_with_minimal_privileges(variant: str, service: str) -> None:
    found = _services(variant)[service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert [place.split(":")[0] for place in found["tmpfs"]] == ["/tmp"]  # noqa: S108 - in the container


def test_tmpfs_of_embedded_server_is_executable() -> None:
    (place,) = _services("cpu")["server"]["tmpfs"]
    assert "exec" in place.split(":")[1].split(",")


@pytest.mark.parametrize("variant", VARIANTS)
def test_transcriber_waits_for_server_and_has_its_endpoint(variant: str) -> None:
    transcriber = _services(variant)["transcriber"]
    assert transcriber["depends_on"]["server"]["condition"] == "service_healthy"
    assert checked_endpoint(transcriber["environment"][ENDPOINT_VARIABLE]) == "server:8001"
    assert {volume["target"]: volume.get("read_only", False) for volume in transcriber["volumes"]} == {
        "/recordings": True,
        "/transcripts": False,
    }
    # A folder that Docker creates belongs to root, so user 10001 could not write to it.
    assert not [volume for volume in transcriber["volumes"] if volume["bind"].get("create_host_path")]


def test_licence_is_mounted_at_expected_path() -> None:
    assert "volumes" not in _services("gpu")["server"]
    (volume,) = _services("gpu", "licence.yaml", LICENCE="/etc/voxwright.json")["server"]["volumes"]
    assert (volume["source"], volume["target"], volume["read_only"]) == ("/etc/voxwright.json", "/license.json", True)


def test_tls_files_fit_each_other_and_the_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variables of tls.yaml and service-tls.yaml are those of the three commands, with files of one folder."""
    more = ("service.yaml", "tls.yaml", "service-tls.yaml")
    found = _services("cpu", *more, DATABASE_PASSWORD="secret", TLS=str(tmp_path))  # noqa: S106
    for service in found.values():
        for volume in service.get("volumes", []):
            if volume["target"] == "/tls":
                assert (volume["source"], volume["read_only"]) == (str(tmp_path), True)
    folders = {name for name, service in found.items() if "/tls" in [each["target"] for each in service["volumes"]]}
    assert folders == {"server", "transcriber", "service"}
    # The other volumes and variables of a service stay.
    assert {"/recordings", "/transcripts"} <= {volume["target"] for volume in found["transcriber"]["volumes"]}
    assert found["transcriber"]["environment"][ENDPOINT_VARIABLE] == "server:8001"
    for name in ("server", "client", "service"):
        make_certificates(tmp_path / name)
        for suffix, made in (("pem", "tls.crt"), ("key", "tls.key")):
            (tmp_path / f"{name}.{suffix}").write_bytes((tmp_path / name / made).read_bytes())
    (tmp_path / "ca.pem").write_bytes((tmp_path / "server.pem").read_bytes())
    for name, text in _tls_variables(
        found["server"], tmp_path, {str(each.envvar) for each in command().params}
    ).items():
        monkeypatch.setenv(name, text)
    settings = parse(found["server"]["command"])
    assert settings.grpc_tls is not None
    access = _tls_variables(found["transcriber"], tmp_path, access_variables())
    assert access.items() <= _tls_variables(found["service"], tmp_path).items()
    for name, text in _tls_variables(found["service"], tmp_path).items():
        monkeypatch.setenv(name, text)
    service_settings = parse_service([])
    assert (service_settings.access.tls, service_settings.tls is not None) == (True, True)
    assert parse_transcriber(["a.wav"]).access == service_settings.access


def _tls_variables(service: dict[str, Any], folder: Path, known: set[str] | None = None) -> dict[str, str]:
    named = {name: text for name, text in service["environment"].items() if text.startswith("/tls/")}
    assert named
    assert known is None or named.keys() <= known
    return {name: text.replace("/tls", str(folder)) for name, text in named.items()}


def test_service_accepts_its_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every variable is an option of the service, and its image sets the rest."""
    assert "set it in .env" in _resolve("cpu", "service.yaml").stderr
    service = _services("cpu", "service.yaml", DATABASE_PASSWORD="secret")["service"]  # noqa: S106
    variables = {name: text for name, text in service["environment"].items() if name.startswith("VOXWRIGHT_")}
    known = {name for option in service_command().params for name in option.envvar or ()}
    assert variables.keys() <= known
    stage = stages((ROOT / "Dockerfile").read_text())["service"]
    in_image = {name: text for name, text in stage.environment().items() if name.startswith("VOXWRIGHT_")}
    assert in_image.keys() <= known
    (tmp_path / "keys").write_text("alice 0123456789abcdef\n")
    for name, text in {**in_image, **variables, "VOXWRIGHT_SERVICE_API_KEYS": str(tmp_path / "keys")}.items():
        monkeypatch.setenv(name, text)
    settings = parse_service([])
    assert (settings.endpoint, settings.host) == ("server:8001", stage.environment()["VOXWRIGHT_SERVICE_HOST"])
    assert settings.database == "postgresql://voxwright:secret@database/voxwright"
    assert [port["target"] for port in service["ports"]] == [settings.port]
