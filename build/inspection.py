"""What can be said of a graph before it is compiled: types and operators that an architecture cannot do."""

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
# TensorRT-RTX compiles FP32 convolutions for Turing, but no product of matrices: it refuses some and gives zeros for
# others whose shapes are dynamic.
_PRODUCTS = ("MatMul", "Gemm", "Einsum")
_KEEP_FP16 = "Export it in FP16: an island of FP32 may hold a softmax or a norm, but no product of matrices"
_NO_TYPE = "Export it in FP16 or FP32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A tensor or a node that cannot be compiled, and what to do about it."""

    place: str
    cause: str
    remedy: str


def check(job: Job) -> None:
    """Raise CompileError that names the first thing in a job's graph which TensorRT-RTX cannot do for its architecture.

    What is no ONNX graph is left for the compiler to refuse.
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
    """List what an architecture cannot do in a graph, its boundary first, then node by node."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
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
                    cause=f"is {name}, and no client sends or reads that",
                    remedy=f"Give it one of the catalogue's types: {', '.join(TYPES)}",
                )


def _node(node: onnx.NodeProto, kinds: set[int | None], arch: Arch) -> Iterator[Finding]:
    place = f"node {node.name!r} ({node.op_type})"
    for kind in (onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE):
        if kind in kinds:
            cause = f"computes in {onnx.TensorProto.DataType.Name(kind)}, which not every GPU here can"
            yield Finding(place=place, cause=cause, remedy=_NO_TYPE)
    if arch is Arch.SM75 and node.op_type in _PRODUCTS and onnx.TensorProto.FLOAT in kinds:
        cause = "multiplies matrices in FP32, which TensorRT-RTX cannot do on Turing"
        yield Finding(place=place, cause=cause, remedy=_KEEP_FP16)
