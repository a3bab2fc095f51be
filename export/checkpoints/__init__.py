"""Sources of weights, one per file; each returns a ready network and the parameters for its clients."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from contract.catalogue import Model
from export.checkpoints import production, random, reference
from export.checkpoints.checkpoint import Checkpoint

SOURCES: Mapping[str, Callable[[Model], Checkpoint]] = MappingProxyType(
    {
        "reference": reference.open_checkpoint,
        "random": random.open_checkpoint,
        "production": production.open_checkpoint,
    }
)
