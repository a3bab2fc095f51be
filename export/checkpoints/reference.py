"""The reference weights: safetensors files in FP16 with their network's configuration in the metadata.

The metadata of a file holds three JSON texts: `network` (a key of export.networks.NETWORKS), `config` (the fields of
the network's configuration) and `parameters` (strings that clients need and that depend on the weights, such as the
token list). A network that is part of another one, as the body of `standard` is part of that of `enhanced`, stores only
the weights that differ. A fourth text, `within`, then names the other file, relative to the folder above, and its
digest.

The n-gram model of a family is a file next to its weights and is added to the parameters here. So are the weights of
the search, `search_weights`, which training records in figures.json.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from contract import digest
from contract.catalogue import Model
from contract.errors import CheckpointError
from export.checkpoints.checkpoint import Checkpoint
from export.checkpoints.weight_keys import current_key
from export.networks import NETWORKS

REFERENCE_FOLDER = Path(__file__).parent / "reference"
NO_WEIGHTS = "there are no reference weights for this model"
"""The cause of the CheckpointError that open_checkpoint raises when the file does not exist."""
_RESCORERS = ("decoder", "lm")


def checkpoint_path(family: str, operating_point: str) -> Path:
    """Return the path of a model's reference weights."""
    return REFERENCE_FOLDER / operating_point / f"{family}.safetensors"


def ngram_path(family: str, operating_point: str) -> Path:
    """Return the path of the n-gram model for clients of a CTC head; not every family has one."""
    return REFERENCE_FOLDER / operating_point / f"{family}.ngram"


def search_weights(operating_point: str) -> str:
    """Return the weights of a point's search and rescorers as JSON, from what `python -m training weighting` recorded.

    {"ngram", "bonus", "rescorers": {family: weight}, "rescorers_with_ngram": {family: weight}}: see
    transcriber/search_weights.py. Raises CheckpointError when figures.json has no such weights.
    """
    path = REFERENCE_FOLDER / "figures.json"
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))[f"weighting_{operating_point}"]
        rescorers = [family for family in _RESCORERS if family in figures]
        return json.dumps(
            {
                "ngram": figures["ngram"],
                "bonus": figures["bonus"],
                "rescorers": {family: figures[family] for family in rescorers},
                "rescorers_with_ngram": {family: figures[f"{family}_ngram"] for family in rescorers},
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = f"it has no weights of the search for {operating_point} ({error!r})"
        raise CheckpointError(path, cause, "Run `python -m training weighting`, or restore the file") from error


def open_checkpoint(model: Model) -> Checkpoint:
    """Read the reference weights of a model; raise CheckpointError if there are none, or of another network."""
    path = checkpoint_path(model.family.name, model.operating_point)
    if not path.is_file():
        remedy = "Train them with `python -m training`, or use `--weights random` to try the pipeline without them"
        raise CheckpointError(model.name, NO_WEIGHTS, remedy)
    network, parameters = load(path)
    expected: Any = NETWORKS[str(model.family.network)]
    if not isinstance(network, expected):
        found = type(network).__name__
        cause = f"it holds the weights of a {found}, but {model.name} is a {expected.__name__} in the catalogue"
        raise CheckpointError(path, cause, f"Replace the file with weights of a {expected.__name__}")
    weights_digest = digest.of_file(path)
    if "tokens" in parameters:
        # Only CTC heads have a token list.
        parameters = {**parameters, "search_weights": search_weights(model.operating_point)}
        weights_digest = digest.of_value([weights_digest, parameters["search_weights"]])
    ngram = ngram_path(model.family.name, model.operating_point)
    if ngram.is_file():
        parameters = {**parameters, "ngram": base64.b85encode(ngram.read_bytes()).decode()}
        weights_digest = digest.of_value([weights_digest, digest.of_file(ngram)])
    return Checkpoint(
        network=network,
        dims=network.dims,
        parameters=parameters,
        origin=f"reference/{model.operating_point}/{path.name}",
        digest=weights_digest,
    )


def save(
    path: Path, network_name: str, network: nn.Module, parameters: dict[str, str], within: Path | None = None
) -> None:
    """Write a network's weights in FP16 with its configuration and its clients' parameters.

    `within` is the file of another operating point, in a folder next to this one's. Weights that it holds with the same
    key and value are not stored again.
    """
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in network.state_dict().items()}
    config: Any = network.config
    metadata = {
        "network": json.dumps(network_name),
        "config": json.dumps(asdict(config)),
        "parameters": json.dumps(parameters),
    }
    if within is not None:
        known = _read_tensors(within, tensors)
        tensors = {
            name: tensor
            for name, tensor in tensors.items()
            if name not in known or not torch.equal(tensor, known[name])
        }
        file_name = f"{within.parent.name}/{within.name}"
        metadata["within"] = json.dumps({"file": file_name, "digest": digest.of_file(within)})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata)
    # The library creates files that only their owner may read.
    partial.chmod(0o644)
    partial.replace(path)


def load(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """Read a network in FP32 evaluation mode and its clients' parameters; raise CheckpointError for a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
        network_type: Any = NETWORKS[metadata["network"]]
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in metadata["config"].items()}
        network: nn.Module = network_type(network_type.config_type(**fields))
        tensors = _read_tensors(path)
        if "within" in metadata:
            missing = set(network.state_dict()) - set(tensors)
            tensors.update(_read_within(path, metadata["within"], missing))
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        cause = f"it does not hold the weights of one of {', '.join(NETWORKS)} ({error})"
        raise CheckpointError(path, cause, "Restore the file from the repository, or train it again") from error
    return network.eval(), metadata["parameters"]


def _read_within(path: Path, within: dict[str, str], names: set[str]) -> dict[str, Tensor]:
    other = path.parent.parent / within["file"]
    if not other.is_file() or digest.of_file(other) != within["digest"]:
        cause = f"most of its weights are in {other}, which is missing or has changed since this file was saved"
        raise CheckpointError(path, cause, "Restore both files from the repository, or train both points again")
    return _read_tensors(other, names)


def _read_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Read tensors by their current keys: all of a file, or those of `names` that it holds."""
    with safe_open(path, framework="pt") as file:
        keys = {current_key(key): key for key in file.keys()}
        chosen = keys if names is None else keys.keys() & set(names)
        return {name: file.get_tensor(keys[name]) for name in chosen}
