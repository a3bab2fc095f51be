"""Read fields of parsed TOML or JSON; an error names the path of the wrong field: `modes.batch.axes.frames.min`."""

import json
import math
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

from contract.errors import VoxwrightError

_LARGEST_BITS = 63
# The deepest record has ten levels. Code that walks a value recursively is far from Python's limit then.
_MOST_LEVELS = 64


def json_value(text: str) -> Any:
    """Return the value of a JSON text; raise ValueError for other text, deep nesting and numbers of many digits."""
    return _parse(json.loads, text)


def toml_table(text: str) -> dict[str, Any]:
    """Return the table of a TOML text; raise ValueError as json_value does."""
    table: dict[str, Any] = _parse(tomllib.loads, text)
    return table


def _parse(load: Callable[[str], Any], text: str) -> Any:
    try:
        value = load(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError):
        raise
    except ValueError as error:
        # Python converts a limited number of digits, because the time grows with their square.
        raise ValueError("a number in it has too many digits") from error
    except RecursionError as error:
        raise ValueError(f"it is nested more than {_MOST_LEVELS} levels deep") from error
    level, depth = [value], 1
    while level:
        if depth > _MOST_LEVELS:
            raise ValueError(f"it is nested more than {_MOST_LEVELS} levels deep")
        level, depth = [inner for each in level for inner in _members(each)], depth + 1
    return value


def _members(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


class Fields:
    """A table at a path inside a source; every read checks the type and raises the given error for another one."""

    def __init__(self, value: Any, *, source: object, error: type[VoxwrightError], remedy: str, path: str = "") -> None:
        self._source, self._error, self._remedy, self._path = source, error, remedy, path
        if not isinstance(value, dict):
            raise self.error("", f"expected a table, found {_kind(value)}")
        self._table: dict[str, Any] = value

    def error(self, key: str, cause: str) -> VoxwrightError:
        """Return the error for a field; an empty key means the table itself."""
        path = self._join(key)
        return self._error(self._source, f"{path}: {cause}" if path else cause, self._remedy)

    def names(self) -> list[str]:
        """Return the keys in their order."""
        return list(self._table)

    def has(self, key: str) -> bool:
        """Return whether the key is present and not null."""
        return self._table.get(key) is not None

    def holds(self, key: str) -> bool:
        """Return whether the key is present, also with null."""
        return key in self._table

    def reject_unknown(self, *known: str) -> None:
        """Raise the error for a key that is not listed: it is most likely a typing error."""
        for key in self._table:
            if key not in known:
                raise self.error(key, "this field is unknown")

    def text(self, key: str) -> str:
        """Return a string."""
        return str(self._typed(key, str))

    def integer(self, key: str) -> int:
        """Return an integer of 64 bits."""
        return int(self._typed(key, int))

    def number(self, key: str) -> float:
        """Return an integer or a finite float, as a float."""
        return float(self._typed(key, (int, float)))

    def boolean(self, key: str) -> bool:
        """Return a boolean."""
        return bool(self._typed(key, bool))

    def raw(self, key: str) -> Any:
        """Return a value of any type; the key must be present."""
        return self._typed(key, object)

    def items(self, key: str, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
        """Return a list whose members are all of one type; numbers are as those of `integer` and `number`."""
        values = self._typed(key, list)
        for index, value in enumerate(values):
            if not _is(value, kind):
                raise self.error(f"{key}[{index}]", f"expected {_kind_name(kind)}, found {_kind(value)}")
            self._check_number(f"{key}[{index}]", value)
        return tuple(values)

    def table(self, key: str) -> "Fields":
        """Return the table below a key."""
        return self._below(self._typed(key, dict), key)

    def optional_table(self, key: str) -> "Fields":
        """Return the table below a key; an empty one where the key is absent or null."""
        return self.table(key) if self.has(key) else self._below({}, key)

    def tables(self, key: str) -> Iterator["Fields"]:
        """Yield each table of a list of tables."""
        for index, value in enumerate(self._typed(key, list)):
            yield self._below(value, f"{key}[{index}]")

    def _below(self, value: Any, key: str) -> "Fields":
        return Fields(value, source=self._source, error=self._error, remedy=self._remedy, path=self._join(key))

    def _typed(self, key: str, kind: type | tuple[type, ...]) -> Any:
        if key not in self._table:
            raise self.error(key, "this field is missing")
        value = self._table[key]
        if not _is(value, kind):
            raise self.error(key, f"expected {_kind_name(kind)}, found {_kind(value)}")
        self._check_number(key, value)
        return value

    def _check_number(self, key: str, value: Any) -> None:
        # JSON has NaN and infinity in Python, and TOML has them too: neither is a size, a time or a limit.
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(key, f"{value} is not a finite number")
        if isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
            raise self.error(key, f"a number of {value.bit_length()} bits is too large")

    def _join(self, key: str) -> str:
        return ".".join(part for part in (self._path, key) if part)


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    # In Python a bool is an int; in a configuration file it is not.
    if isinstance(value, bool):
        return kind in (bool, object)
    return isinstance(value, kind)


_NAMES = {dict: "a table", list: "a list", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}


def _kind(value: Any) -> str:
    return _NAMES.get(type(value), "null" if value is None else type(value).__name__)


def _kind_name(kind: type | tuple[type, ...]) -> str:
    return "a number" if isinstance(kind, tuple) else _NAMES.get(kind, kind.__name__)
