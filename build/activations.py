"""How large the numbers inside a graph become, and how far that is from the largest that FP16 holds."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from build.compilers.onnxruntime import AS_WRITTEN, run_session, session
from contract.manifest import Activation

Arrays: TypeAlias = dict[str, NDArray[Any]]
FP16, FP32 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
# It only chooses: what it takes was measured where it was made, or is a constant that masks, such as -1e9.
_CHOOSES = "Where"


class ObservedGraph:
    """A graph node by node as it is written, with every FP16 tensor rounded to FP16, that remembers its largest values.

    Left alone, ONNX Runtime computes most FP16 nodes of a row in FP32 on a CPU, and rounds at the end of the row: an
    overflow in between, which a GPU may have, would not be seen.
    """

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        self._outputs = {value.name for value in model.graph.output}
        self._made = {name: made for name, made in observable(model).items() if made.operator != _CHOOSES}
        self._session = session(exposed(model, self._made).SerializeToString(), AS_WRITTEN)
        self._largest: dict[str, float] = {}

    def run(self, inputs: Arrays) -> Arrays:
        """Run on arrays with a batch axis, and look at every float tensor. Not for several threads."""
        found = run_session(self._session, inputs)
        for name in self._made:
            self._largest[name] = max(self._largest.get(name, 0.0), _largest(found[name]))
        return {name: array for name, array in found.items() if name in self._outputs}

    def largest(self, kind: int) -> Activation | None:
        """Give the largest activation of a type (FP16 or FP32) in all runs; None where there is none."""
        seen = (
            Activation(value=self._largest[name], tensor=name, node=made.node, operator=made.operator)
            for name, made in self._made.items()
            if made.kind == kind and name in self._largest
        )
        return max(seen, key=lambda activation: activation.value, default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """Where a tensor comes from: its type in ONNX's numbers, the node that makes it and what that does."""

    kind: int
    node: str
    operator: str


def observable(model: onnx.ModelProto) -> dict[str, Made]:
    """List the float tensors that nodes make of the graph's inputs, by name; weights and constants are none."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    live = {value.name for value in graph.input}
    made: dict[str, Made] = {}
    # ONNX wants nodes in an order in which everything is made before it is used.
    for node in graph.node:
        if live.isdisjoint(node.input):
            continue
        live.update(node.output)
        for name in node.output:
            if kinds.get(name) in (FP16, FP32):
                made[name] = Made(kind=kinds[name], node=node.name, operator=node.op_type)
    return made


def exposed(model: onnx.ModelProto, tensors: Mapping[str, Made]) -> onnx.ModelProto:
    """Copy a graph, with the tensors among its outputs and every FP16 one rounded before anything reads it."""
    copied = copy.deepcopy(model)
    graph = copied.graph
    rounded = {name for name, made in tensors.items() if made.kind == FP16}
    nodes = [each for node in graph.node for each in _rounding(node, rounded)]
    del graph.node[:]
    graph.node.extend(nodes)
    known = {value.name for value in graph.output}
    graph.output.extend(
        onnx.helper.make_tensor_value_info(name, made.kind, None) for name, made in tensors.items() if name not in known
    )
    return copied


def _rounding(node: onnx.NodeProto, rounded: set[str]) -> Iterator[onnx.NodeProto]:
    # ONNX Runtime drops a cast to FP16 and straight back. An Identity between the two keeps them.
    yield node
    for place, name in enumerate(node.output):
        if name in rounded:
            node.output[place] = unrounded = f"{name}.unrounded"
            yield onnx.helper.make_node("Identity", [unrounded], [name], name=unrounded)


def _largest(values: NDArray[Any]) -> float:
    largest = float(np.abs(values.astype(np.float32)).max()) if values.size else 0.0
    return math.inf if math.isnan(largest) else largest
