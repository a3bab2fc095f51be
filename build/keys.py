"""What decides an engine, part by part: flattened to names, compared, printed."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from contract.manifest import Change


def flat(parts: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Give every part of a key by its path, `toolchain.onnxruntime`, and its value as JSON."""
    for name, value in parts.items():
        inner = f"{path}{name}"
        if isinstance(value, dict) and value:
            yield from flat(value, f"{inner}.")
        else:
            yield inner, json.dumps(value, sort_keys=True)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """List the parts that differ, in the order of the later key; those that are gone come last."""
    old, new = dict(flat(before)), dict(flat(after))
    return tuple(
        Change(part=part, before=old.get(part, ""), after=new.get(part, ""))
        for part in dict.fromkeys((*new, *old))
        if old.get(part) != new.get(part)
    )


def sentence(change: Change) -> str:
    """Say what changed: `toolchain.onnxruntime was "1.31.0" and is "1.32.0"`."""
    if not change.before:
        return f"{change.part} is new: {change.after}"
    if not change.after:
        return f"{change.part} is gone: it was {change.before}"
    return f"{change.part} was {change.before} and is {change.after}"
