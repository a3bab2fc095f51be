"""Random weights in the size of a commercial system, for benchmarks of the cost of that size at any operating point.

The body has 122 million parameters. The Conformer L of arXiv:2005.08100 has 118 million with its decoder, in 17 layers
of size 512. The body has 20 layers, because a layer has no matrix for relative positions and the subsampling is
smaller. The other networks are those of the enhanced point with the encoder size of this body. Next to it their cost is
small.
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
    """Build a network of production size with random weights, the same at every call."""
    return random.build(model, _SETTINGS[str(model.family.network)], "random weights of production size")
