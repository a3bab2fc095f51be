"""Graphs in an older opset: exported networks compute the same, and other graphs are rejected."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from build.compilers import opset
from build.reference import stream_as_written
from contract import synthetic_inputs
from contract.catalogue import SAMPLES, read_catalogue
from tests.unit.export import small
from tests.unit.export.graphs import TracedGraphs
from tests.unit.export.small import FAMILIES

OLDER = 17


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_networks_compute_the_same_in_older_opset(
    tmp_path: Path, traced_graphs: TracedGraphs, family: str, precision: str
) -> None:
    newer, older = traced_graphs.path(family, precision), tmp_path / "older.onnx"
    opset.lower(newer, older, OLDER)
    model = onnx.load(older)
    assert [each.version for each in model.opset_import] == [OLDER]
    for node in model.graph.node:
        assert onnx.defs.get_schema(node.op_type, 25, node.domain).since_version != 0
        assert onnx.defs.get_schema(node.op_type, OLDER, node.domain).since_version <= OLDER
    axes = read_catalogue().families[family].dynamic_axes()
    sizes = {
        "batch": 3,
        **dict.fromkeys(axes, 60),
        SAMPLES: 6_500,
        "hypothesis_count": 2,
        "hypothesis_tokens": 9,
        **small.network(family).dims,
    }
    feed = synthetic_inputs.make_inputs(read_catalogue().families[family], sizes, np.random.default_rng(4))
    ((ours,), (theirs,)) = (list(stream_as_written(path, [feed])) for path in (older, newer))
    for name, array in theirs.items():
        assert np.array_equal(ours[name], array)


def written(tmp_path: Path, nodes: str, output: str = "float[B, N] y") -> Path:
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    graph (float[B, 4, 6] x) => ({output}) <int64[1] axes = {{2}}, int64[6] pads = {{0, 0, 0, 0, 0, 1}}, int64[0] none>
    {{ {nodes} }}"""
    path = tmp_path / "graph.onnx"
    model: Any = onnx.parser.parse_model(text)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("reduction", ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"])
def test_converts_axes_of_reductions_to_an_attribute(tmp_path: Path, reduction: str) -> None:
    path = written(tmp_path, f"y = Reduce{reduction} <keepdims = 0, noop_with_empty_axes = 0> (x, axes)")
    opset.lower(path, tmp_path / "older.onnx", OLDER)
    model = onnx.load(tmp_path / "older.onnx")
    (node,) = model.graph.node
    assert list(node.input) == ["x"]
    assert {each.name: each.ints or each.i for each in node.attribute} == {"axes": [2], "keepdims": 0}
    assert "axes" not in {each.name for each in model.graph.initializer}
    feed = {"x": np.abs(np.random.default_rng(1).normal(size=(2, 4, 6))).astype(np.float32) + 0.5}
    ((ours,), (theirs,)) = (list(stream_as_written(each, [feed])) for each in (tmp_path / "older.onnx", path))
    assert np.array_equal(ours["y"], theirs["y"])


@pytest.mark.parametrize(
    ("nodes", "clause"),
    [
        ("y = Mish (x)", "its Mish cannot be converted to opset 17"),
        ("a = Identity (axes)\ny = ReduceMax (x, a)", "the axes of its ReduceMax are known only at run time"),
        ("y = ReduceMax <noop_with_empty_axes = 1> (x)", "its ReduceMax reduces nothing"),
        ("y = Pad (x, pads, , axes)", "its Pad has axes"),
    ],
)
def test_rejects_operator_without_older_form(tmp_path: Path, nodes: str, clause: str) -> None:
    with pytest.raises(ValueError, match=clause):
        opset.lower(written(tmp_path, nodes), tmp_path / "older.onnx", OLDER)
    assert not (tmp_path / "older.onnx").exists()


def test_rejects_split_into_different_sizes(tmp_path: Path) -> None:
    path = written(tmp_path, "y, z, w = Split <axis = 1, num_outputs = 3> (x)", "float[B, 2, 6] y")
    with pytest.raises(ValueError, match=r"its Split makes parts of different or unknown size \(y\)"):
        opset.lower(path, tmp_path / "older.onnx", OLDER)


def test_rejects_much_older_opset(tmp_path: Path) -> None:
    path = written(tmp_path, "y, z = Split <axis = 2, num_outputs = 2> (x)", "float[B, 4, 3] y")
    with pytest.raises(ValueError, match="its Split cannot be converted to opset 12"):
        opset.lower(path, tmp_path / "older.onnx", 12)
