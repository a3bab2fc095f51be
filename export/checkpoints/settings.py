"""Read settings of a checkpoint's configuration, with defaults; refuse values that no network here computes.

A default applies to a field that is absent. Null is a value of its own: the libraries turn a part off with it, or fail.
"""

import json
import reprlib
from collections.abc import Collection
from typing import Any

from contract.errors import CheckpointError
from contract.fields import Fields

MOST = 1 << 20
"""The largest size that a configuration may state: more would build a network of any size from a small file."""
MOST_LAYERS, MOST_BANDS = 256, 512
MOST_TOKENS = 1 << 16
"""The largest vocabulary: the probabilities of a minute of speech for more tokens take many gigabytes."""
_OUTLINE = reprlib.Repr()
_OUTLINE.maxlevel = 2
UNSUPPORTED = "Use a checkpoint of a supported kind; docs/architecture lists them"


def fields(value: Any, source: object) -> Fields:
    """Return the fields of a parsed configuration; their errors are CheckpointErrors."""
    return Fields(value, source=source, error=CheckpointError, remedy=UNSUPPORTED)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; raise ValueError for a damaged one, and for text that UTF-8 cannot hold."""
    value: Any = json.loads(text)
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"it has half of a surrogate pair, {error.object[error.start]!r}") from error
    return value


def size(table: Fields, key: str, default: int | None = None, most: int = MOST) -> int:
    """Return a size from 1 to `most`; without a default the key must be present."""
    found = default if default is not None and not table.holds(key) else table.integer(key)
    if not 1 <= found <= most:
        raise table.error(key, f"{found} is not a size from 1 to {most}")
    return found


def integer(table: Fields, key: str, default: int) -> int:
    """Return an integer of any sign."""
    return table.integer(key) if table.holds(key) else default


def number(table: Fields, key: str, default: float, *, off: float | None = None) -> float:
    """Return a number; `off` for null, if the library turns the part off. YAML reads 1e-5 as text of a number."""
    if not table.holds(key):
        return default
    found = table.raw(key)
    if found is None and off is not None:
        return off
    if isinstance(found, str):
        try:
            return float(found)
        except ValueError as error:
            raise table.error(key, f"{found!r} is not a number") from error
    return table.number(key)


def flag(table: Fields, key: str, *, default: bool) -> bool:
    """Return a boolean. Null is off, as it is false in Python, which the libraries are written in."""
    if not table.holds(key):
        return default
    return table.has(key) and table.boolean(key)


def word(table: Fields, key: str, default: str) -> str:
    """Return a string."""
    return table.text(key) if table.holds(key) else default


def require(table: Fields, key: str, supported: Collection[Any], why: str) -> None:
    """Raise the table's error for a value that is not supported, null included. An absent key is always supported."""
    # In a tuple: a list or a table cannot be looked up in a set.
    if table.holds(key) and table.raw(key) not in tuple(supported):
        raise table.error(key, f"{_shown(table.raw(key))} is not supported: {why}")


def _shown(value: Any) -> str:
    # A list may hold itself, or one part many times: it is shown to a depth of two.
    text = _OUTLINE.repr(value) if isinstance(value, list | dict) else "null" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."  # noqa: PLR2004 - a line of an error
