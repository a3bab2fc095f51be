"""Measure the largest activations inside a graph, to compare them with the largest value of FP16."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from build.reference import AS_WRITTEN, run_session, session
from contract.graph import weights_beside
from contract.manifest import Activation

Arrays: TypeAlias = dict[str, NDArray[Any]]
FP16, FP32 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
# It only selects: its inputs were measured at their own nodes, or are constants that mask, such as -1e9.
_SELECTS = "Where"


class ObservedGraph:
    """A graph that runs node by node as written, rounds every FP16 tensor to FP16, and records the largest values.

    By default, ONNX Runtime computes a sequence of FP16 nodes in FP32 on a CPU and rounds at its end. An overflow
    inside the sequence, which a GPU may have, would then stay hidden.
    """

    def __init__(self, path: Path) -> None:
        # The weights of a large graph stay in their file: with them it could not become bytes.
        data = weights_beside(path)
        model = onnx.load(path, load_external_data=data is None)
        self._outputs = {value.name for value in model.graph.output}
        self._observed = {name: each for name, each in observable(model).items() if each.operator != _SELECTS}
        self._session = session(exposed(model, self._observed).SerializeToString(), AS_WRITTEN, data=data)
        self._largest: dict[str, float] = {}

    def run(self, inputs: Arrays) -> Arrays:
        """Run on arrays with a batch axis and record the largest value of every float tensor. Not thread-safe."""
        found = run_session(self._session, inputs)
        for name in self._observed:
            self._largest[name] = max(self._largest.get(name, 0.0), _largest(found[name]))
        return {name: array for name, array in found.items() if name in self._outputs}

    def largest(self, kind: int) -> Activation | None:
        """Return the largest activation of a type (FP16 or FP32) in all runs; None where there is none."""
        found = (
            Activation(value=self._largest[name], tensor=name, node=each.node, operator=each.operator)
            for name, each in self._observed.items()
            if each.kind == kind and name in self._largest
        )
        return max(found, key=lambda activation: activation.value, default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The origin of a tensor: its type as ONNX's number, the node that computes it, and that node's operator."""

    kind: int
    node: str
    operator: str


def observable(model: onnx.ModelProto) -> dict[str, Origin]:
    """List the float tensors that depend on the graph's inputs, by name; weights and constants do not."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    live = {value.name for value in graph.input}
    origins: dict[str, Origin] = {}
    # ONNX requires nodes in topological order.
    for node in graph.node:
        if live.isdisjoint(node.input):
            continue
        live.update(node.output)
        for name in node.output:
            if kinds.get(name) in (FP16, FP32):
                origins[name] = Origin(kind=kinds[name], node=node.name, operator=node.op_type)
    return origins


def exposed(model: onnx.ModelProto, tensors: Mapping[str, Origin]) -> onnx.ModelProto:
    """Return a copy of a graph that also outputs the tensors and rounds every FP16 tensor before it is read."""
    copied = copy.deepcopy(model)
    graph = copied.graph
    rounded = {name for name, origin in tensors.items() if origin.kind == FP16}
    nodes = [each for node in graph.node for each in _rounding(node, rounded)]
    del graph.node[:]
    graph.node.extend(nodes)
    known = {value.name for value in graph.output}
    graph.output.extend(
        onnx.helper.make_tensor_value_info(name, origin.kind, None)
        for name, origin in tensors.items()
        if name not in known
    )
    return copied


def _rounding(node: onnx.NodeProto, rounded: set[str]) -> Iterator[onnx.NodeProto]:
    # ONNX Runtime removes a cast to FP16 followed by a cast back. An Identity between the two keeps both.
    yield node
    for place, name in enumerate(node.output):
        if name in rounded:
            node.output[place] = unrounded = f"{name}.unrounded"
            yield onnx.helper.make_node("Identity", [unrounded], [name], name=unrounded)


def _largest(values: NDArray[Any]) -> float:
    largest = float(np.abs(values.astype(np.float32)).max()) if values.size else 0.0
    return math.inf if math.isnan(largest) else largest
