"""Estimate the GPU memory of the chosen engines from the manifest and the catalogue."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contract.catalogue import is_state
from contract.manifest import BoundTensor
from runtime.selection import Choice, Selection

# Triton keeps two copies of a sequence's state: the one that a step reads and the one that it writes.
_STATE_COPIES = 2
_TYPE_BYTES = {"FP16": 2, "INT32": 4, "FP32": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Memory in bytes on the device, and the models with a part of unknown size."""

    engine_bytes: int
    """The weights of every instance: Triton does not share those of engines with dynamic shapes."""
    context_bytes: int
    state_bytes: int
    unknown: tuple[str, ...]
    """Models with a part of unknown size, which is not counted."""

    @property
    def known_bytes(self) -> int:
        """The sum of all known parts."""
        return self.engine_bytes + self.context_bytes + self.state_bytes


def estimate(selection: Selection) -> Budget:
    """Add up what a selection takes: engines, an execution context an instance, the states of streams."""
    counted = [(choice, instances(choice.model.family.triton)) for choice in selection.chosen]
    states = {choice.model.name: _states(choice) for choice in selection.chosen}
    no_context = {choice.model.name for choice in selection.chosen if choice.record.device_memory_bytes is None}
    return Budget(
        engine_bytes=sum(choice.record.size_bytes * count for choice, count in counted),
        context_bytes=sum((choice.record.device_memory_bytes or 0) * count for choice, count in counted),
        state_bytes=sum(size or 0 for size in states.values()),
        unknown=tuple(sorted(no_context | {name for name, size in states.items() if size is None})),
    )


def instances(triton: Mapping[str, Any]) -> int:
    """Return a model's number of instances on the GPU: 1, unless the catalogue's instance_group sets another."""
    return sum(int(group.get("count", 1)) for group in triton.get("instance_group", [{}]))


def _states(choice: Choice) -> int | None:
    """Return the bytes of a model's implicit states; None where a size or the number of streams is unknown."""
    sizes = [_state_bytes(tensor) for tensor in choice.record.inputs if is_state(tensor.name)]
    if not sizes:
        return 0
    streams = _streams(choice.model.family.triton.get("sequence_batching", {}), choice)
    if streams is None:
        return None
    return sum(size for size in sizes if size is not None) * streams if None not in sizes else None


def _streams(batching: Mapping[str, Any], choice: Choice) -> int | None:
    oldest = batching.get("oldest")
    if oldest is None:
        # The direct strategy assigns each slot of the batch to one sequence.
        return choice.record.max_batch * instances(choice.model.family.triton)
    limit = oldest.get("max_candidate_sequences")
    return int(limit) * instances(choice.model.family.triton) if limit else None


def _state_bytes(state: BoundTensor) -> int | None:
    dims = state.dims[1:]
    return None if min(dims, default=0) < 0 else math.prod(dims) * _TYPE_BYTES[state.type] * _STATE_COPIES
