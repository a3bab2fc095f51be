"""Render Triton's model configuration as protobuf text."""

from collections.abc import Iterator, Mapping
from typing import Any

# Names of Triton's enum fields. Their values are written without quotes, every other text is a quoted string.
_ENUMS = ("data_type", "format", "kind", "priority", "timeout_action")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_FIRST_PRINTABLE, _DELETE = 0x20, 0x7F


def render(message: Mapping[str, Any]) -> str:
    """Return a message as text: a dict is a message, a list a repeated field, a map a list of {key, value} dicts."""
    return "".join(f"{line}\n" for line in _message(message))


def quoted(text: str) -> str:
    """Return a string in quotes with escapes; letters of any script stay as they are, in UTF-8."""
    return f'"{"".join(_character(character) for character in text)}"'


def _message(message: Mapping[str, Any]) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, Mapping):
            yield from _block(name, value)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for item in value:
                yield from _block(name, item)
        elif isinstance(value, list):
            yield f"{name}: [{', '.join(_scalar(name, item) for item in value)}]"
        else:
            yield f"{name}: {_scalar(name, value)}"


def _block(name: str, message: Mapping[str, Any]) -> Iterator[str]:
    yield f"{name} {{"
    yield from (f"  {line}" for line in _message(message))
    yield "}"


def _scalar(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return value if name in _ENUMS else quoted(value)
    raise TypeError(f"{name}: {type(value).__name__} cannot be written to a model configuration")


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    return f"\\{code:03o}" if code < _FIRST_PRINTABLE or code == _DELETE else character
