"""The hardware-compatibility levels of an engine, and which GPUs each admits beside those it was built on."""

from collections.abc import Mapping
from typing import Any

from contract.arch import Arch

NONE, SAME_CAPABILITY, AMPERE_PLUS = "none", "same-capability", "ampere-plus"
# From the fastest on: an engine that runs on more kinds of GPU may use less of each.
LEVELS = (NONE, SAME_CAPABILITY, AMPERE_PLUS)
# TensorRT's AMPERE_PLUS is for Ampere and later. A table, since nothing follows from the order of the numbers.
_ADMITTED = {AMPERE_PLUS: frozenset({Arch.SM80, Arch.SM86, Arch.SM89, Arch.SM90})}


def level(key_parts: Mapping[str, Any]) -> str:
    """Read the level that an engine was built with from its record; one that says none promises nothing."""
    options = key_parts.get("options")
    return str(options.get("compatibility", NONE)) if isinstance(options, Mapping) else NONE


def admits(compatibility: str, built: Arch, target: Arch) -> bool:
    """Say whether an engine built for one architecture runs on another; a level that is not known admits no other."""
    return built is target or {built, target} <= _ADMITTED.get(compatibility, frozenset())
