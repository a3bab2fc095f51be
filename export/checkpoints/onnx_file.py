"""Read an ONNX file from elsewhere with limits, bring it to this project's opset, and list what no GPU compiles."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, external_data_helper, inliner, version_converter

from contract import digest
from contract.errors import CheckpointError
from export.tracing import OPSET

SUFFIX = ".onnx"
# A protobuf message holds at most 2 GiB, and the joined graph is one message.
LARGEST_BYTES = (1 << 31) - (64 << 20)
LARGEST_MEBIBYTES = LARGEST_BYTES >> 20
_DAMAGED = "Copy the file again, or export it again"
_TOO_LARGE = "Use the checkpoint that the graph was exported from, or a smaller network"
# The parser of TensorRT-RTX 1.7 refuses these, whatever the architecture; tests/integration/test_onnx_networks.py
# compares the two. Graphs that ONNX Runtime has quantised dynamically hold the integer ones.
UNSUPPORTED = frozenset(
    {"Compress", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear", "MatMulInteger", "NonZero", "Unique"}
)
# TensorRT-RTX has no FP32 matrix product on Turing.
_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum"})
_STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxFile:
    """A graph from elsewhere, in one piece and at this project's opset."""

    path: Path
    model: onnx.ModelProto
    metadata: dict[str, str]
    digest: str
    """SHA-256 of the file and of its external data."""


def read_metadata(path: Path) -> dict[str, str] | None:
    """Return the metadata of an ONNX file; None for another file."""
    model = _parse(path)
    return None if model is None else {each.key: each.value for each in model.metadata_props}


def read(path: Path) -> OnnxFile:
    """Return the graph of a file; raise CheckpointError for a damaged one, and for one that is too large to join."""
    _check_size(path, path.stat().st_size)
    model = _parse(path)
    if model is None:
        raise CheckpointError(path, "it is not an ONNX graph", _DAMAGED)
    data_files = _external_files(path, model)
    _check_size(path, path.stat().st_size + sum(each.stat().st_size for each in data_files))
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        raise CheckpointError(path, f"its graph is damaged ({_first_line(error)})", _DAMAGED) from error
    metadata = {each.key: each.value for each in model.metadata_props}
    return OnnxFile(
        path=path,
        model=_at_current_opset(path, _tidied(model)),
        metadata=metadata,
        digest=digest.of_value([digest.of_file(each) for each in (path, *data_files)]),
    )


def remarks(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return sentences about operators that keep a graph from GPUs: from all of them, or from Turing."""
    unsupported = sorted({node.op_type for node in _nodes(model.graph) if node.op_type in UNSUPPORTED})
    foreign = sorted({node.domain for node in _nodes(model.graph)} - set(_STANDARD_DOMAINS))
    found = []
    if unsupported:
        names = ", ".join(unsupported)
        found.append(f"No NVIDIA GPU runs this graph, because TensorRT does not know its operators {names}.")
    if foreign:
        found.append(
            f"This graph may run on no GPU, because TensorRT knows only some of the operators of {', '.join(foreign)}."
        )
    products = _single_precision_products(model)
    if products:
        found.append(
            "This graph does not compile for Turing (sm75), because it multiplies matrices in FP32 "
            f"(MatMul or Gemm nodes: {products}) and is not converted to FP16."
        )
    return tuple(found)


def _parse(path: Path) -> onnx.ModelProto | None:
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError):
        return None
    # A protobuf message has no mark of its own: text of another kind can pass for an empty graph.
    return model if model.graph.node and model.graph.input and model.graph.output else None


def _check_size(path: Path, size: int) -> None:
    if size > LARGEST_BYTES:
        cause = f"it and its external data have {size >> 20} MiB, and a joined graph may have {LARGEST_MEBIBYTES}"
        raise CheckpointError(path, cause, _TOO_LARGE)


def _external_files(path: Path, model: onnx.ModelProto) -> list[Path]:
    """Return the files that hold a graph's weights outside it; raise CheckpointError for one outside its folder."""
    names = {
        entry.value
        for tensor in _tensors(model.graph)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    found = []
    for name in sorted(names):
        data = path.parent / name
        if Path(name).is_absolute() or ".." in Path(name).parts or _has_link(path.parent, Path(name)):
            cause = f"its external data {name!r} is not a plain file in its folder"
            raise CheckpointError(path, cause, "Put the data beside the graph, as it was exported")
        if not data.is_file():
            raise CheckpointError(path, f"its external data {name!r} is missing", "Put the data beside the graph")
        found.append(data)
    return found


def _has_link(folder: Path, name: Path) -> bool:
    return any((folder / part).is_symlink() for part in (name, *name.parents))


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph without local functions, stated shapes of inner values, and weights among its inputs."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = model.graph
    weights = {each.name for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in weights]
    del graph.input[:], graph.value_info[:], model.metadata_props[:]
    graph.input.extend(inputs)
    return model


def _at_current_opset(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    version = next((each.version for each in model.opset_import if each.domain in _STANDARD_DOMAINS), OPSET)
    if version == OPSET:
        return model
    try:
        # The converter prints what it cannot convert.
        with contextlib.redirect_stderr(io.StringIO()):
            return version_converter.convert_version(model, OPSET)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        cause = f"its opset {version} cannot be converted to {OPSET} ({_first_line(error)})"
        raise CheckpointError(path, cause, f"Export the graph with opset {OPSET}") from error


def _single_precision_products(model: onnx.ModelProto) -> int:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {each.name: each.type.tensor_type.elem_type for each in (*inferred.value_info, *inferred.input)}
    kinds |= {each.name: each.data_type for each in inferred.initializer}
    return sum(
        node.op_type in _PRODUCTS and TensorProto.FLOAT in {kinds.get(name) for name in node.input}
        for node in _nodes(inferred)
    )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
                yield from _nodes(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in _nodes(graph):
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from attribute.g.initializer


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
