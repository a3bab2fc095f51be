"""sherpa-onnx on the same weights: body and acoustic head as one model of its kind wenet_ctc, searched greedily.

sherpa-onnx computes the filter bank itself, so the graph begins behind the one of the body. It gets the segments of
the transcriber from memory: neither decoding nor the detection of voices counts for it.
"""

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from benchmarks.graphs import ExportedPoint
from contract import files
from contract.catalogue import CTC, ENCODER
from contract.errors import GraphError
from transcriber.audio import SAMPLE_RATE_HZ, Recording, Samples
from transcriber.segments import split

PACKAGE = "sherpa-onnx"
MODEL, TOKENS = "model.onnx", "tokens.txt"
BANDS = 80
_WINDOW, _HOP = 400, 160
CORES = os.cpu_count() or 1
# Threads of a run, runs at a time, segments of a run: it is measured in each way, and the fastest one counts.
WAYS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        f"one segment at a time on {CORES} threads": (CORES, 1, 1),
        f"{CORES} segments at a time, one thread each": (1, CORES, 1),
        f"{CORES} batches of 4 segments at a time, one thread each": (1, CORES, 4),
    }
)


def version() -> str:
    """Return the version of the package."""
    return metadata.version(PACKAGE)


def write_model(exported: ExportedPoint, folder: Path) -> None:
    """Write the model and its tokens as sherpa-onnx reads them; the weights are those of the exported graphs."""
    body, head = (onnx.load(exported.path(role, "fp32")) for role in (ENCODER, CTC))
    tokens = exported.records[CTC].client.tokens
    if tokens is None:
        raise GraphError(exported.records[CTC].model, "its record has no tokens", "Run `python -m export` again")
    model = joined(body, head)
    helper.set_model_props(
        model, {"model_type": "wenet_ctc", "subsampling_factor": "4", "vocab_size": str(len(tokens.pieces))}
    )
    onnx.checker.check_model(model)
    files.write(folder / MODEL, model.SerializeToString())
    pieces = ["<blk>" if token == tokens.blank else piece for token, piece in enumerate(tokens.pieces)]
    files.write(folder / TOKENS, "".join(f"{piece} {token}\n" for token, piece in enumerate(pieces)))


def joined(body: ModelProto, head: ModelProto) -> ModelProto:
    """Return one graph from features FP32 [N, T, bands] and their numbers of frames to all log-probabilities."""
    body = onnx.compose.add_prefix(body, "body.", rename_inputs=False, rename_outputs=False)
    head = onnx.compose.add_prefix(head, "head.", rename_inputs=False, rename_outputs=False)
    features = _log_mel(body.graph)
    log_probs = next(node.input[0] for node in head.graph.node if node.op_type == "TopK")
    nodes = [*_audio_of_features(), *body.graph.node, *head.graph.node]
    for node in nodes:
        names = ["x" if name == features else name for name in node.input]
        node.input[:] = names
    nodes += [
        helper.make_node("Identity", [log_probs], ["log_probs"]),
        helper.make_node("Cast", ["encoder_lengths"], ["log_probs_len"], to=TensorProto.INT64),
    ]
    used = _needed(nodes, ("log_probs", "log_probs_len"))
    read = {name for node in used for name in node.input}
    graph = helper.make_graph(
        used,
        "body_and_head",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", BANDS]),
            helper.make_tensor_value_info("x_lens", TensorProto.INT64, ["N"]),
        ],
        [
            helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["N", "frames", "V"]),
            helper.make_tensor_value_info("log_probs_len", TensorProto.INT64, ["N"]),
        ],
        initializer=[
            *_constants(),
            *(each for part in (body, head) for each in part.graph.initializer if each.name in read),
        ],
    )
    return helper.make_model(graph, opset_imports=body.opset_import, ir_version=body.ir_version)


def segments(recording: Path) -> list[Samples]:
    """Return the speech of a recording in segments, as the transcriber splits it."""
    return [segment.samples for segment in split(Recording(recording).blocks())]


