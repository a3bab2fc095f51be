"""The step graphs: exports what is absent, with the interpreter that has torch; it needs no GPU."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.settings import Settings
from contract.catalogue import read_catalogue
from contract.errors import GraphError
from contract.graph import RECORD_FILE

PRODUCTION_MODEL = "body_enhanced"
_ROOT = Path(__file__).parents[2]


def run(settings: Settings) -> dict[str, Any]:
    """Export the graphs that are absent; return which ones there are."""
    names = settings.models or tuple(name for name, model in read_catalogue().models().items() if model.family.network)
    _export(settings, settings.onnx, names, settings.weights)
    if settings.production:
        _export(settings, production_folder(settings), (PRODUCTION_MODEL,), "production")
    return {"onnx": str(settings.onnx), "models": exported(settings.onnx), "python": python(settings)}


def production_folder(settings: Settings) -> Path:
    """Return the folder of the graphs of production size."""
    return settings.out / "onnx-production"


def exported(folder: Path) -> list[str]:
    """List the models that were exported to a folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{RECORD_FILE}"))


def python(settings: Settings) -> str:
    """Return the interpreter that has torch."""
    return settings.torch_python or sys.executable


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables for the interpreter that has torch: another one gets no packages of this one.

    TensorRT's folder may hold libraries of another CUDA than torch needs.
    """
    found = dict(os.environ)
    if settings.torch_python:
        found.pop("PYTHONHOME", None)
        found["PYTHONPATH"] = str(_ROOT)
        folders = found.get("LD_LIBRARY_PATH", "").split(os.pathsep)
        found["LD_LIBRARY_PATH"] = os.pathsep.join(folder for folder in folders if "tensorrt" not in folder)
    return found


def _export(settings: Settings, folder: Path, names: tuple[str, ...], weights: str) -> None:
    absent = [name for name in names if not (folder / name / RECORD_FILE).is_file()]
    if not absent:
        return
    command = [python(settings), "-m", "export", "--out", str(folder.resolve()), "--weights", weights]
    for name in absent:
        command += ["--model", name]
    print(" ".join(command), flush=True)
    done = subprocess.run(command, cwd=_ROOT, stderr=subprocess.PIPE, text=True, check=False, env=environment(settings))
    print(done.stderr, file=sys.stderr)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed no error"])[-1].removeprefix("error: ")
        cause = f"the export of {', '.join(absent)} ended with exit code {done.returncode} ({last.rstrip('.')})"
        raise GraphError(folder, cause, "Export on a host with torch, and name the folder with --onnx")
