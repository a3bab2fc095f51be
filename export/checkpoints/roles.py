"""Complete a network of this project's own kinds: give it its front end, and describe it to clients by its role."""

from typing import Any

from torch import nn

from contract.catalogue import CTC, ENCODER, SPEAKER, Model
from contract.client import SEGMENTS, ClientSpec, SearchSpec, SpeakerSpec, TokenSpec
from contract.frames import Stride
from export.checkpoints.checkpoint import audio_spec
from export.networks.front_end import FilterBank, FilterBankConfig, FromAudio
from export.networks.reserved_tokens import BLANK, BOUNDARY, UNKNOWN
from export.networks.speaker_encoder import WindowedSpeakerEncoder

FRONT_END = FilterBankConfig()
"""The filter bank that all reference networks were trained with."""
SPEAKER_WINDOW_S, SPEAKER_HOP_S = 2.0, 0.75


def with_front_end(network: nn.Module, role: str) -> nn.Module:
    """Return a network that takes audio, if its role is one that does; other networks unchanged."""
    if role == SPEAKER:
        network = windowed(network)
    return FromAudio(FilterBank(FRONT_END), network).eval() if role in (ENCODER, SPEAKER) else network


def windowed(network: Any) -> WindowedSpeakerEncoder:
    """Return the network of a SpeakerEncoder that embeds every window of a segment."""
    frames = Stride(kernel=FRONT_END.window_samples, stride=FRONT_END.hop_samples)
    window = frames.count(round(SPEAKER_WINDOW_S * FRONT_END.sample_rate_hz))
    return WindowedSpeakerEncoder(network, window, round(SPEAKER_HOP_S / FRONT_END.hop_s))


def token_spec(pieces: tuple[str, ...]) -> TokenSpec:
    """Return the tokens of a reference network with these pieces."""
    return TokenSpec(pieces=pieces, blank=BLANK, unspoken=(UNKNOWN, BOUNDARY), boundary=BOUNDARY)


def speaker_spec(same_speaker_similarity: float) -> SpeakerSpec:
    """Return what clients must know about the network of `windowed`."""
    return SpeakerSpec(
        sample_rate_hz=FRONT_END.sample_rate_hz,
        same_speaker_similarity=same_speaker_similarity,
        window_s=SPEAKER_WINDOW_S,
        hop_s=SPEAKER_HOP_S,
        takes=SEGMENTS,
    )


def client_spec(
    model: Model,
    *,
    pieces: tuple[str, ...] = (),
    search: SearchSpec | None = None,
    same_speaker_similarity: float | None = None,
) -> ClientSpec:
    """Return what clients must know about a model; each role uses the values that it needs."""
    role, frames = model.family.role, model.family.frames
    if role == ENCODER and frames is not None:
        return ClientSpec(audio=audio_spec(FRONT_END.sample_rate_hz, frames))
    if role == CTC:
        return ClientSpec(tokens=token_spec(pieces), search=search)
    if role == SPEAKER and same_speaker_similarity is not None:
        return ClientSpec(speaker=speaker_spec(same_speaker_similarity))
    return ClientSpec()
