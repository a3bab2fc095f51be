"""One graph to be made: a model, its weights, a variant and a precision."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from contract.catalogue import Family, Model
from contract.graph import graph_name
from export.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What tracing and parity work on."""

    model: Model
    checkpoint: Checkpoint
    precision: str
    variant: str = ""
    """Which of the family's graphs: that of whole recordings, or the mode of streams that has its own."""

    @property
    def family(self) -> Family:
        """Give the model's family as this graph has it."""
        return self.model.family.variants()[self.variant]

    @property
    def network(self) -> nn.Module:
        """Give the torch network: of a stream, that of its step."""
        network: Any = self.checkpoint.network
        return network.streaming() if self.variant else network  # type: ignore[no-any-return]

    @property
    def dims(self) -> dict[str, int]:
        """Give the sizes that do not change from request to request: by the weights, and in a stream by its mode."""
        fixed = self.family.modes[self.variant].fixed() if self.variant else {}
        return {**self.checkpoint.dims, **fixed}

    @property
    def name(self) -> str:
        """Name the graph as its record does."""
        return graph_name(self.variant, self.precision)
