"""The command line: every refusal is one sentence with its exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.driver import A100, fake_driver, needs_bindings, python

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
    assert result.returncode == 31
    assert "TensorRT needs an sm86 GPU (A10, A40, RTX 30) to build for it, and the GPU here is sm80." in result.stderr


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
