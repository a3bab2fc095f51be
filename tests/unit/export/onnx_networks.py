"""Small networks in ONNX as other tools write them: convolutions over time, a linear layer, and lengths."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Axis = int | str
Step = tuple[int, int]
VOCABULARY = 11
PIECES = ("<blk>", "<unk>", "▁a", "b", "▁c", "d", "▁e", "f", "▁g", "h", "i")
TOML = """
schema_version = 1
role = "ctc"
sample_rate_hz = 16000

[input]
kind = "audio"

[output]
frames = [[400, 160], [3, 2]]

[tokens]
file = "tokens.txt"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """What a small network is made of; by default it takes audio and its lengths."""

    values: str = "waveform"
    axes: tuple[Axis, ...] = ("N", "T")
    lengths: str | None = "waveform_lengths"
    steps: tuple[Step, ...] = ((400, 160), (3, 2))
    """Kernel and stride of each convolution; none has padding."""
    scores: str = "log_probs"
    score_lengths: str | None = "log_probs_lengths"
    length_type: int = TensorProto.INT64
    tail: str | None = "LogSoftmax"
    pooled: bool = False
    """Whether every frame depends on the mean over all frames, padded ones too."""
    positions: int | None = None
    """The frames that its table of positions has."""
    order: tuple[int, int, int] | None = None
    """The order of the output's axes, of batch, time and tokens."""
    averaged: bool = False
    """Whether every item depends on the mean over the batch."""
    vocabulary: int = VOCABULARY
    opset: int = 18
    metadata: tuple[tuple[str, str], ...] = ()
    extra_input: str | None = None
    extra_nodes: tuple[NodeProto, ...] = ()
    gain: float = 1.0

    @property
    def bands_first(self) -> bool:
        """Return whether the bands come before the time."""
        return len(self.axes) == 3 and self.axes[1] in (1, 80)


