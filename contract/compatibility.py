"""List the hardware-compatibility levels of engines, and the architectures on which each level allows an engine."""

from collections.abc import Mapping
from typing import Any

from contract.arch import Arch

NONE, SAME_CAPABILITY, AMPERE_PLUS = "none", "same-capability", "ampere-plus"
# The fastest first: an engine that runs on more architectures may use less of each.
LEVELS = (NONE, SAME_CAPABILITY, AMPERE_PLUS)
# TensorRT's AMPERE_PLUS is for Ampere and later. A table, because nothing follows from the order of the numbers.
_ADMITTED = {AMPERE_PLUS: frozenset({Arch.SM80, Arch.SM86, Arch.SM89, Arch.SM90})}


def level(key_parts: Mapping[str, Any]) -> str:
    """Return the level that an engine was built with, by its record; NONE where the record has no level."""
    options = key_parts.get("options")
    return str(options.get("compatibility", NONE)) if isinstance(options, Mapping) else NONE


def admits(compatibility: str, built: Arch, target: Arch) -> bool:
    """Return whether an engine built for one architecture runs on another; an unknown level admits no other."""
    return built is target or {built, target} <= _ADMITTED.get(compatibility, frozenset())
