"""Estimate the GPU memory of the chosen engines and the sizes of Triton's memory pools."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.catalogue import Model, Tensor, is_state, model_name
from contract.manifest import BoundTensor
from runtime.flags import PoolSizes
from runtime.selection import Choice, Selection

DEFAULT_CUDA_POOL_BYTES = 64 << 20
"""Triton's default for a GPU (core, server.cc: 1 << 26)."""
DEFAULT_PINNED_POOL_BYTES = 256 << 20
"""Triton's default (core, server.cc: 1 << 28)."""
# Triton keeps two copies of a sequence's state: the one that a step reads and the one that it writes.
_STATE_COPIES = 2
_TYPE_BYTES = {"FP16": 2, "INT32": 4, "FP32": 4}
# The allocator of the CUDA pool rounds every buffer up to this size (NVIDIA/cnmem, CNMEM_GRANULARITY).
_GRANULARITY_BYTES = 512
_MEBIBYTE = 1 << 20
# A quarter on top: the pool cannot grow, and buffers of different sizes leave gaps in it.
_MARGIN_DIVISOR = 4
Axes = Mapping[str, int]
"""The largest size of each named axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Memory in bytes, and the models with a part of unknown size."""

    engine_bytes: int
    """The weights of every instance: Triton does not share those of engines with dynamic shapes."""
    context_bytes: int
    state_bytes: int
    """Implicit states of every stream, both copies; on a GPU a part of the CUDA pool."""
    ensemble_bytes: int
    """Tensors between the steps of ensembles; on a GPU a part of the CUDA pool."""
    needed_cuda_pool_bytes: int = 0
    needed_pinned_pool_bytes: int = 0
    cuda_pool_bytes: int = 0
    """What Triton reserves at its start: the needed size, or the size that the operator sets."""
    pinned_pool_bytes: int = 0
    """The same for the pool in the memory of the host."""
    unknown: tuple[str, ...]
    """Models with a part of unknown size, which is not counted."""

    @property
    def known_bytes(self) -> int:
        """The sum of all known parts on the GPU. States and tensors of ensembles are in the CUDA pool."""
        return self.engine_bytes + self.context_bytes + self.cuda_pool_bytes


