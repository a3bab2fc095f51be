"""Test the Dockerfile: the contents of each image, its user, and the files that it must not contain."""

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from contract.arch import Arch
from contract.catalogue import CATALOGUE_FOLDER
from contract.errors import KeyFileError
from contract.platform import platforms
from runtime import probe
from runtime.__main__ import command, parse
from runtime.licence import VENDOR_KEY
from tests.unit.images.dockerfile import ROOT, Stage, included, instructions, lineage, stages

TEXT = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text()
STAGES = stages(TEXT)
IMAGES = ("builder", "runtime", "runtime-cpu", "service", "transcriber")
SERVERS = ("runtime", "runtime-cpu")
GPU_PLATFORMS = [name for name, found in platforms().items() if found.cuda]
SLIM_PACKAGES = {"contract", "model_repository"}


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def _with_arguments(text: str, **arguments: str) -> str:
    for name, value in arguments.items():
        text = text.replace(f"${{{name}}}", value)
    return text


def _sources(stage: Stage) -> set[str]:
    return {source for each in lineage(STAGES, stage.name) for source in each.sources()}


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_last_stage_is_gpu_runtime() -> None:
    assert list(STAGES)[-1] == "runtime"
    assert set(IMAGES) <= set(STAGES)


def test_sources_are_tracked_and_not_ignored() -> None:
    tracked = tracked_files()
    for source in {each for stage in STAGES.values() for each in stage.sources() if not each.startswith("dist/")}:
        inside = [path for path in tracked if path == source or path.startswith(f"{source}/")]
        assert inside, f"{source} is not tracked by git"
        assert all(included(path, IGNORED) for path in inside), source


def test_referenced_stages_exist() -> None:
    for stage in STAGES.values():
        for platform in GPU_PLATFORMS:
            base = _with_arguments(stage.base, PLATFORM=platform)
            assert base in STAGES or "_IMAGE}" in base or base.startswith("${NVIDIA}/"), base
        for text in stage.all("COPY"):
            if text.startswith("--from="):
                assert text.split()[0].removeprefix("--from=") in STAGES


def test_gpu_platforms_have_base_and_server_stages() -> None:
    for prefix in ("base-", "server-"):
        assert [name.removeprefix(prefix) for name in STAGES if name.startswith(prefix)] == GPU_PLATFORMS
    for platform in GPU_PLATFORMS:
        assert STAGES[f"server-{platform}"].base == f"${{NVIDIA}}/tritonserver:{platform}-py3"
    defaults = dict(text.split("=", 1) for name, text in instructions(TEXT) if name == "ARG" and "=" in text)
    assert defaults["PLATFORM"] == GPU_PLATFORMS[0]


def test_images_contain_their_packages_only() -> None:
    environment = {"pyproject.toml", "requirements.lock", "images/requirements.py"}
    found = {name: _sources(STAGES[name]) for name in IMAGES}
    assert found == {
        "transcriber": SLIM_PACKAGES | {"transcriber"},
        "service": SLIM_PACKAGES | {"transcriber", "service"},
        "runtime-cpu": SLIM_PACKAGES | {"runtime", "dist/engines/embedded/cpu"},
        "runtime": SLIM_PACKAGES | {"runtime", "dist/engines/${PLATFORM}/${ARCH}"},
        "builder": SLIM_PACKAGES | environment | {"export", "build", "demo/dialogue.flac", "demo/dialogue.json"},
    }


@pytest.mark.parametrize("name", IMAGES)
def test_packages_keep_their_paths(name: str) -> None:
    """The catalogue is looked up next to contract, and modules below PYTHONPATH."""
    assert CATALOGUE_FOLDER == ROOT / "model_repository"
    for source, target in (text.split() for text in STAGES[name].all("COPY") if text.count(" ") == 1):
        if not source.startswith("dist/"):
            assert target == f"/opt/voxwright/{source}" or target in ("./", "images/")
    environment = {key: text for stage in lineage(STAGES, name) for key, text in stage.environment().items()}
    assert environment["PYTHONPATH"] == "/opt/voxwright"
    assert environment["PYTHONSAFEPATH"] == "1"
    assert environment["PATH"].startswith("/opt/venv/bin:")


@pytest.mark.parametrize("platform", GPU_PLATFORMS)
@pytest.mark.parametrize("arch", [arch for arch in Arch if arch is not Arch.CPU])
def test_bundle_path_matches_build_and_runtime(platform: str, arch: Arch) -> None:
    (copy,) = (text for text in STAGES["runtime"].all("COPY") if text.startswith("dist/"))
    source, target = _with_arguments(copy, PLATFORM=platform, ARCH=arch.value).split()
    assert source == f"dist/engines/{platform}/{arch.value}"
    assert included(f"{source}/manifest.json", IGNORED)
    assert target == f"{STAGES['runtime'].environment()['VOXWRIGHT_ENGINES']}/{platform}/{arch.value}"


