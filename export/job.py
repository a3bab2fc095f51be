"""One graph to export: a model, its weights, a variant and a precision."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from contract.catalogue import Family, Model
from contract.graph import graph_name
from export.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """The input of tracing and of the parity check."""

    model: Model
    checkpoint: Checkpoint
    precision: str
    variant: str = ""
    """The graph within the family: "" for whole recordings, or the name of a streaming mode."""

    @property
    def family(self) -> Family:
        """Return the model's family with the tensors and modes of this graph."""
        return self.model.family.variants()[self.variant]

    @property
    def network(self) -> nn.Module:
        """Return the torch network; for a streaming mode, that of one step."""
        network: Any = self.checkpoint.network
        return network.streaming() if self.variant else network  # type: ignore[no-any-return]

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that are the same in every request: fixed by the weights or by the streaming mode."""
        fixed = self.family.modes[self.variant].fixed_axes() if self.variant else {}
        return {**self.checkpoint.dims, **fixed}

    @property
    def name(self) -> str:
        """Return the graph's name in the export record."""
        return graph_name(self.variant, self.precision)
