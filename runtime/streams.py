"""Set for how many streams a server keeps the states at a time."""

from dataclasses import replace
from typing import Any

from contract.catalogue import Catalogue, Family, Mode
from contract.errors import SettingError

MOST = 2**16
"""Far more than any GPU has memory for; Triton's field is a 32-bit integer."""
_BATCHING, _OLDEST, _PLACES = "sequence_batching", "oldest", "max_candidate_sequences"


def with_places(catalogue: Catalogue, mode: str, count: int) -> Catalogue:
    """Return the catalogue with places for `count` streams in each model that keeps states in a mode.

    Raise SettingError for a model whose streams Triton assigns to the slots of a batch (the direct strategy): their
    number is that of its engine.
    """
    families = {name: _family(family, mode, count) for name, family in catalogue.families.items()}
    return replace(catalogue, families=families)


def _family(family: Family, mode: str, count: int) -> Family:
    found = family.modes.get(mode)
    if found is None or not found.is_streaming:
        return family
    return replace(family, modes={**family.modes, mode: _mode(family, found, count)})


def _mode(family: Family, mode: Mode, count: int) -> Mode:
    fields = family.triton if mode.triton is None else mode.triton
    batching: dict[str, Any] = fields.get(_BATCHING, {})
    if _OLDEST not in batching:
        cause = f"{family.name} in mode {mode.name} has no {_BATCHING}.{_OLDEST}: its largest batch limits its streams"
        raise SettingError("--streams", cause, "Remove this setting, or build its engines with a larger batch")
    return replace(mode, triton={**fields, _BATCHING: {**batching, _OLDEST: {**batching[_OLDEST], _PLACES: count}}})