NEMO = Network(
    values="audio_signal",
    axes=("B", 80, "T"),
    lengths="length",
    # Every second frame, three times.
    steps=((1, 2), (1, 2), (1, 2)),
    scores="logprobs",
    score_lengths=None,
)
SHERPA_NEMO = replace(
    NEMO,
    metadata=(
        ("model_type", "EncDecCTCModelBPE"),
        ("vocab_size", "10"),
        ("subsampling_factor", "8"),
        ("normalize_type", "per_feature"),
    ),
)
SHERPA_WENET = Network(
    values="x",
    axes=("N", "T", 80),
    lengths="x_lens",
    steps=((3, 2), (3, 2)),
    scores="log_probs",
    score_lengths="log_probs_lens",
    opset=13,
    metadata=(("model_type", "wenet_ctc"), ("vocab_size", "11"), ("subsampling_factor", "4")),
)
SHERPA_ZIPFORMER = Network(
    values="x",
    axes=("N", "T", 80),
    lengths="x_lens",
    steps=((9, 2), (1, 2)),
    scores="log_probs",
    score_lengths="log_probs_len",
    opset=13,
    metadata=(("model_type", "zipformer2_ctc"),),
)
WAV2VEC2 = Network(
    values="input_values",
    lengths="input_lengths",
    steps=((10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2),
    scores="logprobs",
    score_lengths=None,
)


def build(network: Network) -> onnx.ModelProto:
    """Return the graph of a network, with weights that are the same at every call."""
    weights: list[TensorProto] = []
    nodes = [*_encoder(network, weights), *_lengths(network, weights), *network.extra_nodes]
    inputs = [helper.make_tensor_value_info(network.values, TensorProto.FLOAT, network.axes)]
    if network.lengths:
        inputs.append(helper.make_tensor_value_info(network.lengths, network.length_type, [network.axes[0]]))
    if network.extra_input:
        inputs.append(helper.make_tensor_value_info(network.extra_input, TensorProto.FLOAT, ["N", 4]))
    outputs = [_scores(network)]
    if network.score_lengths:
        outputs.append(helper.make_tensor_value_info(network.score_lengths, network.length_type, [network.axes[0]]))
    graph = helper.make_graph(nodes, "network", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", network.opset)], ir_version=8)
    helper.set_model_props(model, dict(network.metadata))
    onnx.checker.check_model(model)
    return model


def write_tokens(path: Path, pieces: Sequence[str] = PIECES) -> None:
    """Write a token list as sherpa-onnx has it."""
    path.write_text("".join(f"{piece} {number}\n" for number, piece in enumerate(pieces)), encoding="utf-8")


def write_described(folder: Path, network: Network, text: str = TOML, pieces: Sequence[str] = PIECES) -> Path:
    """Write a network with its TOML file and its tokens; return the path of the graph."""
    folder.mkdir(exist_ok=True)
    path = folder / "network.onnx"
    onnx.save(build(network), path)
    path.with_suffix(".toml").write_text(text, encoding="utf-8")
    write_tokens(folder / "tokens.txt", pieces)
    return path


def write_sherpa(folder: Path, network: Network, pieces: Sequence[str] = PIECES) -> Path:
    """Write a network in the layout of sherpa-onnx; return its folder."""
    folder.mkdir(exist_ok=True)
    onnx.save(build(network), folder / "model.onnx")
    write_tokens(folder / "tokens.txt", pieces)
    return folder


def write_onnx_asr(folder: Path, network: Network, config: Mapping[str, object]) -> Path:
    """Write a network in the layout of onnx-asr; return its folder."""
    folder.mkdir(exist_ok=True)
    onnx.save(build(network), folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_tokens(folder / "vocab.txt", [*PIECES[1:], "<blk>"])
    return folder


def _encoder(network: Network, weights: list[TensorProto]) -> list[NodeProto]:
    random = np.random.default_rng(7)
    nodes: list[NodeProto] = []
    value, channels = network.values, 1
    if len(network.axes) == 2:
        weights.append(_constant("channel_axis", np.array([1])))
        nodes.append(helper.make_node("Unsqueeze", [value, "channel_axis"], ["with_channel"]))
        value = "with_channel"
    else:
        channels = next(axis for axis in network.axes if isinstance(axis, int) and axis != 2)
        if not network.bands_first:
            nodes.append(helper.make_node("Transpose", [value], ["bands_first"], perm=[0, 2, 1]))
            value = "bands_first"
    for place, (kernel, stride) in enumerate(network.steps):
        scale = network.gain / np.sqrt(channels * kernel)
        weights.append(_constant(f"kernel{place}", _normal(random, (16, channels, kernel), scale)))
        nodes.append(helper.make_node("Conv", [value, f"kernel{place}"], [f"conv{place}"], strides=[stride]))
        nodes.append(helper.make_node("Tanh", [f"conv{place}"], [f"layer{place}"]))
        value, channels = f"layer{place}", 16
    if network.positions:
        weights.append(_constant("table", _normal(random, (1, channels, network.positions), 0.1)))
        weights += [_constant("zero", np.array([0])), _constant("time_axis", np.array([2]))]
        nodes.append(helper.make_node("Shape", [value], ["frames"], start=2))
        nodes.append(helper.make_node("Slice", ["table", "zero", "frames", "time_axis"], ["positions"]))
        nodes.append(helper.make_node("Add", [value, "positions"], ["with_positions"]))
        value = "with_positions"
    if network.pooled:
        nodes.append(helper.make_node("GlobalAveragePool", [value], ["pooled"]))
        nodes.append(helper.make_node("Add", [value, "pooled"], ["with_pool"]))
        value = "with_pool"
    if network.averaged:
        nodes.append(helper.make_node("ReduceMax", [value, "batch_axis"], ["over_batch"]))
        weights.append(_constant("batch_axis", np.array([0])))
        nodes.append(helper.make_node("Add", [value, "over_batch"], ["with_batch"]))
        value = "with_batch"
    weights.append(_constant("linear", _normal(random, (channels, network.vocabulary), 1.0)))
    nodes.append(helper.make_node("Transpose", [value], ["time_first"], perm=[0, 2, 1]))
    nodes.append(helper.make_node("MatMul", ["time_first", "linear"], ["logits"]))
    value = "logits"
    if network.tail:
        nodes.append(helper.make_node(network.tail, ["logits"], ["normalised"], axis=-1))
        value = "normalised"
    nodes.append(helper.make_node("Transpose", [value], [network.scores], perm=network.order or (0, 1, 2)))
    return nodes


def _lengths(network: Network, weights: list[TensorProto]) -> list[NodeProto]:
    if not network.score_lengths:
        return []
    kind = np.int64 if network.length_type == TensorProto.INT64 else np.int32
    nodes, value = [], str(network.lengths)
    for place, (kernel, stride) in enumerate(network.steps):
        last = network.score_lengths if place == len(network.steps) - 1 else f"length{place}"
        weights.append(_constant(f"minus{place}", np.array(stride - kernel, dtype=kind)))
        weights.append(_constant(f"stride{place}", np.array(stride, dtype=kind)))
        nodes.append(helper.make_node("Add", [value, f"minus{place}"], [f"shifted{place}"]))
        nodes.append(helper.make_node("Div", [f"shifted{place}", f"stride{place}"], [last]))
        value = last
    return nodes


def _scores(network: Network) -> ValueInfoProto:
    axes: tuple[Axis, ...] = (network.axes[0], "frames", network.vocabulary)
    return helper.make_tensor_value_info(
        network.scores, TensorProto.FLOAT, [axes[place] for place in network.order or (0, 1, 2)]
    )


def _constant(name: str, values: NDArray[np.generic]) -> TensorProto:
    return numpy_helper.from_array(values, name)


def _normal(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    return (random.normal(size=shape) * scale).astype(np.float32)
