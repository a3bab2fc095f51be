"""Build fake NVIDIA drivers: C files compiled to the driver's libraries, which the real Python bindings load."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

FAKES = Path(__file__).parent
ROOT = FAKES.parents[1]
LIBRARIES = {"libcuda.so.1": "libcuda.c", "libnvidia-ml.so.1": "libnvidia_ml.c"}
RUNTIME = ("libcudart.so", "libcudart.c")


def card(name: str, capability: str, mebibytes: int, mig: int = -1) -> dict[str, str]:
    """Return the macros of a GPU; `mig` is -1 where the GPU has no MIG mode, 0 where it is off, 1 where it is on."""
    major, minor = capability.split(".")
    return {"NAME": f'"{name}"', "MAJOR": major, "MINOR": minor, "MEBIBYTES": str(mebibytes), "MIG": str(mig)}


T4 = card("Tesla T4", "7.5", 14913)
A100 = card("NVIDIA A100-SXM4-80GB", "8.0", 81038, mig=0)
A100_SLICE = card("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "8.0", 19968, mig=1)
A100_SMALL_SLICE = card("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "8.0", 4864, mig=1)
A10 = card("NVIDIA A10", "8.6", 22591)
RTX3070 = card("NVIDIA GeForce RTX 3070", "8.6", 7973)
RTX3090 = card("NVIDIA GeForce RTX 3090", "8.6", 24253)
L4 = card("NVIDIA L4", "8.9", 22478)
H100 = card("NVIDIA H100 80GB HBM3", "9.0", 81004, mig=0)
V100 = card("Tesla V100-SXM2-16GB", "7.0", 16144)
B200 = card("NVIDIA B200", "10.0", 182642, mig=0)

needs_bindings = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("cuda", "pynvml")) or shutil.which("gcc") is None,
    reason="needs cuda-bindings, nvidia-ml-py and gcc",
)

BINDINGS = f"cuda-bindings {importlib.metadata.version('cuda-bindings')}" if importlib.util.find_spec("cuda") else ""
"""The bindings as sentences name them."""


def fake_driver(folder: Path, driver: str = "580.65.06", **macros: str) -> Path:
    """Compile a driver; return the folder for LD_LIBRARY_PATH. NVML is an error number, 0 for success, or "absent".

    With CUDA below 12000 it is a driver like R470: it has only the first version of cuGetProcAddress.
    """
    values = {"INIT": "0", "CUDA": "13000", "GPUS": "1", "NVML": "0", "DRIVER": f'"{driver}"', **T4, **macros}
    values.setdefault("FREE", values["MEBIBYTES"])
    flags = tuple(f"-D{name}={value}" for name, value in values.items())
    for library, source in LIBRARIES.items():
        if library == "libcuda.so.1" or values["NVML"] != "absent":
            (folder / library).write_bytes(_compiled(source, flags))
    return folder


def build_host(folder: Path, tensorrt: str, **macros: str) -> Path:
    """Write a host that builds engines: a driver, a CUDA runtime and a TensorRT of a version; return its folder."""
    fake_driver(folder, **macros)
    name, source = RUNTIME
    (folder / name).write_bytes(_compiled(source, ()))
    package = folder / "packages" / "tensorrt"
    package.mkdir(parents=True)
    script = "import sys\nfrom tests.fakes.tensorrt import install\n"
    (package / "__init__.py").write_text(f"{script}install(sys.modules[__name__], {tensorrt!r})\n")
    return folder


@cache
def _compiled(source: str, flags: tuple[str, ...]) -> bytes:
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Wno-type-limits", "-Werror", *flags]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "library.so")
        subprocess.run([*command, "-o", str(target), str(FAKES / source), "-ldl"], check=True)
        return target.read_bytes()


def python(
    library: Path | None, *arguments: str, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with a fake driver, in the root of the checkout or in another folder."""
    packages = [str(ROOT), *([str(library / "packages")] if library else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(packages), "LD_LIBRARY_PATH": str(library or "")}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    return subprocess.run(
        [sys.executable, *arguments], env=environment | variables, capture_output=True, text=True, cwd=cwd, check=False
    )