class Sherpa:
    """A recogniser of sherpa-onnx in this process, with the filter bank of the weights."""

    def __init__(self, folder: Path, threads: int) -> None:
        import sherpa_onnx  # noqa: PLC0415
        from sherpa_onnx.offline_recognizer import _Recognizer  # noqa: PLC0415

        features = sherpa_onnx.FeatureExtractorConfig(
            sampling_rate=SAMPLE_RATE_HZ, feature_dim=BANDS, high_freq=0.0, normalize_samples=False, snip_edges=True
        )
        model = sherpa_onnx.OfflineModelConfig(
            wenet_ctc=sherpa_onnx.OfflineWenetCtcModelConfig(model=str(folder / MODEL)),
            tokens=str(folder / TOKENS),
            num_threads=threads,
            provider="cpu",
            model_type="wenet_ctc",
        )
        config = sherpa_onnx.OfflineRecognizerConfig(
            feat_config=features, model_config=model, decoding_method="greedy_search"
        )
        self._recogniser = _Recognizer(config)

    def recognise(self, parts: Sequence[Samples]) -> list[str]:
        """Return the text of each segment; several are recognised together."""
        streams = [self._recogniser.create_stream() for _ in parts]
        for stream, samples in zip(streams, parts, strict=True):
            stream.accept_waveform(SAMPLE_RATE_HZ, samples)
        self._recogniser.decode_streams(streams)
        return [str(stream.result.text).strip() for stream in streams]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    parts: list[Samples]
    one_core: Sherpa
    all_cores: Sherpa


# Of the process that runs it: it has an ONNX Runtime of its own, so it gets a process of its own.
_OPENED: list[_Opened] = []


def open_ways(folder: Path, recording: Path) -> None:
    """Load the model and the segments of a recording into this process, for `run`."""
    _OPENED.append(_Opened(parts=segments(recording), one_core=Sherpa(folder, 1), all_cores=Sherpa(folder, CORES)))


def run(way: str) -> tuple[float, str]:
    """Recognise the recording in one of WAYS; return the seconds that it took, and the text."""
    (opened,) = _OPENED
    threads, callers, batch = WAYS[way]
    recogniser = opened.one_core if threads == 1 else opened.all_cores
    groups = [opened.parts[start : start + batch] for start in range(0, len(opened.parts), batch)]
    with ThreadPoolExecutor(callers) as pool:
        began = time.perf_counter()
        texts = [text for group in pool.map(recogniser.recognise, groups) for text in group]
        return time.perf_counter() - began, " ".join(texts)


def _log_mel(graph: GraphProto) -> str:
    """Return the name of the features inside a body, [N, T, bands]."""
    log = next(node for node in graph.node if node.op_type == "Log")
    return next(
        str(node.output[0]) for node in graph.node if node.op_type == "Transpose" and log.output[0] in node.input
    )


def _audio_of_features() -> list[NodeProto]:
    """Return the nodes that make what the body reads of its audio but the features: its shape and its lengths."""
    return [
        helper.make_node("Shape", ["x"], ["peer.batch"], start=0, end=1),
        helper.make_node("Shape", ["x"], ["peer.frames"], start=1, end=2),
        helper.make_node("Mul", ["peer.frames", "peer.hop"], ["peer.hops"]),
        helper.make_node("Add", ["peer.hops", "peer.rest"], ["peer.samples"]),
        helper.make_node("Concat", ["peer.batch", "peer.samples"], ["peer.shape"], axis=0),
        helper.make_node("ConstantOfShape", ["peer.shape"], ["audio"]),
        helper.make_node("Mul", ["x_lens", "peer.hop"], ["peer.length_hops"]),
        helper.make_node("Add", ["peer.length_hops", "peer.rest"], ["peer.lengths"]),
        helper.make_node("Cast", ["peer.lengths"], ["audio_lengths"], to=TensorProto.INT32),
    ]


def _constants() -> list[Any]:
    values = {"peer.hop": _HOP, "peer.rest": _WINDOW - _HOP}
    return [helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in values.items()]


def _needed(nodes: Sequence[NodeProto], outputs: Sequence[str]) -> list[NodeProto]:
    """Return the nodes, in order, on which the outputs depend."""
    wanted, used = set(outputs), list[NodeProto]()
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            used.append(node)
    return used[::-1]
