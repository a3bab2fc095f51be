"""Read the arrays that export writes for the gate: `<name>.<number>`, several recordings or samples in one file."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from contract.errors import GraphError

Arrays: TypeAlias = dict[str, Any]


def read(path: Path) -> dict[int, Arrays]:
    """Return the arrays of a file by number and name; raise GraphError for a damaged file.

    Every number has the same names.
    """
    found: dict[int, Arrays] = {}
    for key, array in _members(path).items():
        name, _, number = key.rpartition(".")
        if not name or not number.isascii() or not number.isdecimal():
            raise _damaged(path, f"{key!r} is not the name of an input with a number")
        found.setdefault(int(number), {})[name] = array
    names = {name for arrays in found.values() for name in arrays}
    for index, arrays in found.items():
        if names - arrays.keys():
            raise _damaged(path, f"it lacks {min(names - arrays.keys())}.{index}")
    return dict(sorted(found.items()))


def _members(path: Path) -> Arrays:
    try:
        with np.load(path) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except Exception as error:
        # The exceptions of a damaged archive have no common base: EOFError, BadZipFile, ValueError, zlib.error, ...
        reason = " ".join(str(error).split())
        raise _damaged(path, f"its arrays cannot be read ({reason})") from error


def _damaged(path: Path, cause: str) -> GraphError:
    return GraphError(path, cause, f"Run `python -m export --model {path.parent.name} --force`")
