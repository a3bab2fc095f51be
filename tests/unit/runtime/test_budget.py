"""Test the estimate of GPU memory against sums made by hand."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from contract.arch import Arch
from contract.catalogue import catalogue
from contract.manifest import BoundTensor
from contract.platform import platform
from runtime.budget import Budget, estimate
from runtime.bundles import Bundle
from runtime.selection import Selection, Target, select
from tests.unit.runtime import synthetic

A10 = Target(arch=Arch.SM86, platform=platform("26.08"), mode="batch", operating_point="standard")
BODY = {"engine": 1000, "context": 70}


def selection(context: int | None = 70, **triton: Any) -> Selection:
    """Serve the standard point, each engine of 1000 bytes, the body with some Triton fields of its own."""
    families = dict(catalogue())
    families["body"] = dataclasses.replace(families["body"], triton=triton)
    made = synthetic.full_manifest(Arch.SM86, "26.08", "standard")
    engines = tuple(dataclasses.replace(it, size_bytes=1000, device_memory_bytes=context) for it in made.engines)
    bundle = Bundle(folder=Path("b"), manifest=dataclasses.replace(made, engines=engines))
    return select([bundle], families, A10)


def test_one_instance_per_model() -> None:
    assert estimate(selection()) == Budget(engine_bytes=4000, context_bytes=280, state_bytes=0, unknown=())
    assert estimate(selection()).known_bytes == 4280


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
        # Two copies of 16 x 8 numbers of two bytes, for 100 streams an instance.
        ({"a": (16, 8)}, {"oldest": {"max_candidate_sequences": 100}}, 1, 2 * 16 * 8 * 2 * 100),
        ({"a": (16, 8)}, {"oldest": {"max_candidate_sequences": 100}}, 2, 2 * 16 * 8 * 2 * 200),
        ({"a": (4,), "frames": (3,)}, {"oldest": {"max_candidate_sequences": 1}}, 1, 2 * (8 + 12)),
        # The direct strategy has as many streams as the batch has places.
        ({"a": (1,)}, {}, 1, 2 * 2 * 16),
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
