"""Random weights of any model's usual size: for tests and for benchmarks of size, never for a transcript."""

import json
from typing import Any, TypeAlias

import torch

from contract import digest
from contract.catalogue import Model
from export.checkpoints.checkpoint import Checkpoint
from export.networks import NETWORKS

SEED = 20_260_801
Settings: TypeAlias = dict[str, int]
# What the enhanced point has more of; the configurations' own defaults are the standard point.
ENHANCED: dict[str, Settings] = {
    "body": {"size": 192, "layers": 12, "hidden": 512},
    "acoustic": {"size": 192},
    "decoder": {"encoder_size": 192, "size": 192, "layers": 3, "hidden": 512},
    "language": {},
    "diarization": {"size": 256, "embedding": 192},
}


def open_checkpoint(model: Model) -> Checkpoint:
    """Make a network with random weights, the same at every call."""
    settings = ENHANCED[str(model.family.network)] if model.operating_point == "enhanced" else {}
    return made(model, settings, "random weights")


def made(model: Model, settings: Settings, what: str) -> Checkpoint:
    """Make a network whose configuration has these settings; `what` it is goes into the origin of its weights."""
    name = str(model.family.network)
    network_type: Any = NETWORKS[name]
    config = network_type.config_type(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        network = network_type(config).eval()
    origin = f"{what}, seed {SEED}"
    return Checkpoint(
        network=network,
        dims=network.dims,
        parameters=_parameters(name, network.dims),
        origin=origin,
        digest=digest.of_value([origin, model.name, repr(config)]),
    )


def _parameters(name: str, dims: dict[str, int]) -> dict[str, str]:
    if name == "acoustic":
        pieces = ["<blank>", "<unk>", "</s>"] + [f"▁{index}" for index in range(3, dims["vocabulary"])]
        return {"tokens": json.dumps(pieces, ensure_ascii=False)}
    return {"same_speaker_similarity": "0.5"} if name == "diarization" else {}
