"""The farm: scripts, workflow and Kubernetes Jobs, each checked by its own tool, for every architecture."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from build import farm, images
from contract import signature
from contract.arch import Arch
from contract.errors import ReleaseError, SettingError
from contract.manifest import NOT_RUN, Gate, load
from contract.platform import platform
from tests.unit.engines import commands
from tests.unit.engines.exported import export

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted([*(path for path in (ROOT / "ci").iterdir() if not path.suffix), ROOT / ".ci" / "run"])
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DEPLOY = ROOT / "deploy" / "build-farm"
# The oldest release whose schema lets a rule of a failure policy name exit codes alone, and the newest there is.
KUBERNETES = ("1.29", "1.37")
GPUS = tuple(arch for arch in Arch if arch.capability is not None)


def _workflow() -> dict[Any, Any]:
    table: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "engines.yml").read_text())
    return table


def _jobs(name: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(farm.manifests(platform(name), "voxwright-farm")) if each]


def _container(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_strict_and_pass_shellcheck(script: Path) -> None:
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text or text.splitlines()[-1].startswith("exec ")
    command = [str(Path(sys.executable).with_name("shellcheck")), "--enable=check-unassigned-uppercase", str(script)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_match_github_schema(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_contain_no_logic(path: Path) -> None:
    steps = [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]
    for step in steps:
        if "run" in step:
            script = step["run"].split()[0]
            assert re.fullmatch(r"ci/[a-z-]+", script), step
            assert os.access(ROOT / script, os.X_OK)
            assert not re.search(r"[\n;|&`]|\$\(", step["run"]), step
            # Input typed by a person comes through the environment, never as part of a command line.
            assert "inputs." not in step["run"], step


def test_workflow_has_every_architecture() -> None:
    jobs = _workflow()["jobs"]
    matrix = jobs["gpu"]["strategy"]["matrix"]["include"]
    assert [entry["arch"] for entry in matrix] == [arch.value for arch in GPUS]
    assert [entry["runner"] for entry in matrix] == [f"gpu-{arch.value}" for arch in GPUS]
    assert [step["run"] for step in jobs["cpu"]["steps"] if "run" in step] == ["ci/build-engines cpu"]
    assert set(Arch) == {*GPUS, Arch.CPU}
    names = [
        step["with"]["name"]
        for job in ("gpu", "cpu")
        for step in jobs[job]["steps"]
        if "upload" in step.get("uses", "")
    ]
    assert names == ["engines-${{ matrix.arch }}", "engines-cpu"]


def test_workflow_builds_in_container_of_platform() -> None:
    workflow = _workflow()
    # YAML reads the key `on` as true.
    offered = workflow[True]["workflow_dispatch"]["inputs"]["platform"]
    assert tuple(offered["options"]) == farm.gpu_platforms()
    default = offered["default"]
    assert default == farm.gpu_platforms()[0]
    assert workflow["env"]["PLATFORM"] == f"${{{{ inputs.platform || '{default}' }}}}"
    image = workflow["jobs"]["gpu"]["container"]["image"]
    found = re.fullmatch(r"\$\{\{ inputs\.image \|\| format\('(.*)', inputs\.platform \|\| '(.*)'\) \}\}", image)
    assert found
    assert found[2] == default
    for name in farm.gpu_platforms():
        assert found[1].replace("{0}", name) == images.image(platform(name))


def test_only_release_job_has_signing_key() -> None:
    jobs = _workflow()["jobs"]
    assert [name for name, job in jobs.items() if "secrets." in yaml.safe_dump(job)] == ["release"]
    assert jobs["release"]["environment"] == "release"


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", farm.gpu_platforms())
def test_jobs_match_kubernetes_schema(name: str, version: str) -> None:
    volume = yaml.safe_load((DEPLOY / "volume.yaml").read_text())
    for each in [*_jobs(name), volume]:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("name", farm.gpu_platforms())
def test_every_architecture_has_a_job_on_its_gpu(name: str) -> None:
    jobs = _jobs(name)
    assert [job["metadata"]["labels"]["voxwright/arch"] for job in jobs] == [arch.value for arch in Arch]
    assert len({job["metadata"]["name"] for job in jobs}) == len(jobs)
    for job, arch in zip(jobs, Arch, strict=True):
        pod, container = job["spec"]["template"]["spec"], _container(job)
        selector = {key.rpartition("/")[2]: value for key, value in pod["nodeSelector"].items() if "nvidia" in key}
        capability = arch.capability and tuple(map(str, arch.capability))
        assert selector == (
            {} if capability is None else {"gpu.compute.major": capability[0], "gpu.compute.minor": capability[1]}
        )
        assert container["resources"]["limits"].get("nvidia.com/gpu") == (None if capability is None else "1")
        assert container["image"] == (farm.CPU_IMAGE if capability is None else images.image(platform(name)))
        assert container["command"][:2] == ["/farm/checkout/ci/build-engines", arch.value]
        assert ("--platform" in container["command"]) == (capability is not None)


def test_pods_have_minimal_rights() -> None:
    for job in _jobs("26.08"):
        pod, container = job["spec"]["template"]["spec"], _container(job)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
        assert writable == ["/farm/dist", "/scratch"]


def test_permanent_errors_are_not_retried() -> None:
    (job, *_) = _jobs("26.08")
    values = job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
    assert values == farm.refusals()
    assert {2, 10, 30, 31, 32, 33} <= set(values)
    # A retry may succeed after a full disk or a lost node.
    assert not {0, 1, 13, 130, 137, 143} & set(values)


def test_claim_and_image_are_options() -> None:
    text = farm.manifests(platform("26.08"), "engines-2", 'mirror.example/"tensorrt":1')
    jobs = [each for each in yaml.safe_load_all(text) if each]
    assert _container(jobs[1])["image"] == 'mirror.example/"tensorrt":1'
    assert {job["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] for job in jobs} == {
        "engines-2"
    }


def test_runtime_class_is_an_option(tmp_path: Path) -> None:
    """Clusters whose default container runtime is not NVIDIA's need it, as in the Helm chart."""
    written = farm.manifests(platform("26.08"), "farm", runtime_class="nvidia")
    jobs = [each for each in yaml.safe_load_all(written) if each]
    for job, arch in zip(jobs, Arch, strict=True):
        kubernetes_validate.validate(job, KUBERNETES[0], strict=True)
        found = job["spec"]["template"]["spec"].get("runtimeClassName")
        assert found == (None if arch.capability is None else "nvidia")
    assert all("runtimeClassName" not in job["spec"]["template"]["spec"] for job in _jobs("26.08"))
    with pytest.raises(SettingError) as refusal:
        farm.manifests(platform("26.08"), "farm", runtime_class="NVIDIA")
    assert str(refusal.value) == (
        "--runtime-class NVIDIA: it is not a valid Kubernetes name. Use lower-case letters, digits and dashes."
    )
    commands.run("build.farm", "--claim", "farm", "--runtime-class", "nvidia", "--output", tmp_path / "jobs.yaml")
    assert (tmp_path / "jobs.yaml").read_text() == written


