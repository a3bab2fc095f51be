"""A network with its weights, as every source of weights returns it."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A network in FP32 evaluation mode, with facts about its weights."""

    network: nn.Module
    dims: dict[str, int]
    """Sizes that depend on the weights, by the catalogue's axis names."""
    parameters: dict[str, str]
    """Values that clients need, such as the token list."""
    origin: str
    """Where the weights came from, as text without a path of this machine."""
    digest: str
    """SHA-256 of everything that determines the weights."""
