"""The server of arch cpu: the tritonserver inside nvidia-pytriton's wheel, with a Python-based backend of ours."""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contract import files
from contract.errors import ServerUnavailableError
from runtime import shared_memory
from runtime.server import Server

_BACKENDS = Path(__file__).with_name("backends")
_STUB = "triton_python_backend_stub"
_PACKAGES = {"nvidia-pytriton": "pytriton", "numpy": "numpy", "onnxruntime": "onnxruntime"}
_INSTALL = "Install it with `pip install 'voxwright[embedded]'`"
_MEBIBYTE = 1 << 20
# A model's region grows by itself. Starting small leaves room in the 64 MiB that Docker gives a container by default.
_REGION_BYTES = _MEBIBYTE


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """The parts of nvidia-pytriton's wheel that are used; its Python API is not."""

    server: Path
    python_backend: Path
    stub: Path
    libraries: Path


def locate() -> Wheel:
    """Find the wheel without importing it.

    Raise ServerUnavailableError when it, its stub for this Python, or a package of our backend is absent.
    """
    root, *_ = (_package(name, module) for name, module in _PACKAGES.items())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = Wheel(
        server=root / "tritonserver" / "bin" / "tritonserver",
        python_backend=root / "tritonserver" / "backends" / "python",
        stub=root / "tritonserver" / "python_backend_stubs" / python / _STUB,
        libraries=root.parent / "nvidia_pytriton.libs",
    )
    if not wheel.stub.is_file():
        offered = ", ".join(sorted(path.parent.name for path in wheel.stub.parent.parent.glob(f"*/{_STUB}"))) or "none"
        cause = f"nvidia-pytriton has no stub for Python {python}"
        raise ServerUnavailableError("embedded tritonserver", cause, f"Use one of the Pythons it has: {offered}")
    if not wheel.server.is_file():
        raise ServerUnavailableError(wheel.server, "nvidia-pytriton is damaged: the server is missing", _INSTALL)
    return wheel


def prepare(wheel: Wheel, backends: Path, environment: Mapping[str, str]) -> Server:
    """Write the backend folder that the server loads its backends from, and say how to start it."""
    with files.replacing(backends) as staging:
        shutil.copytree(wheel.python_backend, staging / "python", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(wheel.stub, staging / "python" / _STUB)
        shutil.copytree(_BACKENDS / "onnxruntime", staging / "onnxruntime", ignore=_only_model)
    regions = {"shm-default-byte-size": str(_REGION_BYTES), "shm-region-prefix-name": shared_memory.prefix()}
    return Server(
        executable=wheel.server,
        flags=(
            f"--backend-directory={backends}",
            # The backend named `python` configures every Python-based one.
            *(f"--backend-config=python,{key}={value}" for key, value in regions.items()),
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
        ),
        environment={**environment, **_environment(wheel, environment)},
    )


def _package(name: str, module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ServerUnavailableError("embedded tritonserver", f"{name} is not installed", _INSTALL)
    return Path(spec.submodule_search_locations[0])


def _environment(wheel: Wheel, environment: Mapping[str, str]) -> dict[str, str]:
    libraries = [str(wheel.libraries), *_libpython_folders(), environment.get("LD_LIBRARY_PATH", "")]
    return {
        "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
        # The stub's interpreter is isolated: it ignores PYTHONPATH and PYTHONHOME, and takes its packages, a virtual
        # environment's too, from where it finds the first `python3` on the PATH.
        "PATH": f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}",
        # NumPy only moves arrays there; without this each model would hold a pool of idle threads.
        "OPENBLAS_NUM_THREADS": "1",
        # Otherwise its wheel keeps events in the home folder and tells its maker of them.
        "ORT_DISABLE_TELEMETRY": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _libpython_folders() -> list[str]:
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folder, triplet = sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("MULTIARCH") or ""
    candidates = [Path(sys.base_prefix) / "lib", Path(folder), Path(folder) / triplet]
    for candidate in candidates:
        if (candidate / name).is_file():
            return [str(candidate)]
    import ctypes.util  # noqa: PLC0415 - most starts end above, and it brings subprocess along

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if ctypes.util.find_library(f"python{version}"):
        return []
    raise ServerUnavailableError(
        name,
        "this Python has no shared library, which the server's backend needs",
        f"Install the package libpython{version} (Debian, Ubuntu), or use a Python built with --enable-shared",
    )


def _only_model(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name != "model.py"]
