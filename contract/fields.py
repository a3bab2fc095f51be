"""Read fields of parsed TOML or JSON; an error names the path of the wrong field: `modes.batch.axes.frames.min`."""

from collections.abc import Iterator
from typing import Any

from contract.errors import VoxwrightError

_LARGEST_BITS = 63


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
        found = int(self._typed(key, int))
        if found.bit_length() > _LARGEST_BITS:
            raise self.error(key, f"a number of {found.bit_length()} bits is too large")
        return found

    def number(self, key: str) -> float:
        """Return an integer or a float, as a float."""
        found = self._typed(key, (int, float))
        return float(found) if isinstance(found, float) else float(self.integer(key))

    def boolean(self, key: str) -> bool:
        """Return a boolean."""
        return bool(self._typed(key, bool))

    def raw(self, key: str) -> Any:
        """Return a value of any type; the key must be present."""
        return self._typed(key, object)

    def items(self, key: str, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
        """Return a list whose members are all of one type."""
        values = self._typed(key, list)
        for index, value in enumerate(values):
            if not _is(value, kind):
                raise self.error(f"{key}[{index}]", f"expected {_kind_name(kind)}, found {_kind(value)}")
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
        return value

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
