"""A network with its weights, as every source of weights returns it."""

from dataclasses import dataclass

from torch import nn

from contract.catalogue import PRECISIONS
from contract.client import AudioSpec, ClientSpec
from contract.frames import FrameRule


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A network in FP32 evaluation mode, with facts about its weights."""

    network: nn.Module
    dims: dict[str, int]
    """Sizes that depend on the weights, by the catalogue's axis names."""
    client: ClientSpec
    """What clients must know about the weights."""
    origin: str
    """Where the weights came from, as text without a path of this machine."""
    digest: str
    """SHA-256 of everything that determines the weights."""
    precisions: tuple[str, ...] = PRECISIONS
    """The precisions that it can be exported in."""


def audio_spec(sample_rate_hz: int, frames: FrameRule) -> AudioSpec:
    """Return the audio that an encoder takes, with the times of its frames by its rule."""
    return AudioSpec(
        sample_rate_hz=sample_rate_hz,
        shortest_samples=frames.shortest,
        hop_s=frames.hop / sample_rate_hz,
        first_centre_s=frames.first_centre / sample_rate_hz,
    )
