"""Exported graphs compared with their networks: names, types, axes, precision, parity."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import contract.graph
from contract import synthetic_inputs
from contract.errors import ParityError
from export import parity, tracing
from export.samples import bucket, padded
from export.speech import read_demo
from export.tracing import TORCH_TYPES, Boundary
from tests.unit.export import small
from tests.unit.export.graphs import TracedGraphs
from tests.unit.export.small import FAMILIES

ONNX_TYPES = {"FP16": onnx.TensorProto.FLOAT16, "FP32": onnx.TensorProto.FLOAT, "INT32": onnx.TensorProto.INT32}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=("fp32", "fp16"))
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def graph(family: str, precision: str, traced_graphs: TracedGraphs) -> Path:
    return traced_graphs.path(family, precision)


def test_inputs_and_outputs_match_the_catalogue(graph: Path, family: str) -> None:
    model, spec, dims = onnx.load(graph), small.model(family).family, small.network(family).dims
    for tensor, value in zip((*spec.inputs, *spec.outputs), (*model.graph.input, *model.graph.output), strict=True):
        assert value.name == tensor.name
        assert value.type.tensor_type.elem_type == ONNX_TYPES[tensor.type]
        found = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert found == ["batch", *(dims.get(str(axis), axis) for axis in tensor.shape)]


def test_graph_matches_its_network(graph: Path, family: str, precision: str) -> None:
    job = small.job(family, precision)
    found = parity.check(job, graph, parity.references(job, []))
    assert {each.output for each in found} == {tensor.name for tensor in small.model(family).family.outputs}
    assert all(each.within_limit for each in found)


def test_graph_contains_no_path_of_the_machine(graph: Path) -> None:
    assert not re.search(rb"[\w/]+\.py\b", graph.read_bytes())


def test_fp16_graph_multiplies_no_matrices_in_fp32(family: str, traced_graphs: TracedGraphs) -> None:
    """TensorRT-RTX has no FP32 matrix product on Turing: with dynamic shapes it returns zeros and reports no error."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load(traced_graphs.path(family, "fp16"))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    types |= {value.name: value.data_type for value in inferred.initializer}
    products = [node for node in inferred.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    in_fp32 = [node for node in products if types[node.input[0]] == onnx.TensorProto.FLOAT]
    # The convolutions of the filter bank, which no conversion to FP16 rounds: means, both parts of the spectrum, mel.
    assert [node.op_type for node in in_fp32] == ["Conv"] * 4 * (family in ("body", "diar"))
    assert {types[name] for node in in_fp32 for name in node.input} <= {onnx.TensorProto.FLOAT}
    others = [name for node in products if node not in in_fp32 for name in node.input]
    assert others
    assert {types[name] for name in others} == {onnx.TensorProto.FLOAT16}


def test_kernels_of_convolutions_are_weights(family: str, traced_graphs: TracedGraphs) -> None:
    """Not every parser takes a computed kernel."""
    graph = onnx.load(traced_graphs.path(family)).graph
    weights = {weight.name for weight in graph.initializer}
    assert {node.input[1] for node in graph.node if node.op_type == "Conv"} <= weights


def test_weights_have_the_axes_that_an_operator_would_add() -> None:
    """The exporter does this for small weights only. A weight that another operator takes too stays as it is."""
    values = {"kernel": np.ones((4, 3, 5), np.float32), "shared": np.ones(2, np.float32), "axis": np.array([2])}
    nodes = [
        onnx.helper.make_node("Unsqueeze", ["kernel", "axis"], ["wide"]),
        onnx.helper.make_node("Conv", ["input", "wide"], ["output"]),
        onnx.helper.make_node("Unsqueeze", ["shared", "axis"], ["column"]),
        onnx.helper.make_node("Add", ["shared", "column"], ["sums"]),
    ]
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = onnx.helper.make_graph(nodes, "graph", [], [], weights)
    tracing.reshape_weights(graph)
    assert [node.op_type for node in graph.node] == ["Conv", "Unsqueeze", "Add"]
    assert {each.name: list(each.dims) for each in graph.initializer} == {
        "wide": [4, 3, 1, 5],
        "shared": [2],
        "axis": [1],
    }


def test_rejects_graph_of_other_weights(traced_graphs: TracedGraphs) -> None:
    """Weights differ by one per cent; the error contains the difference and the limit."""
    job = small.job("diar")
    with torch.no_grad():
        job.network.get_parameter("network.encoder.out.weight").mul_(1.0 + 0.01 * torch.randn(8, 32))
    with pytest.raises(ParityError) as error:
        parity.check(job, traced_graphs.path("diar"), parity.references(job, []))
    assert re.fullmatch(
        r"diar_enhanced in fp32: the graph differs from the torch network "
        r"\(embedding differs by \d\.\de-0\d \(cosine, allowed 1e-05\)\)\. "
        r"Compare the exported graph with export/networks, or set a larger tolerance in "
        r"the catalogue's diar/model\.toml\.",
        str(error.value),
    )


def test_compares_real_inputs_padded_and_cut() -> None:
    spec = small.model("body").family.variants()[""]
    samples, segments = spec.modes["batch"].axes["samples"], [each.samples for each in read_demo().segments]
    real = [padded([segment], samples) for segment in segments]
    sizes = [sample["audio"].shape[1] for sample in parity.comparison_inputs(spec, small.network("body").dims, real)]
    lengths = [len(segment) for segment in segments]
    assert sizes == [32_000, 128_000, *(bucket(length, samples) for length in lengths), *lengths]


@pytest.mark.parametrize("name", FAMILIES)
def test_synthetic_inputs_match_the_catalogue(name: str) -> None:
    spec, dims = small.model(name).family, small.network(name).dims
    for sizes in synthetic_inputs.corners(spec.modes["batch"]):
        inputs = synthetic_inputs.make_inputs(spec, {**sizes, **dims}, np.random.default_rng(1))
        for tensor in spec.inputs:
            assert inputs[tensor.name].shape == synthetic_inputs.shape(tensor, {**sizes, **dims})
            assert torch.from_numpy(inputs[tensor.name]).dtype == TORCH_TYPES[tensor.type]


def test_reference_outputs_do_not_depend_on_the_precision() -> None:
    """Graphs of both precisions are compared with the same FP32 outputs of torch, so they are computed once."""
    fp32, fp16 = (parity.references(small.job("diar", precision), []) for precision in ("fp32", "fp16"))
    assert len(fp32) == len(fp16) > 1
    for ours, theirs in zip(fp32, fp16, strict=True):
        assert [np.array_equal(ours.inputs[name], array) for name, array in theirs.inputs.items()] == [True, True]
        assert np.array_equal(ours.outputs[0], theirs.outputs[0])


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a graph be too large for one file where its weights have 2 kB."""
    monkeypatch.setattr(contract.graph, "LARGEST_FILE_BYTES", 2_000)


@pytest.mark.usefixtures("low_limit")
def test_large_graph_has_its_weights_in_a_second_file(
    precision: str, tmp_path: Path, traced_graphs: TracedGraphs
) -> None:
    job, path = small.job("body", precision), tmp_path / f"{precision}.onnx"
    tracing.trace(job, path)
    assert sorted(each.name for each in tmp_path.iterdir()) == [f"{precision}.onnx", f"{precision}.onnx.data"]
    assert [each.stat().st_mode & 0o777 for each in tmp_path.iterdir()] == [0o644, 0o644]
    model = onnx.load(path, load_external_data=False)
    outside = [each for each in model.graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL]
    names = {entry.value for each in outside for entry in each.external_data if entry.key == "location"}
    assert names == {f"{precision}.onnx.data"}
    inside = [each for each in model.graph.initializer if each not in outside]
    assert all(onnx.numpy_helper.to_array(each).nbytes <= 1_024 for each in inside)
    single, references = traced_graphs.path("body", precision), parity.references(job, [])
    assert parity.check(job, path, references) == parity.check(job, single, references)


@pytest.mark.usefixtures("low_limit")
def test_second_trace_writes_the_same_weights(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        tracing.trace(small.job("body"), tmp_path / name / "fp32.onnx")
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("first", "second"))
    assert [each.read_bytes() for each in first] == [each.read_bytes() for each in second]


def test_limit_of_a_file_is_that_of_a_message() -> None:
    """A message has less than 2 GiB, and the nodes need room beside the weights."""
    assert 0 < (2 << 30) - contract.graph.LARGEST_FILE_BYTES <= 64 << 20


def test_reference_shares_the_weights_of_the_checkpoint() -> None:
    """A second copy of a large network in FP32 would not fit in memory."""
    network = small.whole("body")
    fp32, fp16 = (Boundary(network, small.model("body").family.variants()[""], each) for each in ("fp32", "fp16"))
    own, shared = dict(network.named_parameters()), dict(fp32.network.named_parameters())
    assert all(shared[name] is weight for name, weight in own.items())
    assert {each.dtype for each in fp16.network.parameters()} == {torch.float16}
    assert {each.dtype for each in network.parameters()} == {torch.float32}
