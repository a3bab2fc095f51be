"""Find values that clients send and JSON cannot have: Python reads NaN, 1e999 and half of a surrogate pair."""

import json
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

_Place: TypeAlias = tuple[Any, int | str] | None
_NOT_FINITE = "it is not a finite number"
_NOT_UNICODE = "it has a character that Unicode does not have"


def unwritable(document: Any) -> tuple[str, str] | None:
    """Return the place of a value that cannot be written as JSON, such as `a.0.b`, and the reason; None if all can.

    Raises RecursionError for a document that is nested too deeply.
    """
    try:
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        # Only now, because it takes far longer.
        return next((_joined(place), reason) for place, value in _values(document) if (reason := _reason(value)))
    return None


def _values(document: Any) -> Iterator[tuple[_Place, Any]]:
    """Yield all values and keys, each with its place: that of its parent, and its name there."""
    waiting: list[tuple[_Place, Any]] = [(None, document)]
    while waiting:
        place, value = waiting.pop()
        yield place, value
        if isinstance(value, dict):
            yield from ((place, key) for key in value)
            waiting += [((place, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [((place, number), inner) for number, inner in enumerate(value)]


def _reason(value: Any) -> str | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else _NOT_FINITE
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return _NOT_UNICODE
    return None


def _joined(place: _Place) -> str:
    names: list[str] = []
    while place is not None:
        place, name = place
        names.append(str(name))
    return ".".join(reversed(names))
