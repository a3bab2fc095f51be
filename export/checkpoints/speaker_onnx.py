"""Import a speaker network that comes as ONNX: WeSpeaker, 3D-Speaker, or any graph that a TOML file describes.

These graphs have no mask: an embedding is that of all their frames. So windows of one length are embedded, unpadded.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

from contract import digest
from contract.client import EXACT, MASKED, SpeakerSpec
from contract.errors import CheckpointError
from export.checkpoints import measuring, onnx_description, onnx_file, onnx_joining
from export.checkpoints.imported import ImportedSpeakerGraph
from export.checkpoints.onnx import find_graph, open_session
from export.checkpoints.onnx_description import DEFAULT_SIMILARITY, SPEAKER
from export.speech import Samples

# The cosine of an embedding alone and of the same one in a batch or with padding.
SAME_EMBEDDING = 1.0 - 1.0e-4
# Batch and embedding.
_RANK = 2
_EXPORT_AGAIN = "Export the network again with dynamic axes for the batch and the time"


def recognises(path: Path) -> bool:
    """Return whether a path is an ONNX graph of a speaker network, or a folder with one."""
    file = find_graph(path)
    if file is None:
        return False
    if file.with_suffix(".toml").is_file():
        return onnx_description.read_toml(file.with_suffix(".toml")).role == SPEAKER
    metadata = onnx_file.read_metadata(file)
    return metadata is not None and "framework" in metadata


def read(path: Path) -> ImportedSpeakerGraph:
    """Return the graph of a speaker network from audio to an embedding of unit length; raise CheckpointError."""
    graph = find_graph(path)
    if graph is None:
        cause = f"it is neither a {onnx_file.SUFFIX} file nor a folder with one"
        raise CheckpointError(path, cause, f"Name the {onnx_file.SUFFIX} file itself")
    file = onnx_file.read(graph)
    description = onnx_description.of_file(graph, file.metadata)
    if description.role != SPEAKER or description.speaker is None:
        raise CheckpointError(graph, "it is no speaker network", "Name it as `recogniser`, not as `speaker`")
    plan = onnx_joining.plan(file, description)
    behind_input = onnx_joining.with_input(file, description, plan)
    size = _embedding_size(graph, plan.scores, open_session(file, behind_input), description.speaker)
    joined = onnx_joining.with_unit_length(file, behind_input, size)
    session = open_session(file, joined)
    _check(graph, session, description.speaker)
    padding, remarks = _padding(graph, session, description.speaker, takes_lengths=plan.lengths is not None)
    return ImportedSpeakerGraph(
        graph=joined,
        dims={"embedding_size": size},
        speaker=replace(description.speaker, padding=padding),
        origin=f"{graph.name} ({description.source})",
        digest=digest.of_value([file.digest, description.source, *map(digest.of_file, description.files)]),
        remarks=(*remarks, *_default_remark(description.files), *onnx_file.remarks(file.model)),
        folder=file.folder,
    )


def _default_remark(files: tuple[Path, ...]) -> tuple[str, ...]:
    if files:
        return ()
    return (
        f"Two embeddings count as one speaker's above a cosine of {DEFAULT_SIMILARITY:g}, which was not measured for "
        "this network. Describe it in a TOML file with speaker.same_speaker_similarity.",
    )


def _embedding_size(graph: Path, name: str, session: onnxruntime.InferenceSession, speaker: SpeakerSpec) -> int:
    found = _run(graph, session, _windows(speaker)[:1], "scores")
    if found.ndim != _RANK:
        cause = f"its output {name!r} has {found.ndim} axes, and {_RANK} are needed: batch and embedding"
        raise CheckpointError(graph, cause, "Name the output of the embedding in the TOML file beside the graph")
    return int(found.shape[1])


def _check(graph: Path, session: onnxruntime.InferenceSession, speaker: SpeakerSpec) -> None:
    """Raise CheckpointError for a network whose embeddings depend on the batch, or do not depend on the speech."""
    windows = _windows(speaker)
    alone = np.concatenate([_run(graph, session, window[None], "embedding") for window in windows])
    together = _run(graph, session, windows, "embedding")
    if float((alone * together).sum(axis=-1).min()) < SAME_EMBEDDING:
        raise CheckpointError(graph, "its results depend on the other items of a batch", "Export it in evaluation mode")
    if float((alone[0] * alone[1]).sum()) > SAME_EMBEDDING:
        cause = "it has the same embedding for two windows of different speech"
        raise CheckpointError(graph, cause, "Check the kind and the scale of its input")


def _padding(
    graph: Path, session: onnxruntime.InferenceSession, speaker: SpeakerSpec, *, takes_lengths: bool
) -> tuple[str, tuple[str, ...]]:
    """Return the padding that a network bears, and a sentence where it bears none."""
    so = f"so windows of exactly {speaker.window_s:g} s are embedded."
    if not takes_lengths:
        return EXACT, (f"This network takes no lengths and would embed padding as speech, {so}",)
    window = _windows(speaker)[:1]
    half = window.shape[1] // 2
    cut = _run(graph, session, window[:, :half], "embedding")
    silent = np.where(np.arange(window.shape[1]) < half, window, 0.0).astype(np.float32)
    cosine = float((cut * _run(graph, session, silent, "embedding", half)).sum())
    if cosine >= SAME_EMBEDDING:
        return MASKED, ()
    found = f"half a window, and the same with padding, have a cosine of {cosine:.3f}"
    return EXACT, (f"Padding changes the embeddings of this network ({found}), {so}",)


def _windows(speaker: SpeakerSpec) -> Samples:
    """Return two windows of real speech, [2, samples]."""
    audio = measuring.speech(speaker.sample_rate_hz)
    size = min(round(speaker.window_s * speaker.sample_rate_hz), len(audio) // 2)
    return np.stack((audio[:size], audio[-size:]))


def _run(
    graph: Path, session: onnxruntime.InferenceSession, audio: Samples, output: str, length: int | None = None
) -> Samples:
    lengths = np.full(len(audio), audio.shape[1] if length is None else length, dtype=np.int32)
    try:
        (found,) = session.run([output], {"audio": audio, "audio_lengths": lengths})
    except Exception as error:
        cause = f"it fails on {len(audio)} x {audio.shape[1]} samples ({str(error).strip().splitlines()[0]})"
        raise CheckpointError(graph, cause, _EXPORT_AGAIN) from error
    if not np.isfinite(found).all():
        raise CheckpointError(graph, "its outputs are not finite", "Check the kind and the scale of its input")
    return np.asarray(found, dtype=np.float32)
