"""The command lines of the build package: every error is one sentence with its exit code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from build import keys
from contract.manifest import load
from tests.fakes.driver import A100, BINDINGS, fake_driver, needs_bindings, python
from tests.integration.networks import network
from tests.unit.engines import commands
from tests.unit.engines.exported import export

ROOT = Path(__file__).parents[3]
NAMES = "am_en_enhanced, am_en_standard, body_enhanced, body_standard, decoder_enhanced, decoder_standard, "
NAMES += "diar_enhanced, diar_standard, lm_enhanced"
ERRORS = {
    "--arch sm99": (
        10,
        "architecture 'sm99': Voxwright does not build for it. Choose one of cpu, sm75, sm80, sm86, sm89, sm90.",
    ),
    "--arch sm90 --compiler tensorrt_rtx": (
        31,
        "--compiler tensorrt_rtx: TensorRT-RTX does not compile for sm90. "
        "Use sm75, sm80, sm86, sm89, or omit --compiler.",
    ),
    "--arch cpu --compiler tensorrt": (
        31,
        "--arch cpu: TensorRT builds engines for GPUs only. Omit --compiler.",
    ),
    "--arch sm80 --compiler onnxruntime": (
        31,
        "--compiler onnxruntime: it builds engines for the CPU, not for sm80. Omit --compiler.",
    ),
    "--arch cpu --compiler nvcc": (
        10,
        "--compiler nvcc: it is unknown. Choose one of tensorrt, tensorrt_rtx, onnxruntime.",
    ),
    "--arch cpu --platform 26.08": (
        31,
        "--platform 26.08: its server runs no CPU engines. Use --platform embedded.",
    ),
    "--arch cpu --compatibility ampere-plus": (
        10,
        "--compatibility: it does not apply to onnxruntime. Omit it, or use --compiler tensorrt.",
    ),
    "--arch sm80 --compiler tensorrt_rtx --workspace-gib 1": (
        10,
        "--workspace-gib: it does not apply to tensorrt_rtx. Omit it, or use --compiler tensorrt.",
    ),
    "--arch sm75 --compatibility ampere-plus": (
        10,
        "--compatibility ampere-plus: sm75 is Turing, and such an engine needs Ampere or later. "
        "Use --compatibility none, or build on another architecture.",
    ),
    "--arch sm80 --platform 25.01": (
        10,
        "platform '25.01': it is not known. Choose one of 26.08, 23.12, embedded, compile-check.",
    ),
    "--arch cpu --model nothing": (
        10,
        f"--model nothing: no engine has that name. Choose from {NAMES}.",
    ),
    "--arch cpu --model body_standard": (
        30,
        "nowhere/body_standard: no graph was exported there. Run `python -m export --model body_standard` first.",
    ),
    "--arch cpu": (
        30,
        "nowhere: it holds no exported graph. "
        "Run `python -m export` first, or name the folder of the graphs with --onnx.",
    ),
}


def _build(*arguments: str) -> commands.Finished:
    return commands.run("build.engines", *arguments, "--onnx", "nowhere", "--out", "nowhere")


@pytest.mark.parametrize("arguments", ERRORS)
def test_errors_are_one_sentence(arguments: str) -> None:
    code, sentence = ERRORS[arguments]
    result = _build(*arguments.split())
    assert (result.returncode, result.stderr) == (code, f"error: {sentence}\n")
    assert not Path("nowhere").exists()


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("arch", "gpus"), [("sm75", "T4, RTX 20"), ("sm86", "A10, A40, RTX 30"), ("sm90", "H100, H200")]
)
def test_tensorrt_without_gpu_names_both_alternatives(arch: str, gpus: str) -> None:
    result = _build("--arch", arch)
    assert (result.returncode, result.stderr) == (
        31,
        f"error: --arch {arch}: TensorRT needs an {arch} GPU ({gpus}) to build for it, and no GPU was found here. "
        "Run the same command on a host with such a GPU in NVIDIA's image nvcr.io/nvidia/tensorrt:26.08-py3, "
        "or in the image target `builder`, "
        "or prove here that the graphs compile with `--compiler tensorrt_rtx`.\n",
    )


@needs_bindings
def test_tensorrt_names_gpu_of_another_architecture(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, **A100), "-m", "build.engines", "--arch", "sm86")
    assert (result.returncode, result.stderr) == (
        31,
        "error: --arch sm86: TensorRT needs an sm86 GPU (A10, A40, RTX 30) to build for it, "
        "and the GPU here is NVIDIA A100-SXM4-80GB, sm80. "
        "Run the same command on a host with such a GPU in NVIDIA's image nvcr.io/nvidia/tensorrt:26.08-py3, "
        "or in the image target `builder`, "
        "or prove here that the graphs compile with `--compiler tensorrt_rtx`.\n",
    )


@needs_bindings
def test_tensorrt_names_first_of_several_gpus(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, GPUS="3", **A100), "-m", "build.engines", "--arch", "sm86")
    assert result.returncode == 31
    assert "and the first of the 3 visible GPUs is NVIDIA A100-SXM4-80GB, sm80. " in result.stderr
    assert " Select the GPU with CUDA_VISIBLE_DEVICES, or run the same command on a host with such " in result.stderr


@needs_bindings
def test_driver_failure_is_not_a_missing_gpu(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, INIT="999"), "-m", "build.engines", "--arch", "sm86")
    assert (result.returncode, result.stderr) == (
        40,
        "error: NVIDIA driver: it does not start: CUDA_ERROR_UNKNOWN. "
        "Check the output of `nvidia-smi`, and reinstall the driver.\n",
    )


@needs_bindings
def test_driver_that_is_too_old_is_not_a_missing_gpu(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, driver="470.256.02", CUDA="11040"), "-m", "build.engines", "--arch", "sm75")
    assert (result.returncode, result.stderr) == (
        40,
        f"error: NVIDIA driver: libcuda.so.1 supports CUDA 11.4, which is too old for {BINDINGS} "
        "(Failed to get cuGetProcAddress_v2). Install a driver that supports CUDA 12.0 or later.\n",
    )


@needs_bindings
def test_right_gpu_without_tensorrt_names_the_container(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, **A100), "-m", "build.engines", "--arch", "sm80")
    assert (result.returncode, result.stderr) == (
        31,
        "error: --arch sm80: TensorRT 11.2.1.2 is not installed here. "
        "Run the same command in NVIDIA's image nvcr.io/nvidia/tensorrt:26.08-py3, or in the image target `builder`.\n",
    )


def test_help_needs_no_library() -> None:
    script = "import sys, runpy; sys.modules |= dict.fromkeys(('torch', 'onnx', 'onnxruntime', 'polygraphy'))\n"
    script += "sys.argv = ['x', '--help']; runpy.run_module('build.engines', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--arch" in result.stdout


@pytest.mark.parametrize("module", ["export.__main__", "build.engines"])
def test_interrupt_has_its_own_exit_code(module: str) -> None:
    """click itself would exit with 1."""
    script = (
        f"import os, signal, sys, {module} as package\n"
        # A test in the background of a shell inherits an ignored SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "package.run = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "package.plan = lambda *_, **__: []\n"
        "sys.argv = ['x', *sys.argv[1:]]\n"
        "package.main()"
    )
    arguments = ["--arch", "cpu"] if module == "build.engines" else []
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.strip()) == (130, "interrupted")


def test_misuse_is_exit_code_2() -> None:
    command = [sys.executable, "-m", "build.engines", "--arch", "cpu", "--unknown"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "No such option" in result.stderr


@pytest.fixture
def graphs(tmp_path: Path) -> Path:
    for model in ("am_en_standard", "diar_standard"):
        export(tmp_path / "onnx", model)
    return tmp_path / "onnx"


def test_dry_run_prints_reasons_and_builds_nothing(graphs: Path, tmp_path: Path) -> None:
    arguments = ("--arch", "cpu", "--mode", "batch", "--onnx", graphs, "--out", tmp_path / "engines")
    first = commands.run("build.engines", *arguments, "--dry-run")
    assert (first.returncode, first.stderr.splitlines()) == (
        0,
        [
            "build cpu am_en_standard batch     fp32 would be built: it is not in the bundle",
            "build cpu diar_standard batch      fp32 would be built: it is not in the bundle",
        ],
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx"]
    assert commands.run("build.engines", *arguments).returncode == 0
    assert commands.run("build.engines", *arguments, "--dry-run").stderr.splitlines()[0].endswith(" fp32 unchanged")
    forced = commands.run("build.engines", *arguments, "--dry-run", "--force").stderr.splitlines()[0]
    assert forced.endswith(" would be built: --force")


def test_json_lists_every_engine(graphs: Path, tmp_path: Path) -> None:
    arguments = ("--arch", "cpu", "--mode", "batch", "--onnx", graphs, "--out", tmp_path / "engines", "--json")
    (made,) = json.loads(commands.run("build.engines", *arguments).stdout)["bundles"]
    assert (made["arch"], made["platform"], made["refusal"]) == ("cpu", "embedded", None)
    assert [(each["model"], each["precision"], each["outcome"]) for each in made["engines"]] == [
        ("am_en_standard", "fp32", "built"),
        ("diar_standard", "fp32", "built"),
    ]
    records = load(tmp_path / "engines" / "embedded" / "cpu").engines
    assert [each["key"] for each in made["engines"]] == [record.key for record in records]


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_all_architectures_print_a_table(graphs: Path, tmp_path: Path) -> None:
    result = commands.run(
        "build.engines", "--arch", "all", "--mode", "batch", "--onnx", graphs, "--out", tmp_path / "engines"
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split("  ", 1) for line in result.stderr.splitlines()[-7:]]
    assert [row[0].strip() for row in rows] == ["arch", "cpu", "sm75", "sm80", "sm86", "sm89", "sm90"]
    assert "2 built" in rows[1][1]
    assert all("refused  --arch sm" in row[1] and "no GPU was found here" in row[1] for row in rows[2:])


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_all_architectures_fail_where_none_can_be_built(graphs: Path, tmp_path: Path) -> None:
    arguments = ("--arch", "all", "--compiler", "tensorrt", "--onnx", graphs, "--out", tmp_path / "engines")
    result = commands.run("build.engines", *arguments)
    assert result.returncode == 31
    assert result.stderr.splitlines()[-1] == (
        "error: --arch all: this host can build engines for none of them. "
        "Run it on a host with a GPU in NVIDIA's TensorRT image, or omit --compiler and --platform."
    )


def test_damaged_graph_fails_all_architectures(graphs: Path, tmp_path: Path) -> None:
    (graphs / "diar_standard" / "fp32.onnx").write_bytes(b"")
    result = commands.run(
        "build.engines", "--arch", "all", "--mode", "batch", "--onnx", graphs, "--out", tmp_path / "engines"
    )
    assert result.returncode == 30
    assert result.stderr.splitlines()[-1].startswith(f"error: {graphs / 'diar_standard' / 'fp32.onnx'}: it is damaged")


def test_explain_prints_key_parts_and_changes(graphs: Path, tmp_path: Path) -> None:
    arguments = ("--arch", "cpu", "--mode", "batch", "--onnx", graphs, "--out", tmp_path / "engines")
    commands.run("build.engines", *arguments)
    bundle = tmp_path / "engines" / "embedded" / "cpu"
    record = load(bundle).engines[1]
    printed = commands.run("build.explain", bundle, "diar_standard").stdout.splitlines()
    assert printed[0] == f"key {record.key}"
    assert [line.split()[0] for line in printed[1:]] == list(dict(keys.flat(record.key_parts)))
    first = commands.run("build.explain", bundle, "diar_standard", "--why").stdout
    assert first == "diar_standard batch is the first engine of this model and mode in this bundle\n"
    changed = onnx.load_from_string(network("diar_standard"))
    changed.producer_name = "another exporter"
    export(graphs, "diar_standard", changed.SerializeToString())
    commands.run("build.engines", *arguments)
    why = commands.run("build.explain", bundle, "diar_standard", "--why").stdout.splitlines()
    assert [line.split(" was ")[0] for line in why] == ["graph", "reference"]
    refused = commands.run("build.explain", bundle, "lm_enhanced")
    assert (refused.returncode, refused.stderr) == (
        10,
        f"error: lm_enhanced batch: it is not in the bundle {bundle}. "
        "Choose one of: am_en_standard batch, diar_standard batch.\n",
    )


def test_lists_and_prunes_store(graphs: Path, tmp_path: Path) -> None:
    commands.run("build.engines", "--arch", "cpu", "--mode", "batch", "--onnx", graphs, "--out", tmp_path / "engines")
    shutil.rmtree(tmp_path / "engines")
    commands.run(
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
    listed = commands.run("build.store", "--store", tmp_path / "store").stdout.splitlines()
    assert sorted(line.split(maxsplit=1)[1] for line in listed) == [
        "am_en_standard     batch     cpu   in no bundle",
        "diar_standard      batch     cpu   in a bundle",
    ]
    pruned = commands.run("build.store", "--store", tmp_path / "store", "--prune")
    assert [line.split()[1] for line in pruned.stdout.splitlines()] == ["am_en_standard"]
    left = commands.run("build.store", "--store", tmp_path / "store").stdout.splitlines()
    assert [line.split()[1] for line in left] == ["diar_standard"]
