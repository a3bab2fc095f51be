"""Keep the measurements of FP16 graphs on the CPU in the store, because they are the same for every architecture.

dist/store/observations/<2 digits>/<key>.json

The key is the digest of the graphs, the inputs, the tolerances and the libraries that run the graphs.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from build import reference, store
from build.job import Job
from contract import digest, files
from contract.differences import Difference
from contract.manifest import Activation, GateCase, Measurement

NAME = "observations"
# Increase it with every change of what is measured, or of the file.
_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """The measurements of an FP16 graph on the CPU."""

    cases: tuple[GateCase, ...]
    activation: Activation | None


def key(job: Job, inputs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the digest of everything that determines the measurements of a job's FP16 graph on inputs by case."""
    outputs = job.family.outputs
    return digest.of_value(
        {
            "version": _VERSION,
            "libraries": {"onnxruntime": reference.library().__version__, "onnx": version("onnx")},
            "graphs": [job.graph_file(precision).digest for precision in ("fp32", "fp16")],
            "inputs": {case: _arrays(feed) for case, feed in inputs.items()},
            "tolerances": {tensor.name: repr(tensor.tolerance) for tensor in outputs},
            "figures": {tensor.name: list(tensor.figures) for tensor in outputs},
        }
    )


def get(folder: Path, name: str, measure: Callable[[], Observed], *, fresh: bool = False) -> Observed:
    """Return the measurements of a key from a store, or measure them and write them there.

    A second process that needs the same key waits for the first. `fresh` measures again. A damaged file is replaced.
    """
    place = folder / NAME
    path = store.entry_folder(place, name).with_suffix(".json")
    with store.locked(place, name):
        found = None if fresh else _read(path)
        if found is None:
            found = measure()
            text = json.dumps(asdict(found), sort_keys=True)
            files.write(path, f"{_checksum(text)}\n{text}\n")
    return found


def _read(path: Path) -> Observed | None:
    try:
        checksum, _, text = path.read_text(encoding="utf-8").rstrip("\n").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if checksum != _checksum(text):
        return None
    # The checksum proves that this version wrote the text, so that every field is there.
    table = json.loads(text)
    return Observed(
        cases=tuple(map(_case, table["cases"])),
        activation=Activation(**table["activation"]) if table["activation"] else None,
    )


def _case(table: dict[str, Any]) -> GateCase:
    return GateCase(
        name=table["name"],
        parity=tuple(Difference(**each) for each in table["parity"]),
        figures=tuple(Measurement(**each) for each in table["figures"]),
    )


def _arrays(feed: Mapping[str, Any]) -> dict[str, str]:
    return {name: _digest(np.ascontiguousarray(array)) for name, array in feed.items()}


def _digest(array: Any) -> str:
    return hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()).hexdigest()


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
