"""What the chosen engines take of a GPU's memory, as far as the manifest and the catalogue know it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.selection import Choice, Selection

# What Triton keeps of a sequence's state: what the step reads, and what it writes.
_STATE_COPIES = 2
_TYPE_BYTES = {
    "TYPE_BOOL": 1,
    "TYPE_UINT8": 1,
    "TYPE_INT8": 1,
    "TYPE_UINT16": 2,
    "TYPE_INT16": 2,
    "TYPE_FP16": 2,
    "TYPE_BF16": 2,
    "TYPE_UINT32": 4,
    "TYPE_INT32": 4,
    "TYPE_FP32": 4,
    "TYPE_UINT64": 8,
    "TYPE_INT64": 8,
    "TYPE_FP64": 8,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Bytes on the device, and which of them nobody knows."""

    engine_bytes: int
    """The weights of every instance: Triton does not share those of engines with dynamic shapes."""
    context_bytes: int
    state_bytes: int
    unknown: tuple[str, ...]
    """The models of which some part is not known, and so not counted."""

    @property
    def known_bytes(self) -> int:
        """Add up what is known."""
        return self.engine_bytes + self.context_bytes + self.state_bytes


def estimate(selection: Selection) -> Budget:
    """Add up what a selection takes: engines, an execution context an instance and profile, the states of streams."""
    counted = [(choice, instances(choice.model.family.triton)) for choice in selection.chosen]
    states = {choice.model.name: _states(choice) for choice in selection.chosen}
    no_context = {choice.model.name for choice in selection.chosen if choice.record.device_memory_bytes is None}
    return Budget(
        engine_bytes=sum(choice.record.size_bytes * count for choice, count in counted),
        context_bytes=sum(
            (choice.record.device_memory_bytes or 0) * max(1, len(choice.record.profiles)) * count
            for choice, count in counted
        ),
        state_bytes=sum(size or 0 for size in states.values()),
        unknown=tuple(sorted(no_context | {name for name, size in states.items() if size is None})),
    )


def instances(triton: Mapping[str, Any]) -> int:
    """Count a model's instances on the GPU: one, unless the catalogue's instance_group says otherwise."""
    return sum(int(group.get("count", 1)) for group in triton.get("instance_group", [{}]))


def _states(choice: Choice) -> int | None:
    """Give the bytes of a model's implicit states; None where a size or the number of streams is left open."""
    batching = choice.model.family.triton.get("sequence_batching", {})
    sizes = [_state_bytes(state, choice.record.dims) for state in batching.get("state", [])]
    if not sizes:
        return 0
    streams = _streams(batching, choice)
    if streams is None:
        return None
    return sum(size for size in sizes if size is not None) * streams if None not in sizes else None


def _streams(batching: Mapping[str, Any], choice: Choice) -> int | None:
    oldest = batching.get("oldest")
    if oldest is None:
        # The direct strategy gives every slot of the batch to a sequence.
        return choice.record.max_batch * instances(choice.model.family.triton)
    limit = oldest.get("max_candidate_sequences")
    return int(limit) * instances(choice.model.family.triton) if limit else None


def _state_bytes(state: Mapping[str, Any], known: Mapping[str, int]) -> int | None:
    dims = [known.get(dim, -1) if isinstance(dim, str) else dim for dim in state.get("dims", [-1])]
    size = _TYPE_BYTES.get(str(state.get("data_type")))
    if size is None or any(dim < 0 for dim in dims):
        return None
    for dim in dims:
        size *= dim
    return size * _STATE_COPIES
