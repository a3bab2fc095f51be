"""Import a CTC network that comes as ONNX: sherpa-onnx, onnx-asr, or any graph that a TOML file describes.

The graph is its own reference: nothing in it changes. An input part makes of audio what the graph takes, and a head
makes of its output the best tokens of each frame.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from contract import digest
from contract.client import AudioSpec, TokenSpec
from contract.errors import CheckpointError
from export.checkpoints import graph_network, measuring, onnx_description, onnx_file, onnx_joining
from export.checkpoints.imported import ImportedGraph
from export.checkpoints.measuring import Recogniser
from export.checkpoints.onnx_description import CTC, Description
from export.checkpoints.onnx_file import OnnxFile
from export.checkpoints.onnx_joining import Plan
from export.networks.graph_parts import LOG_PROBS, LOGITS, PROBABILITIES, TIME_TOKENS, TOKENS_TIME, TopTokensConfig
from export.speech import Samples

TOP = 16
USUAL_NAME = "model.onnx"
_LOG_FATAL_ONLY = 4
# Batch, time, tokens.
_RANK = 3
# Sums of probabilities in FP16 are this close to 1.
_SUM_TOLERANCE = 1.0e-2
_REMEDY = "Use a network with CTC, or name its output in the TOML file beside the graph"


def recognises(path: Path) -> bool:
    """Return whether a path is an ONNX graph of a CTC network, or a folder with one.

    A folder with the graphs of a transducer or of Whisper is recognised too, so that `read` states why it is refused.
    """
    if _separate_graphs(path):
        return True
    file = find_graph(path)
    if file is None:
        return False
    if file.with_suffix(".toml").is_file():
        return onnx_description.read_toml(file.with_suffix(".toml")).role == CTC
    metadata = onnx_file.read_metadata(file)
    return metadata is not None and "framework" not in metadata


def read(path: Path) -> ImportedGraph:
    """Return the graph of a CTC network from audio to its best tokens; raise CheckpointError."""
    graph = _graph(path)
    file = onnx_file.read(graph)
    description = onnx_description.of_file(graph, file.metadata)
    if description.role != CTC or description.tokens is None:
        raise CheckpointError(graph, "it is a speaker network", "Name it as `speaker`, not as `recogniser`")
    plan = onnx_joining.plan(file, description)
    behind_input = onnx_joining.with_input(file, description, plan)
    session = open_session(file, behind_input)
    vocabulary, kind = _output(file, description, plan, session)
    tokens = description.tokens.spec(vocabulary)
    network = _recogniser(session, kind, description.layout)
    found = measuring.measure(network, graph, description.frames, tokens.blank, description.sample_rate_hz)
    head = TopTokensConfig(top=min(TOP, vocabulary), blank=tokens.blank, kind=kind, layout=description.layout)
    return ImportedGraph(
        graph=onnx_joining.with_head(file, behind_input, head, vocabulary),
        dims={"vocabulary": vocabulary, "top": head.top},
        audio=_audio(description, found),
        frames=description.frames,
        tokens=tokens,
        origin=f"{graph.name} ({description.source})",
        digest=digest.of_value([file.digest, *map(digest.of_file, (*description.files, description.tokens.file))]),
        remarks=(
            *found.remarks(tokens.blank, tokens.pieces),
            *_token_remarks(tokens),
            *onnx_file.remarks(file.model),
            found.figures(),
        ),
        folder=file.folder,
    )


def find_graph(path: Path) -> Path | None:
    """Return the ONNX file that a path names: itself, model.onnx of a folder, or the only one of a folder."""
    if path.is_file():
        return path if path.suffix == onnx_file.SUFFIX else None
    if not path.is_dir():
        return None
    found = sorted(path.glob(f"*{onnx_file.SUFFIX}"))
    described = [each for each in found if each.with_suffix(".toml").is_file()]
    usual = [each for each in found if each.name == USUAL_NAME]
    for group in (described, usual, found):
        if len(group) == 1:
            return group[0]
    return None


def _separate_graphs(path: Path) -> bool:
    names = [each.name for each in path.glob(f"*{onnx_file.SUFFIX}")] if path.is_dir() else []
    return all(any(part in name for name in names) for part in ("encoder", "decoder"))


def open_session(file: OnnxFile, model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Open a graph that was made of a file in ONNX Runtime on the CPU; raise CheckpointError when it does not load."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY
    try:
        return graph_network.session(file.whole(model, onnx_joining.PREFIX), file.folder, options)
    except Exception as error:
        cause = f"ONNX Runtime does not load it ({str(error).strip().splitlines()[0]})"
        raise CheckpointError(file.path, cause, "Export the graph again") from error


def _graph(path: Path) -> Path:
    graph = find_graph(path)
    if graph is None and _separate_graphs(path):
        cause = "it holds encoder and decoder as separate graphs, as transducers and Whisper have, and no CTC network"
        raise CheckpointError(path, cause, "Use a network with CTC, such as the CTC head of a hybrid network of NeMo")
    if graph is None:
        cause = f"it is neither a {onnx_file.SUFFIX} file nor a folder with one, or with one {USUAL_NAME}"
        raise CheckpointError(path, cause, f"Name the {onnx_file.SUFFIX} file itself")
    return graph


def _output(
    file: OnnxFile, description: Description, plan: Plan, session: onnxruntime.InferenceSession
) -> tuple[int, str]:
    """Return the number of outputs of a network and what they hold, from its values for real speech."""
    rate = description.sample_rate_hz
    size = round(measuring.LEAST_S * rate)
    try:
        scores = _scores(session, measuring.speech(rate)[None, :size], np.array([size], dtype=np.int32))[0]
    except Exception as error:
        cause = f"it fails on 1 x {size} samples ({str(error).strip().splitlines()[0]})"
        raise CheckpointError(file.path, cause, "Check the kind of its input and its dynamic axes") from error
    if scores.ndim != _RANK:
        cause = f"its output {plan.scores!r} has {scores.ndim} axes, and {_RANK} are needed: batch, time, tokens"
        raise CheckpointError(file.path, cause, _REMEDY)
    values = _as_rows(scores.astype(np.float32), description.layout)
    kind = _kind(values)
    stated = description.kind
    if stated is not None and stated != kind and not (stated == LOGITS and kind == LOG_PROBS):
        cause = f"its output {plan.scores!r} holds {kind}, and its description states {stated}"
        raise CheckpointError(file.path, cause, "Correct output.kind in the TOML file beside the graph")
    return values.shape[-1], kind


def _kind(values: NDArray[np.float32]) -> str:
    if (values >= 0.0).all() and np.allclose(values.sum(axis=-1), 1.0, atol=_SUM_TOLERANCE):
        return PROBABILITIES
    if (values <= _SUM_TOLERANCE).all() and np.allclose(np.exp(values).sum(axis=-1), 1.0, atol=_SUM_TOLERANCE):
        return LOG_PROBS
    return LOGITS


def _recogniser(session: onnxruntime.InferenceSession, kind: str, layout: str) -> Recogniser:
    def run(audio: Samples, lengths: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        scores, found = _scores(session, audio, lengths)
        return _as_log_probs[kind](_as_rows(scores.astype(np.float32), layout)), found

    return run


def _scores(
    session: onnxruntime.InferenceSession, audio: Samples, lengths: NDArray[np.int32]
) -> tuple[NDArray[Any], NDArray[Any]]:
    scores, found = session.run(["scores", "lengths"], {"audio": audio, "audio_lengths": lengths})
    return scores, found


def _as_rows(scores: NDArray[np.float32], layout: str) -> NDArray[np.float32]:
    """Return [batch, time, tokens]."""
    if layout == TIME_TOKENS:
        return scores
    return scores.transpose((0, 2, 1) if layout == TOKENS_TIME else (1, 0, 2))


def _log_softmax(values: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = values - values.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _log(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.log(np.maximum(values, np.finfo(np.float32).tiny)))


_as_log_probs: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    LOG_PROBS: lambda values: values,
    LOGITS: _log_softmax,
    PROBABILITIES: _log,
}


def _audio(description: Description, found: measuring.Measurement) -> AudioSpec:
    rate = description.sample_rate_hz
    return AudioSpec(
        sample_rate_hz=rate,
        shortest_samples=found.shortest_samples,
        hop_s=description.frames.hop / rate,
        first_centre_s=description.first_centre / rate,
        padding=found.padding,
    )


def _token_remarks(tokens: TokenSpec) -> tuple[str, ...]:
    unused = sum(piece.startswith("<unused ") for piece in tokens.pieces)
    return (f"The token list does not name {unused} of the network's outputs; they are never text.",) if unused else ()