@pytest.mark.parametrize(
    ("name", "claim", "sentence"),
    [
        (
            "embedded",
            "farm",
            "--platform embedded: it has no TensorRT, so its bundles need no farm. Choose one of 26.08, 23.12.",
        ),
        (
            "26.08",
            "Farm: x",
            "--claim Farm: x: it is not a valid Kubernetes name. Use lower-case letters, digits and dashes.",
        ),
    ],
)
def test_rejects_platform_and_claim(name: str, claim: str, sentence: str) -> None:
    with pytest.raises(SettingError) as refusal:
        farm.manifests(platform(name), claim)
    assert str(refusal.value) == sentence


def _run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {**os.environ, "VOXWRIGHT_PYTHON": sys.executable, **environment}
    return subprocess.run(
        list(map(str, command)), cwd=ROOT.parent, env=inherited, capture_output=True, text=True, check=False
    )


def test_command_writes_jobs(tmp_path: Path) -> None:
    printed = commands.run("build.farm").stdout
    assert commands.run("build.farm", "--output", tmp_path / "jobs.yaml").returncode == 0
    assert (tmp_path / "jobs.yaml").read_text() == printed == farm.manifests(platform("26.08"), "voxwright-farm")


@pytest.mark.parametrize("script", ["python", "build-engines", "release"])
def test_scripts_print_usage(script: str) -> None:
    result = _run(ROOT / "ci" / script)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"usage: ci/{script} ")


def test_script_returns_exit_code_of_command() -> None:
    result = _run(ROOT / "ci" / "build-engines", "sm70")
    assert result.returncode == SettingError.exit_code
    assert result.stderr.startswith("error: architecture 'sm70': Voxwright does not build for it.")


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """Engines for the CPU, built by the farm's own script."""
    for model in ("body_standard", "diar_standard"):
        export(tmp_path / "onnx", model)
    built = _run(ROOT / "ci" / "build-engines", "cpu", "--onnx", tmp_path / "onnx", "--out", tmp_path / "engines")
    assert built.returncode == 0, built.stderr
    return tmp_path / "engines"


def test_scripts_build_a_signed_release(engines: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    left = tmp_path / "temporary"
    left.mkdir()
    result = _run(ROOT / "ci" / "release", engines, "--out", tmp_path / "release", SIGNING_KEY=pem, TMPDIR=str(left))
    assert result.returncode == 0, result.stderr
    fingerprint = signature.fingerprint(key.public_key())
    assert f"release embedded/cpu     2 models, signed by {fingerprint}\n" in result.stderr
    made = load(tmp_path / "release" / "embedded" / "cpu")
    assert signature.verify(made, [key.public_key()]) is signature.Verdict.TRUSTED
    # The private key was in a temporary file.
    assert list(left.iterdir()) == []


def test_release_signs_no_bundle_that_it_rejects(engines: Path, tmp_path: Path) -> None:
    path = engines / "embedded" / "cpu" / "manifest.json"
    made = load(path.parent)
    gate = Gate(outcome=NOT_RUN, reason="no GPU", parity=())
    path.write_text(replace(made, engines=(replace(made.engines[0], gate=gate), *made.engines[1:])).to_json())
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    result = _run(ROOT / "ci" / "release", engines, "--out", tmp_path / "release", SIGNING_KEY=pem)
    assert result.returncode == ReleaseError.exit_code
    assert "its accuracy was not checked: no GPU" in result.stderr
    assert load(path.parent).signature is None
    assert not (tmp_path / "release").exists()


def test_release_without_key_needs_an_option(engines: Path, tmp_path: Path) -> None:
    refused = _run(ROOT / "ci" / "release", engines, "--out", tmp_path / "release")
    assert refused.returncode == 10
    assert refused.stderr.startswith("error: --trusted-key: it is missing")
    made = _run(
        ROOT / "ci" / "release", engines, "--out", tmp_path / "release", "--allow-unsigned", WITHOUT="sm75 sm90"
    )
    assert made.returncode == 0, made.stderr
