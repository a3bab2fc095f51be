"""Read an ONNX file from elsewhere with limits, bring it to this project's opset, and list what no GPU compiles.

The weights of a graph that is too large for one file stay in their files. They are inputs of the graph while it is
converted and joined, because converter and checker take a message only. `OnnxFile.whole` makes them weights again.
"""

import contextlib
import copy
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, external_data_helper, inliner, version_converter

from contract import digest, graph
from contract.errors import CheckpointError
from export.tracing import OPSET

SUFFIX = ".onnx"
_DAMAGED = "Copy the file again, or export it again"
# The parser of TensorRT-RTX 1.7 refuses these, whatever the architecture; tests/integration/test_onnx_networks.py
# compares the two. Graphs that ONNX Runtime has quantised dynamically hold the integer ones.
UNSUPPORTED = frozenset(
    {"Compress", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear", "MatMulInteger", "NonZero", "Unique"}
)
# TensorRT-RTX has no FP32 matrix product on Turing.
_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum"})
# Where a cache of the Hugging Face hub keeps its files; its snapshots have links to them.
_BLOBS = "blobs"
_STANDARD_DOMAINS = ("", "ai.onnx")
# Weights that a network shares may be stored once. Large networks have some ten thousand nodes.
_MOST_SHARED, _MOST_NODES, _MOST_CALLS = 4, 1_000_000, 100


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxFile:
    """A graph from elsewhere, at this project's opset."""

    path: Path
    model: onnx.ModelProto
    metadata: dict[str, str]
    digest: str
    """SHA-256 of the file and of its external data."""
    data_folder: Path
    """The folder of its external data."""
    weights: tuple[TensorProto, ...] = ()
    """The weights of a large graph, which are in files beside it; in the model they are inputs."""

    @property
    def folder(self) -> Path | None:
        """Return the folder of the files with the weights; None where the model holds them itself."""
        return self.data_folder if self.weights else None

    def whole(self, model: onnx.ModelProto, prefix: str) -> onnx.ModelProto:
        """Return a model that was made of this one with the weights that are its inputs as weights again.

        `prefix` stands before their names in the model.
        """
        names = {prefix + each.name for each in self.weights} & {each.name for each in model.graph.input}
        if not names:
            return model
        found = copy.deepcopy(model)
        inputs = [each for each in found.graph.input if each.name not in names]
        del found.graph.input[:]
        found.graph.input.extend(inputs)
        found.graph.initializer.extend(self.weights)
        for weight in found.graph.initializer[-len(self.weights) :]:
            weight.name = prefix + weight.name
        return found


def read_metadata(path: Path) -> dict[str, str] | None:
    """Return the metadata of an ONNX file; None for another file."""
    model = _parse(path)
    return None if model is None else {each.key: each.value for each in model.metadata_props}


def read(path: Path) -> OnnxFile:
    """Return the graph of a file; raise CheckpointError for a damaged one, and for data outside of its folder."""
    if path.stat().st_size >= graph.LARGEST_FILE_BYTES:
        cause = f"it has {path.stat().st_size >> 20} MiB, and an ONNX file holds {graph.LARGEST_FILE_BYTES >> 20}"
        raise CheckpointError(path, cause, "Export it with its weights as external data, in a file beside it")
    model = _parse(path)
    if model is None:
        raise CheckpointError(path, "it is not an ONNX graph", _DAMAGED)
    data_files, folder = _external_files(path, model)
    is_large = sum(each.stat().st_size for each in (path, *data_files)) >= graph.LARGEST_FILE_BYTES
    metadata = {each.key: each.value for each in model.metadata_props}
    try:
        _check_extents(folder, model)
        _check_growth(path, folder, model)
        weights = _detached(model) if is_large else ()
        external_data_helper.load_external_data_for_model(model, str(folder))
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(path, f"its graph is damaged ({_first_line(error)})", _DAMAGED) from error
    return OnnxFile(
        path=path,
        model=_at_current_opset(path, _tidied(model)),
        metadata=metadata,
        digest=digest.of_value([digest.of_file(each) for each in (path, *data_files)]),
        data_folder=folder,
        weights=weights,
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


def _detached(model: onnx.ModelProto) -> tuple[TensorProto, ...]:
    """Turn the external weights of a graph into inputs; return them. Small ones stay, for the converter reads them."""
    inner, known = model.graph, {each.name for each in model.graph.input}
    all_weights = [copy.copy(each) for each in inner.initializer]
    del inner.initializer[:]
    weights = []
    for each in all_weights:
        if not _is_external(each) or _size(each) <= graph.SMALLEST_DATA_BYTES:
            inner.initializer.append(each)
            continue
        weights.append(each)
        if each.name not in known:
            inner.input.append(onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims))
    return tuple(weights)


def _check_growth(path: Path, folder: Path, model: onnx.ModelProto) -> None:
    """Raise CheckpointError for a graph that is far larger in memory than its files: it would fill the memory."""
    external = list(filter(_is_external, _tensors(model)))
    names = {external_data_helper.ExternalDataInfo(each).location for each in external}
    held = sum((folder / name).stat().st_size for name in names)
    if sum(abs(_size(each)) for each in external) > _MOST_SHARED * held:
        cause = f"its tensors are more than {_MOST_SHARED} times as large as its external data"
        raise CheckpointError(path, cause, _DAMAGED)
    counts: dict[tuple[str, str], int] = {}
    functions = {(each.domain, each.name): each for each in model.functions}
    if _count_nodes(path, model.graph, functions, counts, 0) > _MOST_NODES:
        cause = f"its local functions make more than {_MOST_NODES} nodes"
        raise CheckpointError(path, cause, "Export the network again, without local functions")


def _count_nodes(
    path: Path,
    holder: onnx.GraphProto | onnx.FunctionProto,
    functions: Mapping[tuple[str, str], onnx.FunctionProto],
    counts: dict[tuple[str, str], int],
    depth: int,
) -> int:
    """Return the nodes of a graph or a function in which each call is replaced by what it calls."""
    if depth > _MOST_CALLS:
        cause = f"its local functions call each other more than {_MOST_CALLS} deep"
        raise CheckpointError(path, cause, "Export the network again, without local functions")
    total = 0
    for node in _nodes(holder):
        called = (node.domain, node.op_type)
        if called in functions and called not in counts:
            counts[called] = _count_nodes(path, functions[called], functions, counts, depth + 1)
        total += counts.get(called, 1)
    return total


def _check_extents(folder: Path, model: onnx.ModelProto) -> None:
    """Raise ValueError for a tensor that does not lie within its file."""
    for tensor in filter(_is_external, _tensors(model)):
        place = external_data_helper.ExternalDataInfo(tensor)
        size, offset = (folder / place.location).stat().st_size, place.offset or 0
        length = size - offset if place.length is None else place.length
        if offset + length > size or length != _size(tensor):
            raise ValueError(f"tensor {tensor.name!r} does not lie within {place.location!r}")


def _is_external(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def _size(tensor: TensorProto) -> int:
    """Return the bytes of a tensor; those of types below a byte are packed."""
    kind = onnx_ir.DataType(tensor.data_type)
    bits: int = math.prod(tensor.dims) * kind.bitwidth
    return -(-bits // 8)


def _external_files(path: Path, model: onnx.ModelProto) -> tuple[list[Path], Path]:
    """Return the files that hold a graph's weights outside it, and their folder.

    In a cache of the Hugging Face hub, where files are links to its blobs, the graph then names the blobs. Raises
    CheckpointError for any other file outside the folder of the graph.
    """
    entries = [
        entry
        for tensor in filter(_is_external, _tensors(model))
        for entry in tensor.external_data
        if entry.key == "location"
    ]
    found = {name: _external_file(path, name) for name in sorted({entry.value for entry in entries})}
    blobs = [data.parent for name, data in found.items() if data != path.parent / name]
    folder = blobs[0] if blobs else path.parent
    if any(folder not in data.parents for data in found.values()):
        cause = "some of its external data are links to the hub's blobs, and some are files"
        raise CheckpointError(path, cause, "Download the network again")
    for entry in entries:
        entry.value = str(found[entry.value].relative_to(folder))
    return list(found.values()), folder


def _external_file(path: Path, name: str) -> Path:
    """Return a file that a graph names; raise CheckpointError for one outside its folder."""
    data = path.parent / name
    if _is_blob(data):
        return data.resolve()
    if Path(name).is_absolute() or ".." in Path(name).parts or _has_link(path.parent, Path(name)):
        cause = f"its external data {name!r} is not a plain file in its folder"
        raise CheckpointError(path, cause, "Put the data beside the graph, as it was exported")
    if not data.is_file():
        raise CheckpointError(path, f"its external data {name!r} is missing", "Put the data beside the graph")
    return data


def _is_blob(path: Path) -> bool:
    """Return whether a path is a link in a snapshot of the Hugging Face hub to a blob of the same repository."""
    target, folder = path.resolve(), path.parent.resolve()
    repository = target.parent.parent
    in_snapshot = repository / "snapshots" in folder.parents
    return path.is_symlink() and target.is_file() and target.parent.name == _BLOBS and in_snapshot


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


def _nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
                yield from _nodes(inner)


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor, those of branches, loops and local functions too."""
    yield from model.graph.initializer
    for holder in (model.graph, *model.functions):
        for attribute in (each for node in _nodes(holder) for each in node.attribute):
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
            for inner in (*attribute.graphs, attribute.g):
                yield from inner.initializer


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
