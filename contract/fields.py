"""Reads fields out of parsed TOML or JSON, and names the path of the one that is wrong: `modes.batch.frames.min`."""

from collections.abc import Iterator
from typing import Any

from contract.errors import VoxwrightError


class Fields:
    """A table at a path inside a source; every read says what it expects and raises the given error otherwise."""

    def __init__(self, value: Any, *, source: object, error: type[VoxwrightError], remedy: str, path: str = "") -> None:
        self._source, self._error, self._remedy, self._path = source, error, remedy, path
        if not isinstance(value, dict):
            raise self.error("", f"a table is wanted, not {_kind(value)}")
        self._table: dict[str, Any] = value

    def error(self, key: str, cause: str) -> VoxwrightError:
        """Make the error for a field; an empty key means the table itself."""
        path = self._join(key)
        return self._error(self._source, f"{path}: {cause}" if path else cause, self._remedy)

    def names(self) -> list[str]:
        """List the keys in their order."""
        return list(self._table)

    def has(self, key: str) -> bool:
        """Say whether the key is there and not null."""
        return self._table.get(key) is not None

    def reject_unknown(self, *known: str) -> None:
        """Refuse a key that nobody reads: it is a typing error more often than not."""
        for key in self._table:
            if key not in known:
                raise self.error(key, "this field is unknown")

    def text(self, key: str) -> str:
        """Read a string."""
        return str(self._typed(key, str))

    def integer(self, key: str) -> int:
        """Read an integer."""
        return int(self._typed(key, int))

    def number(self, key: str) -> float:
        """Read an integer or a float."""
        return float(self._typed(key, (int, float)))

    def boolean(self, key: str) -> bool:
        """Read a boolean."""
        return bool(self._typed(key, bool))

    def raw(self, key: str) -> Any:
        """Give a value of any type that is there."""
        return self._typed(key, object)

    def items(self, key: str, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
        """Read a list whose members are all of one kind."""
        values = self._typed(key, list)
        for index, value in enumerate(values):
            if not _is(value, kind):
                raise self.error(f"{key}[{index}]", f"{_kind_name(kind)} is wanted, not {_kind(value)}")
        return tuple(values)

    def table(self, key: str) -> "Fields":
        """Open the table below a key."""
        return self._below(self._typed(key, dict), key)

    def tables(self, key: str) -> Iterator["Fields"]:
        """Open each table of a list of tables."""
        for index, value in enumerate(self._typed(key, list)):
            yield self._below(value, f"{key}[{index}]")

    def _below(self, value: Any, key: str) -> "Fields":
        return Fields(value, source=self._source, error=self._error, remedy=self._remedy, path=self._join(key))

    def _typed(self, key: str, kind: type | tuple[type, ...]) -> Any:
        if key not in self._table:
            raise self.error(key, "this field is missing")
        value = self._table[key]
        if not _is(value, kind):
            raise self.error(key, f"{_kind_name(kind)} is wanted, not {_kind(value)}")
        return value

    def _join(self, key: str) -> str:
        return ".".join(part for part in (self._path, key) if part)


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    # bool is an int to Python, never to a reader of a configuration file.
    if isinstance(value, bool):
        return kind in (bool, object)
    return isinstance(value, kind)


_NAMES = {dict: "a table", list: "a list", str: "a text", bool: "true or false", int: "an integer", float: "a number"}


def _kind(value: Any) -> str:
    return _NAMES.get(type(value), "null" if value is None else type(value).__name__)


def _kind_name(kind: type | tuple[type, ...]) -> str:
    return "a number" if isinstance(kind, tuple) else _NAMES.get(kind, kind.__name__)
