"""The networks, one per file, and the table that maps the catalogue's network names to their classes."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from export.networks.conformer_encoder import ConformerEncoder
from export.networks.ctc_head import CtcHead
from export.networks.decoder import Decoder
from export.networks.speaker_encoder import SpeakerEncoder
from export.networks.transformer_lm import TransformerLm

NETWORKS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "body": ConformerEncoder,
        "acoustic": CtcHead,
        "decoder": Decoder,
        "diarization": SpeakerEncoder,
        "language": TransformerLm,
    }
)
