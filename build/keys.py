"""Flatten, compare and print the parts of an engine's key: everything that determines the engine."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from contract.manifest import Change


def flat(parts: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every part of a key: its path, such as `toolchain.onnxruntime`, and its value as JSON."""
    for name, value in parts.items():
        inner = f"{path}{name}"
        if isinstance(value, dict) and value:
            yield from flat(value, f"{inner}.")
        else:
            yield inner, json.dumps(value, sort_keys=True)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """List the parts that differ, in the order of the new key; removed parts come last."""
    old, new = dict(flat(before)), dict(flat(after))
    return tuple(
        Change(part=part, before=old.get(part, ""), after=new.get(part, ""))
        for part in dict.fromkeys((*new, *old))
        if old.get(part) != new.get(part)
    )


def sentence(change: Change) -> str:
    """Return a change as a clause: `toolchain.onnxruntime was "1.31.0" and is "1.32.0"`."""
    if not change.before:
        return f"{change.part} is new: {change.after}"
    if not change.after:
        return f"{change.part} was removed: it was {change.before}"
    return f"{change.part} was {change.before} and is {change.after}"
