"""Traces a torch network into an ONNX graph with the names, types and dynamic axes of the catalogue."""

import contextlib
import copy
import gc
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnx_ir
import torch
from onnx.numpy_helper import to_array
from torch import Tensor, nn

from contract import catalogue, synthetic_inputs
from contract.graph import weights_beside
from export import graph_files
from export.checkpoints.graph_network import GraphNetwork
from export.job import Job

OPSET = 18
_COLLECTED_BYTES = 256 << 20
TORCH_TYPES = {"FP16": torch.float16, "FP32": torch.float32, "INT32": torch.int32}
_COMPUTE_TYPES = {"fp32": torch.float32, "fp16": torch.float16}
# torch.export treats a dimension of size one as a constant, so the example has none. All its axes differ in size.
_EXAMPLE_BATCH, _EXAMPLE_SIZE, _EXAMPLE_STEP = 2, 40, 7


class Boundary(nn.Module):
    """A network with the catalogue's types at its outputs, whatever type it computes in."""

    def __init__(self, network: nn.Module, family: catalogue.Family, precision: str) -> None:
        super().__init__()
        self.network = _in_type(network, _COMPUTE_TYPES[precision])
        self.types = tuple(TORCH_TYPES[tensor.type] for tensor in family.outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the network on inputs in the catalogue's types and order."""
        outputs = self.network(*inputs)
        as_tuple = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(output.to(kind) for output, kind in zip(as_tuple, self.types, strict=True))


def _in_type(network: nn.Module, kind: torch.dtype) -> nn.Module:
    """Return a copy of a network in a type; it shares the weights that have this type already.

    The weights are converted one by one: a second copy of a large network in its own type may not fit in memory.
    """
    converted: dict[int, Any] = {}
    for weight in (*network.parameters(), *network.buffers()):
        value = weight.to(kind) if weight.is_floating_point() else weight
        is_parameter = isinstance(weight, nn.Parameter) and value is not weight
        converted[id(weight)] = nn.Parameter(value, requires_grad=weight.requires_grad) if is_parameter else value
    return copy.deepcopy(network, converted).to(kind).eval()


def trace(job: Job, path: Path) -> None:
    """Write the ONNX graph of a network; axes with a name in the catalogue stay dynamic and keep this name.

    Where the weights are too large for the file, they are in a second one beside it, graph.data_file.
    """
    if isinstance(job.network, GraphNetwork):
        # It is a graph already.
        model = graph_files.copied(job.network.graph, job.network.folder, path)
    else:
        with _garbage_collection_paused():
            model = graph_files.message(_exported(job), path)
        if weights_beside(path) or model.ByteSize() >= _COLLECTED_BYTES:
            # The traced network and its graph refer to each other. A large one must not wait for the next collection.
            gc.collect()
    _tidy(model, job.family, job.dims)
    graph_files.save(model, path)


def _exported(job: Job) -> onnx_ir.Model:
    family, dims = job.family, job.dims
    boundary = Boundary(job.network, family, job.precision)
    example = tuple(_example(tensor, family, dims) for tensor in family.inputs)
    axes = tuple(_dynamic_axes(tensor, dims) for tensor in family.inputs)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        # The exporter warns of its own deprecated parts, which a user cannot change.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            boundary,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in family.inputs],
            output_names=[tensor.name for tensor in family.outputs],
            dynamic_shapes=(axes,),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return program.model


@contextlib.contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    # Tracing creates millions of objects that live until its end. Searching them for garbage took 5 % of an export.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def example_sizes(family: catalogue.Family, dims: dict[str, int]) -> dict[str, int]:
    """Return a size for each axis to trace with; all differ, so that no two axes become one."""
    axes = dict.fromkeys(axis for tensor in family.inputs for axis in tensor.shape if isinstance(axis, str))
    dynamic = [axis for axis in axes if axis not in dims]
    smallest = {axis: extent.min for mode in family.modes.values() for axis, extent in mode.axes.items()}
    sizes = {
        axis: max(_EXAMPLE_SIZE, smallest.get(axis, 0)) + _EXAMPLE_STEP * index for index, axis in enumerate(dynamic)
    }
    return {"batch": _EXAMPLE_BATCH, **sizes, **dims}


def _example(tensor: catalogue.Tensor, family: catalogue.Family, dims: dict[str, int]) -> Tensor:
    shape = synthetic_inputs.shape(tensor, example_sizes(family, dims))
    kind = TORCH_TYPES[tensor.type]
    return torch.full(shape, 5, dtype=kind) if kind == torch.int32 else torch.randn(shape).to(kind)


def _dynamic_axes(tensor: catalogue.Tensor, dims: dict[str, int]) -> dict[int, str]:
    named = ("batch", *tensor.shape)
    return {index: axis for index, axis in enumerate(named) if isinstance(axis, str) and axis not in dims}


def _tidy(model: onnx.ModelProto, family: catalogue.Family, dims: dict[str, int]) -> None:
    # Stack traces would put paths of this machine into the key of every engine. Axes get the catalogue's names.
    graph: Any = model.graph
    reshape_weights(graph)
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    for tensor, value in zip(family.outputs, graph.output, strict=True):
        for axis, dim in zip(("batch", *tensor.shape), value.type.tensor_type.shape.dim, strict=True):
            if isinstance(axis, str) and axis not in dims:
                dim.dim_param = axis


def reshape_weights(graph: Any) -> None:
    """Write the axes of size 1 that an Unsqueeze adds to weights into the weights.

    The exporter does this for small weights only, and not every parser takes a computed kernel of a convolution.
    """
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return  # The graphs of conditions and loops use weights by their names.
    weights, axes = {weight.name: weight for weight in graph.initializer}, set[str]()
    uses = Counter(name for node in graph.node for name in node.input)
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if node.op_type != "Unsqueeze" or uses[node.input[0]] != 1 or not weights.keys() >= set(node.input):
            continue
        weight = weights[node.input[0]]
        shape = numpy.expand_dims(numpy.empty(weight.dims, numpy.bool_), tuple(to_array(weights[node.input[1]]))).shape
        weight.name, weight.dims[:] = node.output[0], shape
        axes.add(node.input[1])
        del graph.node[index]
    unused = axes - {name for node in graph.node for name in node.input} - {output.name for output in graph.output}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in unused:
            del graph.initializer[index]
