"""One graph to be made: a model, its weights and a precision."""

from dataclasses import dataclass

from torch import nn

from contract.catalogue import Family, Model
from export.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What tracing and parity work on."""

    model: Model
    checkpoint: Checkpoint
    precision: str

    @property
    def family(self) -> Family:
        """Give the model's family."""
        return self.model.family

    @property
    def network(self) -> nn.Module:
        """Give the torch network."""
        return self.checkpoint.network

    @property
    def dims(self) -> dict[str, int]:
        """Give the sizes that depend on the weights."""
        return self.checkpoint.dims
