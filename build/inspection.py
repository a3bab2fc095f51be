"""Find types and operators in a graph that an architecture does not support, before the graph is compiled."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from build.job import Job
from contract.arch import Arch
from contract.catalogue import TYPES
from contract.errors import CompileError

_NAMES = {onnx.TensorProto.FLOAT16: "FP16", onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.INT32: "INT32"}
# TensorRT-RTX compiles FP32 convolutions for Turing, but no FP32 matrix products: it rejects some, and for others with
# dynamic shapes it returns zeros.
_PRODUCTS = ("MatMul", "Gemm", "Einsum")
_KEEP_FP16 = "Export it in FP16: an FP32 island may hold a softmax or a norm, but no matrix product"
_NO_TYPE = "Export it in FP16 or FP32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A tensor or a node that cannot be compiled, and the remedy."""

    place: str
    cause: str
    remedy: str


def check(job: Job) -> None:
    """Raise CompileError for the first tensor or node that TensorRT-RTX does not support on the job's architecture.

    A file that is not an ONNX graph is left for the compiler to reject.
    """
    try:
        found = list(findings(job.graph, job.arch))
    except DecodeError:
        return
    if not found:
        return
    first, others = found[0], [each.place for each in found[1:]]
    also = f" (and {len(others)} more: {', '.join(others)})" if others else ""
    subject = f"{job.name} for {job.arch.value}"
    raise CompileError(subject, f"{first.place} {first.cause}{also}", first.remedy)


def findings(path: Path, arch: Arch) -> Iterator[Finding]:
    """List what an architecture does not support in a graph: inputs and outputs first, then node by node."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
    yield from _boundary(model.graph)
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    kinds |= {weight.name: weight.data_type for weight in model.graph.initializer}
    for node in model.graph.node:
        yield from _node(node, {kinds.get(name) for name in (*node.input, *node.output)}, arch)


def _boundary(graph: onnx.GraphProto) -> Iterator[Finding]:
    for what, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            kind = value.type.tensor_type.elem_type
            if kind not in _NAMES:
                name = onnx.TensorProto.DataType.Name(kind)
                yield Finding(
                    place=f"{what} {value.name!r}",
                    cause=f"is {name}, which no client sends or reads",
                    remedy=f"Use one of the catalogue's types: {', '.join(TYPES)}",
                )


def _node(node: onnx.NodeProto, kinds: set[int | None], arch: Arch) -> Iterator[Finding]:
    place = f"node {node.name!r} ({node.op_type})"
    for kind in (onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE):
        if kind in kinds:
            cause = f"computes in {onnx.TensorProto.DataType.Name(kind)}, which not every supported GPU can"
            yield Finding(place=place, cause=cause, remedy=_NO_TYPE)
    if arch is Arch.SM75 and node.op_type in _PRODUCTS and onnx.TensorProto.FLOAT in kinds:
        cause = "multiplies matrices in FP32, which TensorRT-RTX does not support on Turing"
        yield Finding(place=place, cause=cause, remedy=_KEEP_FP16)
