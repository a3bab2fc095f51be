"""Random weights of the size of a commercial system: for benchmarks of what such a size costs, at any operating point.

The body has 122 million parameters; the Conformer L of arXiv:2005.08100 has 118 with its decoder, in 17 layers of 512.
Here they are 20, since a layer has no matrix for relative positions, and the subsampling is smaller. The other networks
are those of the enhanced point with an encoder size that fits: beside such a body they hardly count.
"""

from contract.catalogue import Model
from export.checkpoints import random
from export.checkpoints.checkpoint import Checkpoint

_SIZE = 512
_SETTINGS: dict[str, random.Settings] = {
    **random.ENHANCED,
    "body": {"size": _SIZE, "layers": 20, "heads": 8, "hidden": 4 * _SIZE, "channels": _SIZE},
    "acoustic": {"size": _SIZE},
    "decoder": {**random.ENHANCED["decoder"], "encoder_size": _SIZE},
}


def open_checkpoint(model: Model) -> Checkpoint:
    """Make a network of production size with random weights, the same at every call."""
    return random.made(model, _SETTINGS[str(model.family.network)], "random weights of production size")
