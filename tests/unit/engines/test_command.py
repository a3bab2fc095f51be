"""The command line: every refusal is one sentence with its exit code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from build import keys
from contract.manifest import load
from tests.fakes.driver import A100, fake_driver, needs_bindings, python
from tests.integration.networks import network
from tests.unit.engines.exported import export

ROOT = Path(__file__).parents[3]
NAMES = "am_en_enhanced, am_en_standard, body_enhanced, body_standard, decoder_enhanced, decoder_standard, "
NAMES += "diar_enhanced, diar_standard, lm_enhanced"
REFUSALS = {
    "--arch sm99": (
        10,
        "architecture 'sm99': it is not one that Voxwright builds for. "
        "Choose one of cpu, sm75, sm80, sm86, sm89, sm90.",
    ),
    "--arch sm90 --compiler tensorrt_rtx": (
        31,
        "--compiler tensorrt_rtx: TensorRT-RTX does not compile for sm90. "
        "Use sm75, sm80, sm86, sm89, or leave --compiler out.",
    ),
    "--arch cpu --compiler tensorrt": (
        31,
        "--arch cpu: TensorRT makes engines for GPUs only. Leave --compiler out.",
    ),
    "--arch sm80 --compiler onnxruntime": (
        31,
        "--compiler onnxruntime: it makes engines for the CPU, not for sm80. Leave --compiler out.",
    ),
    "--arch cpu --compiler nvcc": (
        10,
        "--compiler nvcc: it is not known. Choose one of tensorrt, tensorrt_rtx, onnxruntime.",
    ),
    "--arch cpu --platform 26.08": (
        31,
        "--platform 26.08: its server runs no CPU engines. Use --platform embedded.",
    ),
    "--arch cpu --compatibility ampere-plus": (
        10,
        "--compatibility: it has no meaning for onnxruntime. Leave it out, or use --compiler tensorrt.",
    ),
    "--arch sm80 --compiler tensorrt_rtx --workspace-gib 1": (
        10,
        "--workspace-gib: it has no meaning for tensorrt_rtx. Leave it out, or use --compiler tensorrt.",
    ),
    "--arch sm75 --compatibility ampere-plus": (
        10,
        "--compatibility ampere-plus: sm75 is Turing, and such an engine is built on Ampere or later for Ampere and "
        "later. Use --compatibility none, or build on another architecture.",
    ),
    "--arch sm80 --platform 25.01": (
        10,
        "platform '25.01': it is not known. Choose one of 26.08, 23.12, embedded, compile-check.",
    ),
    "--arch cpu --model nothing": (
        10,
        f"--model nothing: no engine is made for that name. Choose from {NAMES}.",
    ),
    "--arch cpu --model body_standard": (
        30,
        "nowhere/body_standard: no graph was exported there. Run `python -m export --model body_standard` first.",
    ),
    "--arch cpu": (
        30,
        "nowhere: no graph was exported there. Run `python -m export` first, or name its folder with --onnx.",
    ),
}


def _build(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "build.engines", *arguments, "--onnx", "nowhere", "--out", "nowhere"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", REFUSALS)
def test_refusals(arguments: str) -> None:
    code, sentence = REFUSALS[arguments]
    result = _build(*arguments.split())
    assert (result.returncode, result.stderr) == (code, f"error: {sentence}\n")
    assert not (ROOT / "nowhere").exists()


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("arch", "gpus"), [("sm75", "T4, RTX 20"), ("sm86", "A10, A40, RTX 30"), ("sm90", "H100, H200")]
)
def test_tensorrt_without_a_gpu_names_both_ways_on(arch: str, gpus: str) -> None:
    result = _build("--arch", arch)
    assert (result.returncode, result.stderr) == (
        31,
        f"error: --arch {arch}: TensorRT needs an {arch} GPU ({gpus}) to build for it, and no GPU was found here. "
        "Run the same command on a host with such a GPU inside the container of platform 26.08, "
        "or prove here that the graphs compile with `--compiler tensorrt_rtx`.\n",
    )


@needs_bindings
def test_tensorrt_on_another_gpu_says_which(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, **A100), "-m", "build.engines", "--arch", "sm86")
    assert (result.returncode, result.stderr) == (
        31,
        "error: --arch sm86: TensorRT needs an sm86 GPU (A10, A40, RTX 30) to build for it, "
        "and the GPU here is NVIDIA A100-SXM4-80GB, sm80. "
        "Run the same command on a host with such a GPU inside the container of platform 26.08, "
        "or prove here that the graphs compile with `--compiler tensorrt_rtx`.\n",
    )


@needs_bindings
def test_tensorrt_beside_several_gpus_says_which_it_would_use(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, GPUS="3", **A100), "-m", "build.engines", "--arch", "sm86")
    assert result.returncode == 31
    assert "and the first of the 3 visible GPUs is NVIDIA A100-SXM4-80GB, sm80. " in result.stderr
    assert " Choose the GPU with CUDA_VISIBLE_DEVICES, or run the same command on a host with such " in result.stderr


@needs_bindings
def test_a_driver_that_does_not_start_is_no_missing_gpu(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, INIT="803"), "-m", "build.engines", "--arch", "sm86")
    assert (result.returncode, result.stderr) == (
        40,
        "error: NVIDIA driver: it refuses: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH. "
        "See what `nvidia-smi` says, and repair the driver.\n",
    )


@needs_bindings
def test_the_right_gpu_without_tensorrt_says_where_it_is(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, **A100), "-m", "build.engines", "--arch", "sm80")
    assert (result.returncode, result.stderr) == (
        31,
        "error: --arch sm80: TensorRT is not installed here. "
        "Run the same command inside the container of platform 26.08, which carries 11.2.1.2.\n",
    )


def test_help_needs_no_library() -> None:
    script = "import sys, runpy; sys.modules |= dict.fromkeys(('torch', 'onnx', 'onnxruntime', 'polygraphy'))\n"
    script += "sys.argv = ['x', '--help']; runpy.run_module('build.engines', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--arch" in result.stdout


@pytest.mark.parametrize("module", ["export.__main__", "build.engines"])
def test_an_interrupt_has_its_own_exit_code(module: str) -> None:
    """click alone would end with 1."""
    script = (
        f"import os, signal, sys, {module} as room\n"
        # A test run in the background of a shell inherits an ignored SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "room.run = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "room.plan = lambda *_, **__: []\n"
        "sys.argv = ['x', *sys.argv[1:]]\n"
        "room.main()"
    )
    arguments = ["--arch", "cpu"] if module == "build.engines" else []
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.strip()) == (130, "interrupted")


def test_misuse_is_exit_code_2() -> None:
    result = _build("--arch", "cpu", "--unknown")
    assert result.returncode == 2
    assert "No such option" in result.stderr


@pytest.fixture
def graphs(tmp_path: Path) -> Path:
    for model in ("am_en_standard", "diar_standard"):
        export(tmp_path / "onnx", model)
    return tmp_path / "onnx"


def _run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_dry_run_says_what_and_why_and_builds_nothing(graphs: Path, tmp_path: Path) -> None:
    arguments = ("--arch", "cpu", "--mode", "batch", "--onnx", graphs, "--out", tmp_path / "engines")
    first = _run("build.engines", *arguments, "--dry-run")
    assert (first.returncode, first.stderr.splitlines()) == (
        0,
        [
            "build cpu am_en_standard batch     would be built: the bundle has none",
            "build cpu diar_standard batch      would be built: the bundle has none",
        ],
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx"]
    assert _run("build.engines", *arguments).returncode == 0
    assert _run("build.engines", *arguments, "--dry-run").stderr.splitlines()[0].endswith(" unchanged")
    forced = _run("build.engines", *arguments, "--dry-run", "--force").stderr.splitlines()[0]
    assert forced.endswith(" would be built: --force")


def test_json_says_what_became_of_every_engine(graphs: Path, tmp_path: Path) -> None:
    arguments = ("--arch", "cpu", "--mode", "batch", "--onnx", graphs, "--out", tmp_path / "engines", "--json")
    (made,) = json.loads(_run("build.engines", *arguments).stdout)["bundles"]
    assert (made["arch"], made["platform"], made["refusal"]) == ("cpu", "embedded", None)
    assert [(each["model"], each["outcome"]) for each in made["engines"]] == [
        ("am_en_standard", "built"),
        ("diar_standard", "built"),
    ]
    records = load(tmp_path / "engines" / "embedded" / "cpu").engines
    assert [each["key"] for each in made["engines"]] == [record.key for record in records]


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_all_architectures_end_in_a_table_of_what_this_host_can(graphs: Path, tmp_path: Path) -> None:
    result = _run("build.engines", "--arch", "all", "--mode", "batch", "--onnx", graphs, "--out", tmp_path / "engines")
    assert result.returncode == 0, result.stderr
    rows = [line.split("  ", 1) for line in result.stderr.splitlines()[-7:]]
    assert [row[0].strip() for row in rows] == ["arch", "cpu", "sm75", "sm80", "sm86", "sm89", "sm90"]
    assert "2 built" in rows[1][1]
    assert all("refused  --arch sm" in row[1] and "no GPU was found here" in row[1] for row in rows[2:])


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_all_architectures_on_a_host_that_can_make_none_is_a_refusal(graphs: Path, tmp_path: Path) -> None:
    arguments = ("--arch", "all", "--compiler", "tensorrt", "--onnx", graphs, "--out", tmp_path / "engines")
    result = _run("build.engines", *arguments)
    assert result.returncode == 31
    assert result.stderr.splitlines()[-1] == (
        "error: --arch all: this host can make engines for none of them. "
        "Run it in the container of a platform on a host with a GPU, or leave --compiler and --platform out."
    )


def test_a_damaged_graph_fails_all_architectures_too(graphs: Path, tmp_path: Path) -> None:
    (graphs / "diar_standard" / "fp32.onnx").write_bytes(b"")
    result = _run("build.engines", "--arch", "all", "--mode", "batch", "--onnx", graphs, "--out", tmp_path / "engines")
    assert result.returncode == 30
    assert result.stderr.splitlines()[-1].startswith(f"error: {graphs / 'diar_standard' / 'fp32.onnx'}: it is damaged")


def test_explain_prints_every_part_of_a_key_and_what_changed(graphs: Path, tmp_path: Path) -> None:
    arguments = ("--arch", "cpu", "--mode", "batch", "--onnx", graphs, "--out", tmp_path / "engines")
    _run("build.engines", *arguments)
    bundle = tmp_path / "engines" / "embedded" / "cpu"
    record = load(bundle).engines[1]
    said = _run("build.explain", bundle, "diar_standard").stdout.splitlines()
    assert said[0] == f"key {record.key}"
    assert [line.split()[0] for line in said[1:]] == list(dict(keys.flat(record.key_parts)))
    first = _run("build.explain", bundle, "diar_standard", "--why").stdout
    assert first == "diar_standard batch is the first engine here of this model, mode and bundle\n"
    changed = onnx.load_from_string(network("diar_standard"))
    changed.producer_name = "another exporter"
    export(graphs, "diar_standard", changed.SerializeToString())
    _run("build.engines", *arguments)
    why = _run("build.explain", bundle, "diar_standard", "--why").stdout.splitlines()
    assert [line.split(" was ")[0] for line in why] == ["graph", "reference"]
    refused = _run("build.explain", bundle, "lm_enhanced")
    assert (refused.returncode, refused.stderr) == (
        10,
        f"error: lm_enhanced batch: {bundle} holds no such engine. "
        "Choose one of: am_en_standard batch, diar_standard batch.\n",
    )


def test_the_store_is_listed_and_pruned(graphs: Path, tmp_path: Path) -> None:
    _run("build.engines", "--arch", "cpu", "--mode", "batch", "--onnx", graphs, "--out", tmp_path / "engines")
    shutil.rmtree(tmp_path / "engines")
    _run(
        "build.engines",
        "--arch",
        "cpu",
        "--mode",
        "batch",
        "--onnx",
        graphs,
        "--out",
        tmp_path / "engines",
        "--model",
        "diar_standard",
    )
    listed = _run("build.store", "--store", tmp_path / "store").stdout.splitlines()
    assert sorted(line.split(maxsplit=1)[1] for line in listed) == [
        "am_en_standard     batch     cpu   in no bundle",
        "diar_standard      batch     cpu   in a bundle",
    ]
    pruned = _run("build.store", "--store", tmp_path / "store", "--prune")
    assert [line.split()[1] for line in pruned.stdout.splitlines()] == ["am_en_standard"]
    left = _run("build.store", "--store", tmp_path / "store").stdout.splitlines()
    assert [line.split()[1] for line in left] == ["diar_standard"]