def test_runtime_build_needs_architecture() -> None:
    (refusal,) = (text for text in STAGES["runtime"].all("RUN") if "ARCH" in text)
    script = refusal.partition(" && ")[0]
    assert subprocess.run(["sh", "-c", script], env={"ARCH": "sm86"}, check=False).returncode == 0
    refused = subprocess.run(["sh", "-c", script], env={}, check=False, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (
        1,
        "error: ARCH is empty: name the architecture of the GPU, for example --build-arg ARCH=sm86\n",
    )


@pytest.mark.parametrize("name", SERVERS)
def test_vendor_key_gets_into_the_image(name: str, tmp_path: Path) -> None:
    """The build's own shell command, with another root folder: a private key or other text fails the build."""
    (step,) = (text for text in STAGES[name].all("RUN") if "VENDOR_KEY" in text)
    script = step.replace("/etc/voxwright", f"{tmp_path}/etc").replace("python3", sys.executable)
    key, public = tmp_path / "vendor.key", tmp_path / "etc" / "vendor.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    derived = subprocess.run(["openssl", "pkey", "-in", key, "-pubout"], capture_output=True, text=True, check=True)

    def build(value: str) -> int:
        variables = {"VENDOR_KEY": value.rstrip("\n"), "PATH": os.environ["PATH"]}
        return subprocess.run(["sh", "-c", script], cwd=ROOT, env=variables, check=False).returncode

    assert build("") == 0
    assert not public.exists()
    assert build(derived.stdout) == 0
    assert public.read_text() == derived.stdout
    for value in (key.read_text(), "vendor.pub", derived.stdout.replace("MCowBQ", "AAAAAA")):
        assert build(value) == KeyFileError.exit_code
    assert str(VENDOR_KEY) == "/etc/voxwright/vendor.pem"


def test_slim_images_install_only_python() -> None:
    def installed(name: str) -> set[str]:
        return {package for stage in lineage(STAGES, name) for package in stage.packages()}

    assert installed("transcriber") == installed("service") == {"python3"}
    assert installed("runtime-cpu") == {"python3", "libpython3.11"}
    assert {platform: installed(f"base-{platform}") for platform in GPU_PLATFORMS} == {
        "26.08": {"python3"},
        "23.12": {"python3.11"},
    }
    assert installed("runtime") == set()
    for name in ("transcriber", "service", "runtime-cpu", "runtime"):
        assert not any("pip" in text for stage in lineage(STAGES, name) for text in stage.all("RUN"))


@pytest.mark.parametrize("name", IMAGES)
def test_images_do_not_run_as_root(name: str) -> None:
    assert STAGES[name].last("USER") == "10001:10001"
    assert [instruction for instruction, _ in STAGES[name].instructions][-1] in ("ENTRYPOINT", "CMD")
    after = [name for name, _ in STAGES[name].instructions[STAGES[name].instructions.index(("USER", "10001:10001")) :]]
    assert not {"RUN", "COPY"} & set(after)


@pytest.mark.parametrize("name", IMAGES)
def test_labels(name: str) -> None:
    labels = STAGES[name].labels()
    assert labels["org.opencontainers.image.title"] == f"voxwright-{name}"
    assert labels["org.opencontainers.image.description"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert labels["org.opencontainers.image.version"] == "${VERSION}"
    assert f"VERSION={project['version']}" in STAGES[name].all("ARG")
    assert labels["org.opencontainers.image.revision"] == "${REVISION}"


@pytest.mark.parametrize("name", SERVERS)
def test_server_declares_start_stop_and_health_check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = STAGES[name]
    assert stage.command("ENTRYPOINT") == ["python3", "-m", "runtime"]
    assert stage.last("STOPSIGNAL") == "SIGTERM"
    assert stage.last("EXPOSE") == "8000 8001 8002"
    python, flag, module, *arguments = stage.command("HEALTHCHECK")
    assert (python, flag, module) == ("python3", "-m", "runtime.probe")
    with probe.command.make_context(module, arguments) as context:
        assert context.params["url"] == "http://localhost:8000"


@pytest.mark.parametrize("name", SERVERS)
def test_server_variables_are_runtime_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {key: text for key, text in STAGES[name].environment().items() if key.startswith("VOXWRIGHT_")}
    known = {option.envvar for option in command().params}
    assert set(own) <= known
    for key in filter(None, known):
        monkeypatch.delenv(str(key), raising=False)
    for key, text in own.items():
        monkeypatch.setenv(key, _with_arguments(text, PLATFORM=GPU_PLATFORMS[0]))
    settings = parse([])
    assert settings.platform is not None
    assert settings.platform.name == (GPU_PLATFORMS[0] if name == "runtime" else "embedded")
    assert (settings.ports.http, settings.ports.grpc, settings.ports.metrics) == (8000, 8001, 8002)
    assert settings.repository.parts[1] == "tmp", (
        "one tmpfs has to be enough, and Triton's python backend writes to /tmp"
    )


@pytest.mark.parametrize("platform", GPU_PLATFORMS)
def test_server_stage_takes_licence_from_either_place(platform: str) -> None:
    (script,) = (text for text in STAGES[f"server-{platform}"].all("RUN") if "gather.py" in text)
    name = "NVIDIA_Deep_Learning_Container_License.pdf"
    assert f"--licence /opt/tritonserver/{name} --licence /{name} " in script


@pytest.mark.parametrize(("platform", "dcgm"), list(zip(GPU_PLATFORMS, ("4", "3"), strict=True)))
def test_server_stage_takes_dcgm_without_its_diagnostics(platform: str, dcgm: str) -> None:
    """DCGM 3 has proxies that contain cuBLAS."""
    (script,) = (text for text in STAGES[f"server-{platform}"].all("RUN") if "gather.py" in text)
    patterns = re.findall(r"--also '([^']+)'", script)
    names = [*("libdcgm.so", "libdcgmmodulesysmon.so", "libdcgmmoduleprofiling.so"), "libdcgm_cublas_proxy12.so"]
    taken = [any(fnmatch.fnmatch(f"{name}.{dcgm}", pattern) for pattern in patterns) for name in names]
    assert taken == [True, True, True, False]


def test_runtime_image_selects_no_gpu_itself() -> None:
    """`NVIDIA_VISIBLE_DEVICES=all` in an image would give a pod every GPU where only CDI selects devices."""
    environment = STAGES["runtime"].environment()
    assert "NVIDIA_VISIBLE_DEVICES" not in environment
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def run_compatibility_step(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the step that copies CUDA's compatibility library, with `folder`/compat and `folder`/slim as its folders."""
    (script,) = (text for text in STAGES["server-23.12"].all("RUN") if "/slim/usr/local/cuda/compat" in text)
    local = script.replace("/slim/", f"{folder}/slim/").replace('"/usr/local/cuda/compat/', f'"{folder}/compat/')
    return subprocess.run(["sh", "-euc", local], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("layout", [("lib.real",), ("lib.real", "lib"), ("lib",), (".",)])
def test_cuda_compatibility_library_is_where_the_toolkit_looks(layout: tuple[str, ...], tmp_path: Path) -> None:
    """NVIDIA's container toolkit looks for /usr/local/cuda/compat/libcuda.so.*.* in an image.

    NVIDIA's image has lib.real. Its entrypoint links lib to it. Another image may have lib only, or no folder.
    """
    first, *links = (tmp_path / "compat" / name for name in layout)
    first.mkdir(parents=True)
    (first / "libcuda.so.545.23.08").write_text("library")
    (first / "libcuda.so.1").symlink_to("libcuda.so.545.23.08")
    for link in links:
        link.symlink_to(first)
    done = run_compatibility_step(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    target = tmp_path / "slim/usr/local/cuda/compat"
    assert [path.name for path in target.glob("libcuda.so.*.*")] == ["libcuda.so.545.23.08"]
    assert (target / "libcuda.so.1").readlink() == Path("libcuda.so.545.23.08")


def test_build_fails_without_cuda_compatibility_library(tmp_path: Path) -> None:
    (tmp_path / "compat/lib.real").mkdir(parents=True)
    done = run_compatibility_step(tmp_path)
    error = "error: /usr/local/cuda/compat has no libcuda.so.*.* in lib.real, lib or itself\n"
    assert (done.returncode, done.stderr) == (1, error)


@pytest.mark.parametrize("name", ["runtime-cpu", "builder"])
def test_onnx_runtime_telemetry_is_off(name: str) -> None:
    assert STAGES[name].environment()["ORT_DISABLE_TELEMETRY"] == "1"


def test_cpu_image_has_python_of_platform() -> None:
    """Debian bookworm's Python is 3.11, the version that the backend's stub in the embedded server needs."""
    assert STAGES["runtime-cpu"].packages() == {f"libpython{platforms()['embedded'].python}"}


def test_builder_includes_tensorrt_and_rejects_old_python() -> None:
    (script,) = (text for text in STAGES["builder"].all("RUN") if "sys.version_info" in text)
    assert "--system-site-packages" in script
    assert "images/requirements.py export build" in script
    assert STAGES["builder"].base == "${NVIDIA}/tensorrt:${PLATFORM}-py3"


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_pip_uses_lock_and_leaves_no_cache(stage: Stage) -> None:
    for text in stage.all("RUN"):
        assert text.count(" install --no-cache-dir --constraint requirements.lock ") == text.count("/opt/venv install")
        assert text.count("--mount=type=secret") == (2 if "/opt/venv install" in text else 0)
