"""Join a graph from elsewhere with the parts around it: one graph from audio to the outputs of the catalogue."""

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
import torch
from onnx import TensorProto, compose, helper
from torch import Tensor, nn

from contract.errors import CheckpointError
from contract.frames import FrameRule
from export.checkpoints.onnx_description import Description, Ends
from export.checkpoints.onnx_file import OnnxFile
from export.networks.graph_parts import (
    BANDS_TIME,
    CHANNEL_TIME,
    TIME,
    TIME_BANDS,
    TIME_BATCH,
    TIME_TOKENS,
    TOKENS_TIME,
    GraphInput,
    Part,
    TopTokens,
    TopTokensConfig,
    UnitLength,
)
from export.tracing import OPSET

BATCH, SAMPLES, ENCODER_FRAMES = "batch", "samples", "encoder_frames"
PREFIX, _HEAD = "network/", "head/"
_FLOATS: dict[int, torch.dtype] = {TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16}
_INTEGERS: dict[int, torch.dtype] = {TensorProto.INT64: torch.int64, TensorProto.INT32: torch.int32}
# torch.export treats a dimension of size one as a constant. All sizes of the example differ.
_EXAMPLE_BATCH, _EXAMPLE_SAMPLES, _EXAMPLE_FRAMES = 2, 8_000, 37
_NAME_THEM = "Name the tensors in the TOML file beside the graph, or export a graph without the others"
_EXPORT_AGAIN = "Export it again with dynamic axes"
# The axes of an input of audio, and of one with channels or bands.
_TIME_ONLY, _WITH_CHANNELS = 2, 3

