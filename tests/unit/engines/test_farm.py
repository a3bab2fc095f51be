"""The farm: scripts, workflow and Kubernetes Jobs, each checked by its own tool, and no architecture forgotten."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from build import farm
from contract import signature
from contract.arch import Arch
from contract.errors import SettingError
from contract.manifest import load
from contract.platform import platform
from tests.unit.engines.exported import export

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted([*(ROOT / "ci").iterdir(), ROOT / ".ci" / "run"])
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
def test_scripts_are_strict_and_clean(script: Path) -> None:
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text or text.splitlines()[-1].startswith("exec ")
    command = [str(Path(sys.executable).with_name("shellcheck")), "--enable=check-unassigned-uppercase", str(script)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_fit_githubs_schema(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_hold_no_logic(path: Path) -> None:
    steps = [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]
    for step in steps:
        if "run" in step:
            script = step["run"].split()[0]
            assert re.fullmatch(r"ci/[a-z-]+", script), step
            assert os.access(ROOT / script, os.X_OK)
            assert not re.search(r"[\n;|&`]|\$\(", step["run"]), step
            # What a person typed is no part of a command line: it comes through the environment.
            assert "inputs." not in step["run"], step


def test_the_workflow_has_every_architecture() -> None:
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


def test_the_workflow_builds_in_the_container_of_the_platform() -> None:
    workflow = _workflow()
    # YAML reads the key `on` as a truth.
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
        assert found[1].replace("{0}", name) == farm.image(platform(name))


def test_only_the_release_sees_the_signing_key() -> None:
    jobs = _workflow()["jobs"]
    assert [name for name, job in jobs.items() if "secrets." in yaml.safe_dump(job)] == ["release"]
    assert jobs["release"]["environment"] == "release"


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", farm.gpu_platforms())
def test_jobs_fit_kubernetes_schema(name: str, version: str) -> None:
    volume = yaml.safe_load((DEPLOY / "volume.yaml").read_text())
    for each in [*_jobs(name), volume]:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("name", farm.gpu_platforms())
def test_every_architecture_has_a_job_on_a_gpu_of_it(name: str) -> None:
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
        assert container["image"] == (farm.CPU_IMAGE if capability is None else farm.image(platform(name)))
        assert container["command"][:2] == ["/farm/checkout/ci/build-engines", arch.value]
        assert ("--platform" in container["command"]) == (capability is not None)


def test_pods_have_no_rights_that_they_do_not_need() -> None:
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


def test_a_refusal_is_not_tried_again() -> None:
    (job, *_) = _jobs("26.08")
    values = job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
    assert values == farm.refusals()
    assert {2, 10, 30, 31, 32, 33} <= set(values)
    # A full disk or a node that went away may be better the next time.
    assert not {0, 1, 13, 130, 137, 143} & set(values)


def test_the_claim_and_the_image_can_be_named() -> None:
    text = farm.manifests(platform("26.08"), "engines-2", 'mirror.example/"tensorrt":1')
    jobs = [each for each in yaml.safe_load_all(text) if each]
    assert _container(jobs[1])["image"] == 'mirror.example/"tensorrt":1'
    assert {job["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] for job in jobs} == {
        "engines-2"
    }


@pytest.mark.parametrize(
    ("name", "claim", "sentence"),
    [
        (
            "embedded",
            "farm",
            "--platform embedded: no farm is needed for it: it has no TensorRT. Choose one of 26.08, 23.12.",
        ),
        (
            "26.08",
            "Farm: x",
            "--claim Farm: x: Kubernetes has no such names. Use small letters, digits and dashes.",
        ),
    ],
)
def test_refusals(name: str, claim: str, sentence: str) -> None:
    with pytest.raises(SettingError) as refusal:
        farm.manifests(platform(name), claim)
    assert str(refusal.value) == sentence


def _run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {**os.environ, "VOXWRIGHT_PYTHON": sys.executable, **environment}
    return subprocess.run(
        list(map(str, command)), cwd=ROOT.parent, env=inherited, capture_output=True, text=True, check=False
    )


def test_the_command_writes_the_jobs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build.farm"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    subprocess.run([*command, "--output", tmp_path / "jobs.yaml"], cwd=ROOT, check=True)
    assert (tmp_path / "jobs.yaml").read_text() == printed == farm.manifests(platform("26.08"), "voxwright-farm")


@pytest.mark.parametrize("script", ["python", "build-engines", "release"])
def test_scripts_say_how_to_call_them(script: str) -> None:
    result = _run(ROOT / "ci" / script)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"usage: ci/{script} ")


def test_a_refusal_passes_through_the_script() -> None:
    result = _run(ROOT / "ci" / "build-engines", "sm70")
    assert result.returncode == SettingError.exit_code
    assert result.stderr.startswith("error: architecture 'sm70': it is not one that Voxwright builds for.")


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """Engines for the CPU, built by the farm's own script."""
    for model in ("body_standard", "diar_standard"):
        export(tmp_path / "onnx", model)
    built = _run(ROOT / "ci" / "build-engines", "cpu", "--onnx", tmp_path / "onnx", "--out", tmp_path / "engines")
    assert built.returncode == 0, built.stderr
    return tmp_path / "engines"


def test_the_scripts_take_graphs_to_a_signed_release(engines: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    left = tmp_path / "temporary"
    left.mkdir()
    result = _run(ROOT / "ci" / "release", engines, "--out", tmp_path / "release", SIGNING_KEY=pem, TMPDIR=str(left))
    assert result.returncode == 0, result.stderr
    fingerprint = signature.fingerprint(key.public_key())
    assert f"release embedded/cpu     2 models, signed by {fingerprint}\n" in result.stderr
    made = load(tmp_path / "release" / "embedded" / "cpu")
    assert signature.judge(made, [key.public_key()]) is signature.Verdict.TRUSTED
    # The private key was in a file for a moment.
    assert list(left.iterdir()) == []


def test_a_release_without_a_key_has_to_be_asked_for(engines: Path, tmp_path: Path) -> None:
    refused = _run(ROOT / "ci" / "release", engines, "--out", tmp_path / "release")
    assert refused.returncode == 10
    assert refused.stderr.startswith("error: --trusted-key: it is not given")
    made = _run(
        ROOT / "ci" / "release", engines, "--out", tmp_path / "release", "--allow-unsigned", WITHOUT="sm75 sm90"
    )
    assert made.returncode == 0, made.stderr
