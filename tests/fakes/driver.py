"""NVIDIA drivers of every kind: a C file compiled to libcuda.so.1, which the real cuda-bindings then load."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("libcuda.c")
ROOT = Path(__file__).parents[2]
T4 = {"NAME": '"Tesla T4"', "MAJOR": "7", "MINOR": "5", "GIBIBYTES": "15"}
A100 = {"NAME": '"NVIDIA A100-SXM4-80GB"', "MAJOR": "8", "MINOR": "0", "GIBIBYTES": "80"}
V100 = {"NAME": '"Tesla V100-SXM2-16GB"', "MAJOR": "7", "MINOR": "0", "GIBIBYTES": "16"}

needs_bindings = pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None or shutil.which("gcc") is None, reason="needs cuda-bindings and gcc"
)


def fake_driver(folder: Path, **macros: str) -> Path:
    """Compile a driver; give the folder to put on LD_LIBRARY_PATH."""
    values = {"INIT": "0", "CUDA": "13000", "GPUS": "1", **T4, **macros}
    flags = [f"-D{name}={value}" for name, value in values.items()]
    library = folder / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", *flags, "-o", library, SOURCE, "-ldl"], check=True)
    return folder


def python(library: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(library or "")}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=ROOT, check=False
    )