def estimate(selection: Selection, operator: PoolSizes | None = None) -> Budget:
    """Add up what a selection takes: engines, an execution context an instance, and Triton's two memory pools.

    Triton serves implicit states and the tensors between the steps of an ensemble from the CUDA pool (core, memory.cc:
    AllocatedMemory; sequence_state.cc; ensemble_scheduler.cc: ResponseAlloc). The pool cannot grow
    (cuda_memory_manager.cc: CNMEM_FLAGS_CANNOT_GROW). When it is full, buffers fall back to pinned memory of the host,
    and such a state is allocated again at each step (backend_model.cc: TRITONBACKEND_StateBuffer). So the sizes are

        CUDA pool   = max(64 MiB, 5/4 x (states + ensembles))
        pinned pool = max(256 MiB, 5/4 x (states / 2 + staging))

    rounded up to MiB. `states` is the number of streams x the bytes of the states x 2 copies. `ensembles` is, for each
    ensemble, the bytes of all outputs of its steps for one item x the items that can be inside of it: for each step its
    largest batch x its instances. `staging` is the inputs and outputs of a largest batch of every instance, which pass
    through pinned memory on the way to the GPU and back (backend, backend_input_collector.cc). The initial states of
    all streams, one copy, lie in the pinned pool as well, until the first step writes them. 64 and 256 MiB are Triton's
    defaults. A CPU platform has no pools. Sizes that the operator sets replace the computed ones.
    """
    counted = [(choice, instances(choice.model.family.triton)) for choice in selection.chosen]
    states = {choice.model.name: _states(choice) for choice in selection.chosen}
    between = {model.name: _ensemble(model, selection.chosen) for model in selection.ensembles}
    staging = {choice.model.name: _staging(choice, _axes(selection.chosen)) for choice in selection.chosen}
    no_context = {choice.model.name for choice in selection.chosen if choice.record.device_memory_bytes is None}
    no_size = {name for sizes in (states, between) for name, size in sizes.items() if size is None}
    state_bytes, ensemble_bytes, staging_bytes = (_sum(sizes) for sizes in (states, between, staging))
    on_gpu, operator = selection.target.platform.cuda is not None, operator or PoolSizes()
    cuda = _pool(DEFAULT_CUDA_POOL_BYTES, state_bytes + ensemble_bytes) if on_gpu else 0
    pinned = _pool(DEFAULT_PINNED_POOL_BYTES, state_bytes // _STATE_COPIES + staging_bytes) if on_gpu else 0
    return Budget(
        engine_bytes=sum(choice.record.total_bytes * count for choice, count in counted),
        context_bytes=sum((choice.record.device_memory_bytes or 0) * count for choice, count in counted),
        state_bytes=state_bytes,
        ensemble_bytes=ensemble_bytes,
        needed_cuda_pool_bytes=cuda,
        needed_pinned_pool_bytes=pinned,
        cuda_pool_bytes=operator.cuda_bytes if on_gpu and operator.cuda_bytes is not None else cuda,
        pinned_pool_bytes=operator.pinned_bytes if on_gpu and operator.pinned_bytes is not None else pinned,
        unknown=tuple(sorted(no_context | no_size)),
    )


def instances(triton: Mapping[str, Any]) -> int:
    """Return a model's number of instances on the GPU: 1, unless the catalogue's instance_group sets another."""
    return sum(int(group.get("count", 1)) for group in triton.get("instance_group", [{}]))


def _pool(default: int, used: int) -> int:
    size = used + used // _MARGIN_DIVISOR
    return max(default, math.ceil(size / _MEBIBYTE) * _MEBIBYTE)


def _sum(sizes: Mapping[str, int | None]) -> int:
    return sum(size or 0 for size in sizes.values())


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
    return None if min(dims, default=0) < 0 else _buffer(math.prod(dims) * _TYPE_BYTES[state.type]) * _STATE_COPIES


def _ensemble(model: Model, chosen: Sequence[Choice]) -> int | None:
    """Return the bytes that an ensemble holds between its steps; None where a size is unknown."""
    names = {model_name(step, model.operating_point) for step in model.family.steps}
    steps = [choice for choice in chosen if choice.model.name in names]
    axes = _axes(steps)
    sizes = [
        _item_bytes(choice, tensor, choice.record.outputs, axes)
        for choice in steps
        for tensor in choice.model.family.outputs
        if not is_state(tensor.name)
    ]
    items = sum(max(1, choice.record.max_batch) * instances(choice.model.family.triton) for choice in steps)
    return sum(_buffer(size) for size in sizes if size is not None) * items if None not in sizes else None


def _staging(choice: Choice, axes: Axes) -> int | None:
    """Return the bytes of the inputs and outputs of a largest batch of every instance; None where one is unknown."""
    family, record = choice.model.family, choice.record
    sizes = [
        _item_bytes(choice, tensor, bound, axes)
        for tensors, bound in ((family.inputs, record.inputs), (family.outputs, record.outputs))
        for tensor in tensors
        if not is_state(tensor.name)
    ]
    if None in sizes:
        return None
    return sum(size for size in sizes if size is not None) * max(1, record.max_batch) * instances(family.triton)


def _item_bytes(choice: Choice, tensor: Tensor, bound: Sequence[BoundTensor], axes: Axes) -> int | None:
    """Return the bytes of a tensor for one item of a batch, each axis at its largest size."""
    found = next((known for known in bound if known.name == tensor.name), None)
    if found is None:
        return None
    own = {**axes, **_axes([choice])}
    dims = found.dims[1:] if choice.record.max_batch > 0 else found.dims
    sizes = [own.get(str(axis), -1) if size < 0 else size for axis, size in zip(tensor.shape, dims, strict=False)]
    return None if min(sizes, default=0) < 0 else math.prod(sizes) * _TYPE_BYTES[found.type]


def _axes(choices: Sequence[Choice]) -> Axes:
    found: dict[str, int] = {}
    for choice in choices:
        for name, extent in choice.model.family.modes[choice.record.mode].axes.items():
            found[name] = max(extent.max, found.get(name, 0))
    return found


def _buffer(size: int) -> int:
    return math.ceil(size / _GRANULARITY_BYTES) * _GRANULARITY_BYTES
