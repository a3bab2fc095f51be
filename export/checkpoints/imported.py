"""What an importer makes of a checkpoint that comes from elsewhere: networks or a graph, and what clients must know."""

from dataclasses import dataclass
from pathlib import Path

import onnx
from torch import nn

from contract.client import AudioSpec, SpeakerSpec, TokenSpec
from contract.frames import FrameRule


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """A recogniser as torch networks."""

    encoder: nn.Module
    """Takes audio FP32 [B, S] in [-1, 1) and audio_lengths INT32 [B]. Returns encoder_out [B, T, D], zero where padded,
    and encoder_lengths INT32 [B], each at least 1."""
    head: nn.Module
    """The CTC head."""
    rescorer: nn.Module | None = None
    """Takes encoder_out, encoder_lengths, hypotheses INT [B, N, L] and hypothesis_lengths INT [B, N]. Returns scores
    FP32 [B, N]."""
    audio: AudioSpec
    frames: FrameRule
    """From samples to encoder frames; equals encoder_lengths."""
    tokens: TokenSpec
    rescorer_weight: float | None = None
    origin: str
    """Text for people, without a path of this machine."""
    digest: str
    """SHA-256 of everything that determines the weights."""
    remarks: tuple[str, ...] = ()
    """Sentences for the user: what this network cannot do, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedGraph:
    """A recogniser as one ONNX graph, which is its own reference: the role ctc, without encoder_out."""

    graph: onnx.ModelProto
    """Takes audio FP32 [batch, samples] and audio_lengths INT32 [batch]. Returns top_log_probs FP32 and top_tokens
    INT32, each [batch, encoder_frames, top], and encoder_lengths INT32 [batch]."""
    dims: dict[str, int]
    """The axes vocabulary and top."""
    audio: AudioSpec
    frames: FrameRule
    tokens: TokenSpec
    origin: str
    digest: str
    remarks: tuple[str, ...] = ()
    folder: Path | None = None
    """The folder of the files with the weights of a large graph; None where the graph holds them itself."""
    precisions: tuple[str, ...] = ("fp32",)
    """The graph is not converted to FP16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedSpeaker:
    """A speaker network as a torch network."""

    network: nn.Module
    """Takes audio FP32 [B, S] and audio_lengths INT32 [B]. Returns embedding FP32 [B, E], of unit length."""
    speaker: SpeakerSpec
    origin: str
    digest: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedSpeakerGraph:
    """A speaker network as one ONNX graph, which is its own reference."""

    graph: onnx.ModelProto
    """Takes audio FP32 [batch, samples] and audio_lengths INT32 [batch]. Returns embedding FP32 [batch, E], of unit
    length."""
    dims: dict[str, int]
    """The axis embedding_size."""
    speaker: SpeakerSpec
    origin: str
    digest: str
    remarks: tuple[str, ...] = ()
    folder: Path | None = None
    """The folder of the files with the weights of a large graph; None where the graph holds them itself."""
    precisions: tuple[str, ...] = ("fp32",)
