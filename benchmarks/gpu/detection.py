"""The step detect: this host as detection, preflight, doctor and nvidia-smi see it, and the libraries' versions."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu import engines, graphs, results
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import StepFailedError
from contract.arch import Arch
from contract.errors import SettingError, VoxwrightError
from runtime import gpu as runtime_gpu

_ROOT = Path(__file__).parents[2]
_COMMAND_S = 20
# Without one of these, no engine can be built and gated.
_NEEDED = ("gpu", "tensorrt", "cuda_runtime")
_LIBRARIES = (
    *("tensorrt", "cuda-bindings", "nvidia-ml-py", "polygraphy", "onnx", "onnxruntime", "onnxruntime-gpu"),
    *("numpy", "torch", "tritonclient", "matplotlib"),
)
_TORCH = (
    "import json, torch; print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda, "
    "'gpu': torch.cuda.get_device_name(0) if torch.cuda.is_available() else None}))"
)


def run(settings: Settings) -> dict[str, Any]:
    """Describe the host; raise StepFailedError where it has no GPU of the wanted architecture and no usable TensorRT.

    Raises SettingError where the results folder holds the results of another GPU.
    """
    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "libraries": libraries(),
        "torch": _torch(settings),
        "gpu": results.attempt(lambda: _gpu(settings)),
        "tensorrt": results.attempt(lambda: _tensorrt(settings)),
        "cuda_runtime": results.attempt(engines.cuda_runtime),
        "detection": results.attempt(lambda: asdict(runtime_gpu.detect(os.environ))),
        "doctor": doctor(),
        "nvidia_smi": nvidia_smi(),
        "tools": {name: shutil.which(name) for name in ("nvidia-smi", "tritonserver", "trtexec", "g++")},
    }
    failures = results.failures({name: found[name] for name in _NEEDED})
    if failures:
        raise _failed(found, failures)
    _check_same_host(settings, found)
    return found


def libraries() -> dict[str, str | None]:
    """Return the versions of the libraries that decide a measurement; None for an absent one."""
    return {name: _version(name) for name in _LIBRARIES}


def doctor() -> dict[str, Any]:
    """Run `python -m runtime.doctor --json`; a refusal is a finding, and no failure."""
    command = [sys.executable, "-m", "runtime.doctor", "--json"]
    done = subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": _path()}
    )
    try:
        printed: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        printed = {"output": done.stdout[-2000:], "errors": done.stderr[-2000:]}
    return {"exit_code": done.returncode, "printed": printed}


def nvidia_smi() -> dict[str, str]:
    """Return what `nvidia-smi -q` prints of names, driver, clocks, memory and power; empty where it is absent."""
    return {"query": _output("nvidia-smi", "-q"), "list": _output("nvidia-smi", "-L"), "clocks": clocks()}


def clocks() -> str:
    """Return the clocks, temperature and power of this moment as one line; empty where nvidia-smi is absent."""
    query = "clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,clocks_throttle_reasons.active"
    return _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader").strip()


def _gpu(settings: Settings) -> dict[str, Any]:
    found = engines.check_gpu(settings.arch)
    return {
        "name": found.name,
        "arch": found.arch.value,
        "driver": found.driver,
        "visible": found.visible,
        "capability": list(found.capability),
    }


def _tensorrt(settings: Settings) -> dict[str, Any]:
    place = engines.platform_of(settings.platform, accept_tensorrt=settings.accept_tensorrt)
    return {"platform": place.name, "build": place.tensorrt}


def _torch(settings: Settings) -> dict[str, Any]:
    text = _output(graphs.python(settings), "-c", _TORCH, environment=graphs.environment(settings))
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"torch": None, "output": text[-500:]}
    return found


def _check_same_host(settings: Settings, found: dict[str, Any]) -> None:
    marker = settings.out / "gpu.json"
    here = {"gpu": found["gpu"]["name"], "tensorrt": found["tensorrt"]["build"]}
    before = results.kept(marker, lambda: here)
    if before != here:
        cause = f"it holds results of {before['gpu']} with TensorRT {before['tensorrt']}, and this host has {here}"
        raise SettingError(f"--out {settings.out}", cause, "Name another folder with --out")


def _failed(found: dict[str, Any], failures: list[str]) -> VoxwrightError:
    failed = next(found[name]["failure"] for name in _NEEDED if "failure" in found[name])
    error = StepFailedError("detect", found, failures)
    error.exit_code = failed["exit_code"]  # type: ignore[misc]
    return error


def _output(*command: str, environment: dict[str, str] | None = None) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=_COMMAND_S, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within {_COMMAND_S} s"
    return done.stdout or done.stderr


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _path() -> str:
    return os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))


def arch_of(settings: Settings) -> Arch:
    """Return the architecture of this host's GPU; raise GpuError or CompilerUnavailableError as `check_gpu` does."""
    return engines.check_gpu(settings.arch).arch
