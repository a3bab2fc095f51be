"""A network with its weights, as every source hands it over."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A network in FP32 evaluation mode, and what is known of its weights."""

    network: nn.Module
    dims: dict[str, int]
    """Sizes that depend on the weights, by the catalogue's axis names."""
    parameters: dict[str, str]
    """What clients must know, such as the token list."""
    origin: str
    """Where the weights came from, in words without a path of this machine."""
    digest: str
    """SHA-256 of all that decides the weights."""
