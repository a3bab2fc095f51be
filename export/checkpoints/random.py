"""Random weights in the usual size of each model, for tests and for benchmarks of speed, not for transcripts."""

from typing import Any, TypeAlias

import torch

from contract import digest
from contract.catalogue import LM, RESCORER, Model
from contract.client import ClientSpec, SearchSpec
from export.checkpoints import roles
from export.checkpoints.checkpoint import Checkpoint
from export.networks import NETWORKS

SEED = 20_260_801
Settings: TypeAlias = dict[str, int]
# Where the enhanced point differs from the standard point, which is the default of each configuration.
ENHANCED: dict[str, Settings] = {
    "body": {"size": 192, "layers": 12, "hidden": 512},
    "acoustic": {"size": 192},
    "decoder": {"encoder_size": 192, "size": 192, "layers": 3, "hidden": 512},
    "language": {},
    "diarization": {"size": 256, "embedding": 192},
}
# Clients need weights of the search also for a head that recognises nothing.
_SEARCH = SearchSpec(rescorers={RESCORER: 1.0, LM: 1.0}, rescorers_with_ngram={RESCORER: 1.0, LM: 1.0})


def open_checkpoint(model: Model) -> Checkpoint:
    """Build a network with random weights, the same at every call."""
    settings = ENHANCED[str(model.family.network)] if model.operating_point == "enhanced" else {}
    return build(model, settings, "random weights")


def build(model: Model, settings: Settings, description: str) -> Checkpoint:
    """Build a network whose configuration has these settings; `description` becomes part of the origin."""
    name = str(model.family.network)
    network_type: Any = NETWORKS[name]
    config = network_type.config_type(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        network = network_type(config).eval()
    origin, client = f"{description}, seed {SEED}", _client(model, network.dims)
    return Checkpoint(
        network=roles.with_front_end(network, model.family.role),
        dims=network.dims,
        client=client,
        origin=origin,
        digest=digest.of_value([origin, model.name, repr(config), client.to_table()]),
    )


def _client(model: Model, dims: dict[str, int]) -> ClientSpec:
    pieces = ("<blank>", "<unk>", "</s>", *(f"▁{index}" for index in range(3, dims.get("vocabulary", 3))))
    return roles.client_spec(model, pieces=pieces, search=_SEARCH, same_speaker_similarity=0.5)
