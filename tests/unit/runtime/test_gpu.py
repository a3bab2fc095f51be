"""Detection against the real cuda-bindings and a driver library that these tests compile."""

import json
from pathlib import Path

import pytest

from tests.fakes.driver import A100, T4, V100, fake_driver, needs_bindings, python

DETECT = """
import dataclasses, json
from contract.errors import guard
from runtime import gpu
guard(lambda: print(json.dumps((found := gpu.detect()) and dataclasses.asdict(found))))
"""


@needs_bindings
@pytest.mark.parametrize(
    ("macros", "capability"), [(T4, [7, 5]), (A100, [8, 0]), (V100, [7, 0])], ids=["T4", "A100", "V100"]
)
def test_describes_the_gpu(tmp_path: Path, macros: dict[str, str], capability: list[int]) -> None:
    result = python(fake_driver(tmp_path, **macros), "-c", DETECT)
    assert result.stderr == ""
    assert json.loads(result.stdout) == {
        "name": json.loads(macros["NAME"]),
        "capability": capability,
        "memory_bytes": int(macros["GIBIBYTES"]) << 30,
        "cuda": [13, 0],
    }


@needs_bindings
def test_two_gpus_are_refused(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, GPUS="2"), "-c", DETECT)
    assert result.returncode == 40
    assert result.stderr == (
        "error: 2 GPUs: exactly one may be visible to a server. "
        "Choose one with CUDA_VISIBLE_DEVICES=0, or in a container with `--gpus device=0`.\n"
    )


@needs_bindings
@pytest.mark.parametrize("macros", [{"GPUS": "0"}, {"INIT": "100"}, {"INIT": "34"}], ids=["none", "no device", "stub"])
def test_no_gpu(tmp_path: Path, macros: dict[str, str]) -> None:
    result = python(fake_driver(tmp_path, **macros), "-c", DETECT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "null\n", "")


@needs_bindings
def test_a_driver_that_does_not_start_is_no_missing_gpu(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, INIT="803"), "-c", DETECT)
    assert result.returncode == 40
    assert result.stderr == (
        "error: NVIDIA driver: it does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH. "
        "See what `nvidia-smi` says, and repair the driver.\n"
    )


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_no_driver() -> None:
    result = python(None, "-c", DETECT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "null\n", "")


def test_no_bindings() -> None:
    result = python(None, "-c", f"import sys\nsys.modules['cuda'] = None\n{DETECT}")
    assert (result.returncode, result.stdout, result.stderr) == (0, "null\n", "")


@needs_bindings
def test_start_refuses_an_unsupported_gpu(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, **V100), "-m", "runtime", "--engines", str(tmp_path))
    assert result.returncode == 40
    assert result.stderr == (
        "error: GPU Tesla V100-SXM2-16GB: its compute capability 7.0 is not supported. "
        "Use a GPU of compute capability 7.5, 8.0, 8.6, 8.9, 9.0, or the CPU platform.\n"
    )


@needs_bindings
def test_start_wants_engines_of_the_gpu(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, **A100), "-m", "runtime", "--engines", str(tmp_path))
    assert result.returncode == 41
    assert "voxwright: GPU NVIDIA A100-SXM4-80GB: serving arch sm80\n" in result.stderr
    assert "`python -m build.engines --arch sm80 --platform 26.08`" in result.stderr
