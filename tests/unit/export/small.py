"""Networks small enough to trace in a second or two, one per family."""

from collections.abc import Callable
from typing import Any

import torch

from contract.catalogue import LM, RESCORER, Model, read_catalogue
from contract.client import ClientSpec, SearchSpec
from export.checkpoints import roles
from export.checkpoints.checkpoint import Checkpoint
from export.job import Job
from export.networks.conformer_encoder import ConformerEncoder, ConformerEncoderConfig
from export.networks.ctc_head import CtcHead, CtcHeadConfig
from export.networks.decoder import Decoder, DecoderConfig
from export.networks.speaker_encoder import SpeakerEncoder, SpeakerEncoderConfig
from export.networks.transformer_lm import TransformerLm, TransformerLmConfig

SIZE = 16
FAMILIES = ("body", "am_en", "decoder", "lm", "diar")
ENCODER = ConformerEncoderConfig(
    size=SIZE, layers=1, heads=2, hidden=16, kernel=3, channels=4, conditioned=(1,), vocabulary=12
)


def network(family: str) -> Any:
    """Build a network of a family with random weights, the same at every call; without the front end for audio."""
    torch.manual_seed(3)
    builders: dict[str, Callable[[], Any]] = {
        "body": lambda: ConformerEncoder(ENCODER),
        "am_en": lambda: CtcHead(CtcHeadConfig(size=SIZE, vocabulary=32)),
        "decoder": lambda: Decoder(DecoderConfig(size=SIZE, encoder_size=SIZE, layers=1, heads=2, vocabulary=32)),
        "lm": lambda: TransformerLm(TransformerLmConfig(size=SIZE, layers=1, heads=2, hidden=16, vocabulary=32)),
        "diar": lambda: SpeakerEncoder(SpeakerEncoderConfig(size=SIZE, dilations=(1, 2), attention=8, embedding=8)),
    }
    return builders[family]().eval()


def model(family: str) -> Model:
    """Return a family's model at the last operating point that it has."""
    catalogue = read_catalogue()
    point = catalogue.families[family].operating_points[-1]
    return catalogue.models()[f"{family}_{point}"]


def whole(family: str) -> Any:
    """Build a network as it is exported: one for audio begins with the filter bank."""
    return roles.with_front_end(network(family), model(family).family.role)


def client(family: str) -> ClientSpec:
    """Return what clients must know about a small network."""
    weights = {RESCORER: 1.0, LM: 1.0}
    return roles.client_spec(
        model(family),
        pieces=("<blank>", "<unk>", "</s>", *(f"▁{index}" for index in range(3, 32))),
        search=SearchSpec(rescorers=weights, rescorers_with_ngram=weights),
        same_speaker_similarity=0.5,
    )


def checkpoint(family: str) -> Checkpoint:
    """Return a small network as a source of weights would."""
    built = whole(family)
    return Checkpoint(network=built, dims=built.dims, client=client(family), origin="a test", digest="1")


def job(family: str, precision: str = "fp32", variant: str = "") -> Job:
    """Return the export job of a small network."""
    return Job(model=model(family), checkpoint=checkpoint(family), precision=precision, variant=variant)