Axis = int | str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The tensors of a graph that are joined, by their names there."""

    values: str
    lengths: str | None
    scores: str
    score_lengths: str | None
    layout: str
    value_type: int
    length_type: int | None


def plan(file: OnnxFile, description: Description) -> Plan:
    """Return how a graph is joined; raise CheckpointError for inputs and outputs that do not fit its description."""
    graph = file.model.graph
    weights = {each.name for each in file.weights}
    inputs = {each.name: each for each in graph.input if each.name not in weights}
    outputs = {each.name: each for each in graph.output}
    values, lengths = _chosen(file, inputs, description.inputs, "input")
    scores, score_lengths = _chosen(file, outputs, description.outputs, "output")
    unknown = sorted(inputs.keys() - {values, lengths})
    if unknown:
        cause = f"it has inputs besides audio and lengths: {', '.join(unknown)}. A step of a stream is not supported"
        raise CheckpointError(file.path, cause, _NAME_THEM)
    value_type = inputs[values].type.tensor_type.elem_type
    length_type = inputs[lengths].type.tensor_type.elem_type if lengths else None
    axes = _axes(inputs[values])
    _check_dynamic(file, values, axes, description)
    return Plan(
        values=values,
        lengths=lengths,
        scores=scores,
        score_lengths=score_lengths,
        layout=_layout(axes, description),
        value_type=value_type,
        length_type=length_type,
    )


def with_input(file: OnnxFile, description: Description, found: Plan) -> onnx.ModelProto:
    """Return the graph behind its input part: audio and audio_lengths to its own outputs `scores` and `lengths`."""
    needs_frames = description.speaker is None and found.score_lengths is None
    frames = description.frames if needs_frames else None
    front = onnx.ModelProto.FromString(
        _input_graph(description.part, found.layout, found.value_type, found.length_type, frames)
    )
    network = onnx.ModelProto()
    network.CopyFrom(file.model)
    kept = {found.scores: "scores"}
    if found.score_lengths and description.speaker is None:
        kept[found.score_lengths] = "lengths"
    _keep_outputs(network.graph, kept)
    network = compose.add_prefix(network, PREFIX)
    pairs = [
        ("values", PREFIX + found.values),
        *([("value_lengths", PREFIX + found.lengths)] if found.lengths else []),
    ]
    joined = _merge(file, front, network, pairs)
    for name, target in kept.items():
        _rename_output(joined.graph, PREFIX + name, target)
    return joined


def with_head(file: OnnxFile, joined: onnx.ModelProto, head: TopTokensConfig, vocabulary: int) -> onnx.ModelProto:
    """Return a graph of with_input with the outputs of a CTC head."""
    types = (_output_type(joined, "scores"), _output_type(joined, "lengths"))
    tail = compose.add_prefix(onnx.ModelProto.FromString(_head_graph(head, vocabulary, *types)), _HEAD)
    merged = _merge(file, joined, tail, [(name, _HEAD + name) for name in ("scores", "lengths")])
    return _finished(
        file,
        merged,
        {
            "top_log_probs": (TensorProto.FLOAT, (BATCH, ENCODER_FRAMES, head.top)),
            "top_tokens": (TensorProto.INT32, (BATCH, ENCODER_FRAMES, head.top)),
            "encoder_lengths": (TensorProto.INT32, (BATCH,)),
        },
    )


def with_unit_length(file: OnnxFile, joined: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """Return a graph of with_input with the output of a speaker network."""
    example = torch.zeros(_EXAMPLE_BATCH, size).to(_FLOATS[_output_type(joined, "scores")])
    tail = compose.add_prefix(trace(UnitLength(), {"scores": example}, {"scores": {0: BATCH}}, ["embedding"]), _HEAD)
    merged = _merge(file, joined, tail, [("scores", _HEAD + "scores")])
    return _finished(file, merged, {"embedding": (TensorProto.FLOAT, (BATCH, size))})


# A part is traced once in a process: that takes a second, and networks of one kind have the same parts.
@cache
def _input_graph(part: Part, layout: str, value_type: int, length_type: int | None, frames: FrameRule | None) -> bytes:
    module = GraphInput(
        part.module,
        layout=layout,
        value_type=_FLOATS[value_type],
        length_type=None if length_type is None else _INTEGERS[length_type],
        frames=frames,
    )
    lengths = [] if length_type is None else ["value_lengths"]
    model = trace(
        module,
        {"audio": torch.zeros(_EXAMPLE_BATCH, _EXAMPLE_SAMPLES), "audio_lengths": _lengths(_EXAMPLE_SAMPLES)},
        {"audio": {0: BATCH, 1: SAMPLES}, "audio_lengths": {0: BATCH}},
        ["values", *lengths, *([] if frames is None else ["lengths"])],
    )
    return bytes(model.SerializeToString())


@cache
def _head_graph(head: TopTokensConfig, vocabulary: int, score_type: int, length_type: int) -> bytes:
    shapes: dict[str, tuple[Axis, ...]] = {
        TIME_TOKENS: (BATCH, ENCODER_FRAMES, vocabulary),
        TOKENS_TIME: (BATCH, vocabulary, ENCODER_FRAMES),
        TIME_BATCH: (ENCODER_FRAMES, BATCH, vocabulary),
    }
    axes = shapes[head.layout]
    sizes = {BATCH: _EXAMPLE_BATCH, ENCODER_FRAMES: _EXAMPLE_FRAMES}
    example = torch.zeros([sizes[axis] if isinstance(axis, str) else axis for axis in axes])
    model = trace(
        TopTokens(head),
        {
            "scores": example.to(_FLOATS[score_type]),
            "lengths": _lengths(_EXAMPLE_FRAMES).to(_INTEGERS[length_type]),
        },
        {"scores": {place: axis for place, axis in enumerate(axes) if isinstance(axis, str)}, "lengths": {0: BATCH}},
        ["top_log_probs", "top_tokens", "encoder_lengths"],
    )
    return bytes(model.SerializeToString())


def trace(
    module: nn.Module, example: Mapping[str, Tensor], axes: Mapping[str, dict[int, str]], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Return the graph of a part, with the dynamic axes of each input by their place."""
    shared = {name: torch.export.Dim(name) for each in axes.values() for name in each.values()}
    dynamic = tuple({place: shared[name] for place, name in axes[key].items()} for key in example)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        # The exporter warns of its own deprecated parts, which a user cannot change.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            tuple(example.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(example),
            output_names=list(outputs),
            dynamic_shapes=dynamic,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model: onnx.ModelProto = program.model_proto
    return _without_traces(model)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    # The exporter records stack traces with paths of this machine.
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def _lengths(size: int) -> Tensor:
    return torch.full((_EXAMPLE_BATCH,), size, dtype=torch.int32)


def _chosen(
    file: OnnxFile, tensors: Mapping[str, onnx.ValueInfoProto], names: Ends, what: str
) -> tuple[str, str | None]:
    for name in (names.values, names.lengths):
        if name is not None and name not in tensors:
            raise CheckpointError(file.path, f"it has no {what} {name!r}, but {', '.join(sorted(tensors))}", _NAME_THEM)
    kinds = {name: each.type.tensor_type.elem_type for name, each in tensors.items()}
    floats = [names.values] if names.values else [name for name in tensors if kinds[name] in _FLOATS]
    integers = [names.lengths] if names.lengths else [name for name in tensors if kinds[name] in _INTEGERS]
    if len(floats) != 1 or len(integers) > 1:
        cause = (
            f"which {what} holds the values and which the lengths is not evident from {', '.join(tensors) or 'none'}"
        )
        raise CheckpointError(file.path, cause, _NAME_THEM)
    lengths = integers[0] if integers else None
    for name, known in ((floats[0], _FLOATS), (lengths, _INTEGERS)):
        if name is not None and kinds[name] not in known:
            found = TensorProto.DataType.Name(kinds[name])
            usual = " or ".join(TensorProto.DataType.Name(kind) for kind in known)
            raise CheckpointError(file.path, f"its {what} {name!r} is {found}, and {usual} is needed", _NAME_THEM)
    return str(floats[0]), lengths


