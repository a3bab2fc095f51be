"""Networks small enough to trace in a second or two, one a family."""

from collections.abc import Callable
from typing import Any

import torch

from contract.catalogue import Model, catalogue, models
from export.checkpoints.checkpoint import Checkpoint
from export.job import Job
from export.networks.acoustic import Acoustic, AcousticConfig
from export.networks.body import Body, BodyConfig
from export.networks.decoder import Decoder, DecoderConfig
from export.networks.diarization import Diarization, DiarizationConfig
from export.networks.language import Language, LanguageConfig

SIZE = 16


def network(family: str) -> Any:
    """Make a network of a family with random weights, the same at every call."""
    torch.manual_seed(3)
    makers: dict[str, Callable[[], Any]] = {
        "body": lambda: Body(
            BodyConfig(size=SIZE, layers=1, heads=2, hidden=16, kernel=3, channels=4, conditioned=(1,), vocabulary=12)
        ),
        "am_en": lambda: Acoustic(AcousticConfig(size=SIZE, vocabulary=32)),
        "decoder": lambda: Decoder(DecoderConfig(size=SIZE, encoder_size=SIZE, layers=1, heads=2, vocabulary=32)),
        "lm": lambda: Language(LanguageConfig(size=SIZE, layers=1, heads=2, hidden=16, vocabulary=32)),
        "diar": lambda: Diarization(DiarizationConfig(size=SIZE, dilations=(1, 2), attention=8, embedding=8)),
    }
    return makers[family]().eval()


def model(family: str) -> Model:
    """Give a family's model at a point that it has."""
    families = catalogue()
    point = families[family].operating_points[-1]
    return models(families)[f"{family}_{point}"]


def job(family: str, precision: str = "fp32") -> Job:
    """Make the export job of a small network."""
    made = network(family)
    checkpoint = Checkpoint(network=made, dims=made.dims, parameters={}, origin="a test", digest="0")
    return Job(model=model(family), checkpoint=checkpoint, precision=precision)
