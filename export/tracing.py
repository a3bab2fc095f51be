"""Traces a torch network into an ONNX graph whose boundary is the catalogue's: names, types, dynamic axes."""

import contextlib
import copy
import io
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from contract import catalogue, synthetic_inputs
from export.job import Job

OPSET = 18
TORCH_TYPES = {"FP16": torch.float16, "FP32": torch.float32, "INT32": torch.int32}
_COMPUTE_TYPES = {"fp32": torch.float32, "fp16": torch.float16}
# torch.export takes a dimension of size one for a constant: the example has none, and no two axes alike.
_EXAMPLE_BATCH, _EXAMPLE_STEP = 2, 7


class Boundary(nn.Module):
    """A network whose outputs have the catalogue's types, whatever type it computes in."""

    def __init__(self, network: nn.Module, family: catalogue.Family, precision: str) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(_COMPUTE_TYPES[precision]).eval()
        self.types = tuple(TORCH_TYPES[tensor.type] for tensor in family.outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the network on inputs of the catalogue's types, in the catalogue's order."""
        outputs = self.network(*inputs)
        several = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(output.to(kind) for output, kind in zip(several, self.types, strict=True))


def trace(job: Job, path: Path) -> None:
    """Write the ONNX graph of a network; axes that the catalogue names stay dynamic under these names."""
    family, dims = job.family, job.dims
    boundary = Boundary(job.network, family, job.precision)
    example = tuple(_example(tensor, family, dims) for tensor in family.inputs)
    axes = tuple(_dynamic_axes(tensor, dims) for tensor in family.inputs)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        # The exporter announces its own deprecations; none is anything a user could act on.
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
        raise RuntimeError("torch.onnx.export gave no program")
    model: onnx.ModelProto = program.model_proto
    _tidy(model, family, dims)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def example_sizes(family: catalogue.Family, dims: dict[str, int]) -> dict[str, int]:
    """Give each axis a size to trace with, all different, so that none is taken for another."""
    axes = dict.fromkeys(axis for tensor in family.inputs for axis in tensor.shape if isinstance(axis, str))
    dynamic = [axis for axis in axes if axis not in dims]
    sizes = {axis: 40 + _EXAMPLE_STEP * index for index, axis in enumerate(dynamic)}
    return {"batch": _EXAMPLE_BATCH, **sizes, **dims}


def _example(tensor: catalogue.Tensor, family: catalogue.Family, dims: dict[str, int]) -> Tensor:
    shape = synthetic_inputs.shape(tensor, example_sizes(family, dims))
    kind = TORCH_TYPES[tensor.type]
    return torch.full(shape, 5, dtype=kind) if kind == torch.int32 else torch.randn(shape).to(kind)


def _dynamic_axes(tensor: catalogue.Tensor, dims: dict[str, int]) -> dict[int, str]:
    named = ("batch", *tensor.shape)
    return {index: axis for index, axis in enumerate(named) if isinstance(axis, str) and axis not in dims}


def _tidy(model: onnx.ModelProto, family: catalogue.Family, dims: dict[str, int]) -> None:
    # Stack traces would put this machine's paths into every engine's key; a shape is named as the catalogue names it.
    graph: Any = model.graph
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    for tensor, value in zip(family.outputs, graph.output, strict=True):
        for axis, dim in zip(("batch", *tensor.shape), value.type.tensor_type.shape.dim, strict=True):
            if isinstance(axis, str) and axis not in dims:
                dim.dim_param = axis