def _axes(value: onnx.ValueInfoProto) -> tuple[Axis, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims)


def _check_dynamic(file: OnnxFile, name: str, axes: tuple[Axis, ...], description: Description) -> None:
    ranks = (_WITH_CHANNELS,) if description.bands is not None else (_TIME_ONLY, _WITH_CHANNELS)
    if len(axes) not in ranks:
        cause = f"its input {name!r} has {len(axes)} axes, and {' or '.join(map(str, ranks))} are needed"
        raise CheckpointError(file.path, cause, "Correct input.kind in the TOML file beside the graph")
    if isinstance(axes[0], int):
        cause = f"its input {name!r} is fixed to a batch of {axes[0]}, so a server cannot form batches of its requests"
        raise CheckpointError(file.path, cause, _EXPORT_AGAIN)
    if all(isinstance(axis, int) for axis in axes[1:]):
        cause = f"its input {name!r} is fixed to {' x '.join(map(str, axes[1:]))}, so it takes only one length of audio"
        raise CheckpointError(file.path, cause, _EXPORT_AGAIN)
    channels = 1 if description.bands is None else description.bands
    other = [axis for axis in axes[1:] if isinstance(axis, int) and axis != channels]
    if other:
        cause = f"its input {name!r} has an axis of {other[0]}, where {channels} is needed"
        raise CheckpointError(file.path, cause, "Correct input.kind or input.bands in the TOML file beside the graph")


def _layout(axes: tuple[Axis, ...], description: Description) -> str:
    if description.bands is None:
        return TIME if len(axes) == _TIME_ONLY else CHANNEL_TIME
    if description.bands in axes:
        return BANDS_TIME if axes[1] == description.bands else TIME_BANDS
    # Some exports leave the bands dynamic too.
    return description.part.layout


def _keep_outputs(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    kept = [each for each in graph.output if each.name in names]
    del graph.output[:]
    graph.output.extend(kept)


def _rename_output(graph: onnx.GraphProto, name: str, target: str) -> None:
    """Rename an output by an Identity, since other nodes and branches may read it by its old name."""
    for value in graph.output:
        if value.name == name:
            value.name = target
    graph.node.append(helper.make_node("Identity", [name], [target], name=f"output {target}"))


def _merge(
    file: OnnxFile, first: onnx.ModelProto, second: onnx.ModelProto, pairs: Sequence[tuple[str, str]]
) -> onnx.ModelProto:
    version = max(first.ir_version, second.ir_version)
    first.ir_version = second.ir_version = version
    _align_domains(first, second)
    try:
        joined = compose.merge_models(first, second, io_map=list(pairs))
    except (ValueError, onnx.checker.ValidationError) as error:
        raise _not_joined(file, error) from error
    return joined


def _not_joined(file: OnnxFile, error: Exception) -> CheckpointError:
    cause = f"it cannot be joined with the parts around it ({str(error).strip().splitlines()[0]})"
    return CheckpointError(file.path, cause, "Export the graph again, without custom operators")


def _align_domains(*models: onnx.ModelProto) -> None:
    """State the standard operators under one name, since "" and ai.onnx are the same domain."""
    for model in models:
        versions = {each.domain: each.version for each in model.opset_import}
        versions[""] = versions.pop("ai.onnx", versions.get("", OPSET))
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(domain, number) for domain, number in versions.items())


def _output_type(model: onnx.ModelProto, name: str) -> int:
    found: Any = next(each for each in model.graph.output if each.name == name)
    return int(found.type.tensor_type.elem_type)


def _finished(
    file: OnnxFile, model: onnx.ModelProto, outputs: Mapping[str, tuple[int, tuple[Axis, ...]]]
) -> onnx.ModelProto:
    """Return the whole graph with the catalogue's names, types and axes at its ends."""
    graph = model.graph
    for name in outputs:
        _rename_output(graph, _HEAD + name, name)
    weights = {PREFIX + each.name for each in file.weights}
    inputs = [each for each in graph.input if each.name in weights]
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend(
        [
            *inputs,
            helper.make_tensor_value_info("audio", TensorProto.FLOAT, [BATCH, SAMPLES]),
            helper.make_tensor_value_info("audio_lengths", TensorProto.INT32, [BATCH]),
        ]
    )
    graph.output.extend(helper.make_tensor_value_info(name, kind, axes) for name, (kind, axes) in outputs.items())
    graph.name, model.producer_name, model.producer_version, model.doc_string = "voxwright", "voxwright", "", ""
    _align_domains(model)
    try:
        # Without strict inference of shapes: it also fails for graphs that run, such as those with custom operators.
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise _not_joined(file, error) from error
    return file.whole(model, PREFIX)
