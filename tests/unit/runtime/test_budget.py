"""Test the estimate of GPU memory against sums made by hand."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from contract.arch import Arch
from contract.manifest import BoundTensor
from contract.platform import platform
from runtime.budget import estimate
from runtime.bundles import Bundle
from runtime.flags import PoolSizes
from runtime.selection import Selection, Target, select
from tests.fakes.driver import ROOT
from tests.unit.runtime import synthetic

A10 = Target(arch=Arch.SM86, platform=platform("26.08"), mode="batch", operating_point="standard")
MEBIBYTE = 1 << 20


def selection(context: int | None = 70, **triton: Any) -> Selection:
    """Serve the standard point, each engine of 1000 bytes, the body with some Triton fields of its own."""
    families = dict(synthetic.FAMILIES)
    families["body"] = dataclasses.replace(families["body"], triton=triton)
    made = synthetic.full_manifest(Arch.SM86, "26.08", "standard")
    engines = tuple(dataclasses.replace(it, size_bytes=1000, device_memory_bytes=context) for it in made.engines)
    bundle = Bundle(folder=Path("b"), manifest=dataclasses.replace(made, engines=engines))
    return select([bundle], synthetic.catalogue_of(*families.values()), A10)


def test_one_instance_per_model() -> None:
    found = estimate(selection())
    assert (found.engine_bytes, found.context_bytes, found.state_bytes, found.unknown) == (4000, 280, 0, ())
    # Triton's default for the CUDA pool is more than the ensemble needs.
    assert (found.cuda_pool_bytes, found.pinned_pool_bytes) == (64 * MEBIBYTE, 256 * MEBIBYTE)
    assert found.known_bytes == 4280 + 64 * MEBIBYTE


def test_tensors_between_the_steps_of_an_ensemble() -> None:
    # body: [499, 8] FP16 and one INT32; am_en: [499, 4] in FP32 and INT32. Each buffer is rounded up to 512 bytes.
    item = 8192 + 512 + 2 * 8192
    assert estimate(selection()).ensemble_bytes == item * (16 + 16)
    assert estimate(selection(instance_group=[{"count": 2}])).ensemble_bytes == item * (2 * 16 + 16)


def test_operator_sets_the_pools() -> None:
    found = estimate(selection(), PoolSizes(cuda_bytes=5, pinned_bytes=7))
    assert (found.cuda_pool_bytes, found.pinned_pool_bytes, found.known_bytes) == (5, 7, 4285)
    assert (found.needed_cuda_pool_bytes, found.needed_pinned_pool_bytes) == (64 * MEBIBYTE, 256 * MEBIBYTE)


def test_cpu_platform_has_no_pools() -> None:
    bundle = Bundle(folder=Path("b"), manifest=synthetic.full_manifest(Arch.CPU, "embedded", "standard"))
    target = dataclasses.replace(A10, arch=Arch.CPU, platform=platform("embedded"))
    found = estimate(select([bundle], synthetic.CATALOGUE, target), PoolSizes(cuda_bytes=5, pinned_bytes=7))
    assert (found.cuda_pool_bytes, found.pinned_pool_bytes, found.needed_cuda_pool_bytes) == (0, 0, 0)


def reference_dims(point: str) -> dict[str, int]:
    """Return the sizes of the reference checkpoints."""
    layers = {"standard": 5, "enhanced": 12}[point]
    sizes = {"encoder_size": 128, "top": 16, "embedding_size": 128, "vocabulary": 256, "convolution_past": 14}
    return {**synthetic.DIMS, **sizes, "layers": layers}


def test_real_time_server_with_192_streams_at_both_points() -> None:
    """The example of docs/architecture/40-runtime.md: the sizes of the reference checkpoints."""
    records = []
    for model in synthetic.engine_models().values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(synthetic, "DIMS", reference_dims(model.operating_point))
            records.append(synthetic.record(model, compiler="tensorrt", mode="realtime"))
    bundle = Bundle(folder=Path("b"), manifest=synthetic.manifest(*records, arch=Arch.SM86, platform_name="26.08"))
    target = dataclasses.replace(A10, mode="realtime", operating_point=None)
    found = estimate(select([bundle], synthetic.CATALOGUE, target))
    # Two copies for 192 streams of attention, convolution (both FP16) and the number of frames (one buffer).
    state = {layers: layers * (2 * 128 + 14) * 128 * 2 + 512 for layers in (5, 12)}
    assert found.state_bytes == 2 * 192 * (state[5] + state[12])
    pools = [found.cuda_pool_bytes // MEBIBYTE, found.pinned_pool_bytes // MEBIBYTE]
    numbers = [f"{size / MEBIBYTE:.1f} MiB" for size in (2 * 192 * state[5], 2 * 192 * state[12], found.ensemble_bytes)]
    row = f"| {' | '.join([*numbers, *(f'{pool} MiB' for pool in pools)])} |"
    assert row in (ROOT / "docs" / "architecture" / "40-runtime.md").read_text(encoding="utf-8"), row


@pytest.mark.parametrize(
    "groups", [[{"count": 3}], [{"count": 2}, {}], [{"count": 2, "kind": "KIND_GPU"}, {"count": 1}]]
)
def test_each_instance_has_its_own_weights(groups: list[dict[str, Any]]) -> None:
    found = estimate(selection(instance_group=groups))
    assert (found.engine_bytes, found.context_bytes) == (3 * 1000 + 3000, 3 * 70 + 210)


def test_unknown_context_memory() -> None:
    found = estimate(selection(context=None))
    assert found.context_bytes == 0
    assert found.unknown == ("am_en_standard", "body_standard", "decoder_standard", "diar_standard")


def stream(dims: dict[str, tuple[int, ...]], instances: int = 1, **batching: Any) -> Selection:
    """Serve the standard point with a body that keeps states of some sizes."""
    found = selection(sequence_batching=batching, instance_group=[{"count": instances}])
    body = next(choice for choice in found.chosen if choice.model.family.name == "body")
    states = tuple(
        BoundTensor(name=f"state_{name}", type="INT32" if name == "frames" else "FP16", dims=(-1, *sizes))
        for name, sizes in dims.items()
    )
    with_states = dataclasses.replace(body, record=dataclasses.replace(body.record, inputs=body.record.inputs + states))
    chosen = tuple(with_states if choice is body else choice for choice in found.chosen)
    return dataclasses.replace(found, chosen=chosen)


@pytest.mark.parametrize(
    ("dims", "batching", "instances", "size"),
    [
        # Two copies of 16 x 20 numbers of two bytes, rounded up to 1024, for 100 streams an instance.
        ({"a": (16, 20)}, {"oldest": {"max_candidate_sequences": 100}}, 1, 2 * 1024 * 100),
        ({"a": (16, 16)}, {"oldest": {"max_candidate_sequences": 100}}, 2, 2 * 512 * 200),
        ({"a": (4,), "frames": (3,)}, {"oldest": {"max_candidate_sequences": 1}}, 1, 2 * (512 + 512)),
        # The direct strategy has as many streams as the batch has places.
        ({"a": (1,)}, {}, 1, 2 * 512 * 16),
        ({}, {"oldest": {"max_candidate_sequences": 5}}, 1, 0),
    ],
)
def test_states(dims: dict[str, tuple[int, ...]], batching: dict[str, Any], instances: int, size: int) -> None:
    found = estimate(stream(dims, instances, **batching))
    assert (found.state_bytes, found.unknown) == (size, ())


@pytest.mark.parametrize(
    ("dims", "batching"),
    [({"a": (1,)}, {"oldest": {}}), ({"a": (-1,)}, {"oldest": {"max_candidate_sequences": 1}})],
    ids=["streams", "size"],
)
def test_states_of_unknown_size(dims: dict[str, tuple[int, ...]], batching: dict[str, Any]) -> None:
    found = estimate(stream(dims, **batching))
    assert (found.state_bytes, found.unknown) == (0, ("body_standard",))


def test_catalogue_without_an_ensemble() -> None:
    catalogue = synthetic.head_alone()
    made = synthetic.full_manifest(Arch.SM86, "26.08", "standard", catalogue=catalogue)
    found = estimate(select([Bundle(folder=Path("b"), manifest=made)], catalogue, A10))
    assert (found.ensemble_bytes, found.engine_bytes) == (0, len(b"engine"))
    assert found.unknown == ("ctc_standard",)
