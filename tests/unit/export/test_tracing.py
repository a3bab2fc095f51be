"""Graphs against their networks: names, types, axes, precision, parity."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from contract import synthetic_inputs
from contract.errors import ParityError
from export import parity
from export.samples import bucket, padded, speech
from export.tracing import TORCH_TYPES, trace
from tests.unit.export import small

FAMILIES = ("body", "am_en", "decoder", "lm", "diar")
ONNX_TYPES = {"FP16": onnx.TensorProto.FLOAT16, "FP32": onnx.TensorProto.FLOAT, "INT32": onnx.TensorProto.INT32}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=("fp32", "fp16"))
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Trace a small network, once for all the tests that look at its graph."""

    @cache
    def graph_of(family: str, precision: str) -> Path:
        path = tmp_path_factory.mktemp("graphs") / f"{family}.{precision}.onnx"
        trace(small.job(family, precision), path)
        return path

    return graph_of


@pytest.fixture(scope="module")
def graph(family: str, precision: str, traced: Callable[[str, str], Path]) -> Path:
    return traced(family, precision)


def test_the_boundary_is_the_catalogues(graph: Path, family: str) -> None:
    model, spec, dims = onnx.load(graph), small.model(family).family, small.network(family).dims
    for tensor, value in zip((*spec.inputs, *spec.outputs), (*model.graph.input, *model.graph.output), strict=True):
        assert value.name == tensor.name
        assert value.type.tensor_type.elem_type == ONNX_TYPES[tensor.type]
        found = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert found == ["batch", *(dims.get(str(axis), axis) for axis in tensor.shape)]


def test_a_graph_agrees_with_its_network(graph: Path, family: str, precision: str) -> None:
    found = parity.check(small.job(family, precision), graph, [])
    assert {each.output for each in found} == {tensor.name for tensor in small.model(family).family.outputs}
    assert all(each.within_limit for each in found)


def test_a_graph_carries_no_path_of_the_machine(graph: Path) -> None:
    assert not re.search(rb"[\w/]+\.py\b", graph.read_bytes())


def test_half_precision_multiplies_no_matrices_in_fp32(family: str, traced: Callable[[str, str], Path]) -> None:
    """Turing has no FP32 matrix product in TensorRT-RTX, and with dynamic shapes it gives zeros without a word."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load(traced(family, "fp16"))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    types |= {value.name: value.data_type for value in inferred.initializer}
    products = [node for node in inferred.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    assert products
    assert {types[name] for node in products for name in node.input} == {onnx.TensorProto.FLOAT16}


def test_another_network_fails_with_its_numbers(traced: Callable[[str, str], Path]) -> None:
    """A graph whose weights are one per cent off is refused, and the sentence has the figure and the limit."""
    job = small.job("diar")
    with torch.no_grad():
        job.network.get_parameter("out.weight").mul_(1.0 + 0.01 * torch.randn(8, 32))
    with pytest.raises(ParityError) as refusal:
        parity.check(job, traced("diar", "fp32"), [])
    assert re.fullmatch(
        r"diar_enhanced in fp32: the graph differs from the torch network "
        r"\(embedding differs by \d\.\de-0\d \(cosine, allowed 1e-05\)\)\. "
        r"Look at what the exporter made of that network, or state a wider tolerance in the catalogue\.",
        str(refusal.value),
    )


def test_real_inputs_are_checked_padded_and_alone() -> None:
    spec = small.model("body").family.variants()[""]
    frames = spec.modes["batch"].axes["frames"]
    real = [padded([stretch], frames) for stretch in speech()]
    sizes = [sample["features"].shape[1] for sample in parity.probe_inputs(spec, small.network("body").dims, real)]
    lengths = [len(stretch) for stretch in speech()]
    assert sizes == [200, 800, *(bucket(length, frames) for length in lengths), *lengths]


@pytest.mark.parametrize("name", FAMILIES)
def test_synthetic_inputs_have_the_shapes_and_types_of_the_catalogue(name: str) -> None:
    spec, dims = small.model(name).family, small.network(name).dims
    for sizes in synthetic_inputs.corners(spec.modes["batch"]):
        made = synthetic_inputs.inputs(spec, {**sizes, **dims}, np.random.default_rng(1))
        for tensor in spec.inputs:
            assert made[tensor.name].shape == synthetic_inputs.shape(tensor, {**sizes, **dims})
            assert torch.from_numpy(made[tensor.name]).dtype == TORCH_TYPES[tensor.type]
