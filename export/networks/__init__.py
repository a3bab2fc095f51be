"""One network a file; the table says which family is made by which."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from export.networks.acoustic import Acoustic
from export.networks.body import Body
from export.networks.decoder import Decoder
from export.networks.diarization import Diarization
from export.networks.language import Language

NETWORKS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {"body": Body, "acoustic": Acoustic, "decoder": Decoder, "diarization": Diarization, "language": Language}
)
