"""Prepare the server of arch cpu: the tritonserver of nvidia-pytriton's wheel, and our Python backend for it."""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contract import files
from contract.errors import ServerUnavailableError, SettingError
from runtime import shared_memory
from runtime.server import Server

_BACKENDS = Path(__file__).with_name("backends")
_STUB = "triton_python_backend_stub"
_BACKEND_NAMES = frozenset({"python", "onnxruntime"})
_PACKAGES = {"nvidia-pytriton": "pytriton", "numpy": "numpy", "onnxruntime": "onnxruntime"}
_INSTALL = "Install it with `pip install 'voxwright[embedded]'`"
_MEBIBYTE = 1 << 20
# A model's region grows on demand. A small start leaves room in the 64 MiB that Docker gives a container by default.
_REGION_BYTES = _MEBIBYTE


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """The parts of nvidia-pytriton's wheel that are used. Its Python API is not used."""

    server: Path
    python_backend: Path
    stub: Path
    libraries: Path
    libpython: tuple[Path, ...] = ()
    """The folder of libpython, where the loader does not find it by itself."""


def locate() -> Wheel:
    """Return the parts of the wheel, found without importing it.

    Raise ServerUnavailableError when the wheel, its stub for this Python, a package of our backend, or the shared
    library of this Python is absent.
    """
    root, *_ = (_package(name, module) for name, module in _PACKAGES.items())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = Wheel(
        server=root / "tritonserver" / "bin" / "tritonserver",
        python_backend=root / "tritonserver" / "backends" / "python",
        stub=root / "tritonserver" / "python_backend_stubs" / python / _STUB,
        libraries=root.parent / "nvidia_pytriton.libs",
        libpython=_libpython_folders(),
    )
    if not wheel.stub.is_file():
        offered = ", ".join(sorted(path.parent.name for path in wheel.stub.parent.parent.glob(f"*/{_STUB}"))) or "none"
        cause = f"nvidia-pytriton has no stub for Python {python}"
        raise ServerUnavailableError(
            "embedded tritonserver", cause, f"Use a Python version for which it has one: {offered}"
        )
    if not wheel.server.is_file():
        raise ServerUnavailableError(wheel.server, "nvidia-pytriton is damaged: the server binary is missing", _INSTALL)
    return wheel


def backends_of(repository: Path) -> Path:
    """Return the folder of backends of the server with a repository, next to it."""
    return repository.with_name(f"{repository.name}.backends")


def prepare(wheel: Wheel, backends: Path, environment: Mapping[str, str]) -> Server:
    """Write the folder from which the server loads its backends, and return how to start the server."""
    with files.replacing(backends) as staging:
        shutil.copytree(wheel.python_backend, staging / "python", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(wheel.stub, staging / "python" / _STUB)
        shutil.copytree(_BACKENDS / "onnxruntime", staging / "onnxruntime", ignore=_only_model)
    regions = {"shm-default-byte-size": str(_REGION_BYTES), "shm-region-prefix-name": shared_memory.prefix()}
    return Server(
        executable=wheel.server,
        flags=(
            f"--backend-directory={backends}",
            # Settings of the backend named `python` apply to every Python-based backend.
            *(f"--backend-config=python,{key}={value}" for key, value in regions.items()),
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
        ),
        environment={**environment, **_environment(wheel, environment)},
    )


def check_backends(backends: Path) -> None:
    """Raise SettingError for a folder of backends with other content, which would be lost."""
    if backends.exists() and not (backends.is_dir() and {entry.name for entry in backends.iterdir()} <= _BACKEND_NAMES):
        cause = "it exists and has other content than the backends of a server; all of it would be replaced"
        raise SettingError(backends, cause, "Remove it, or name another folder with --repository")


def _package(name: str, module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ServerUnavailableError("embedded tritonserver", f"{name} is not installed", _INSTALL)
    return Path(spec.submodule_search_locations[0])


def _environment(wheel: Wheel, environment: Mapping[str, str]) -> dict[str, str]:
    libraries = [str(wheel.libraries), *map(str, wheel.libpython), environment.get("LD_LIBRARY_PATH", "")]
    return {
        "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
        # The stub's interpreter is isolated: it ignores PYTHONPATH and PYTHONHOME. It takes its packages, those of a
        # virtual environment too, from the location of the first `python3` on the PATH.
        "PATH": f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}",
        # The backend uses NumPy only to copy arrays; without this each model would hold a pool of idle threads.
        "OPENBLAS_NUM_THREADS": "1",
        # Otherwise the wheel of ONNX Runtime stores events in the home folder and sends them to its vendor.
        "ORT_DISABLE_TELEMETRY": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _libpython_folders() -> tuple[Path, ...]:
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folder, triplet = sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("MULTIARCH") or ""
    candidates = [Path(sys.base_prefix) / "lib", Path(folder), Path(folder) / triplet]
    for candidate in candidates:
        if (candidate / name).is_file():
            return (candidate,)
    import ctypes.util  # noqa: PLC0415 - most starts return above, and it imports subprocess

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if ctypes.util.find_library(f"python{version}"):
        return ()
    raise ServerUnavailableError(
        name,
        "this Python has no shared library; the server's backend needs it",
        f"Install the package libpython{version} (Debian, Ubuntu), or use a Python built with --enable-shared",
    )


def _only_model(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name != "model.py"]
