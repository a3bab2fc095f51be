"""The reference weights: safetensors files in FP16 with their network's configuration in the metadata.

The metadata of a file holds three JSON texts: `network` (a key of export.networks.NETWORKS), `config` (the fields of
the network's configuration) and `parameters` (strings that clients need and that depend on the weights, such as the
token list). A network that is part of another one, as the body of `standard` is part of that of `enhanced`, stores only
the weights that differ. A fourth text, `within`, then names the other file, relative to the folder above, and its
digest.

The parameters are `tokens` of a CTC head and `same_speaker_similarity` of a speaker network. The n-gram model of a head
is a file next to its weights. The weights of the search and the
calibration of its confidences are in figures.json, where training records them.
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
from contract.catalogue import CTC, LM, RESCORER, SPEAKER, Model
from contract.client import Calibration, ClientSpec, SearchSpec
from contract.errors import CheckpointError
from export.checkpoints import roles
from export.checkpoints.checkpoint import Checkpoint
from export.checkpoints.weight_keys import current_key
from export.networks import NETWORKS

REFERENCE_FOLDER = Path(__file__).parent / "reference"
NO_WEIGHTS = "there are no reference weights for this model"
"""The cause of the CheckpointError that open_checkpoint raises when the file does not exist."""
# The reference models that score hypotheses, by the role that clients know.
_RESCORERS = {"decoder": RESCORER, "lm": LM}


def checkpoint_path(family: str, operating_point: str) -> Path:
    """Return the path of a model's reference weights."""
    return REFERENCE_FOLDER / operating_point / f"{family}.safetensors"


def ngram_path(family: str, operating_point: str) -> Path:
    """Return the path of the n-gram model for clients of a CTC head; not every family has one."""
    return REFERENCE_FOLDER / operating_point / f"{family}.ngram"


def search_spec(operating_point: str, ngram: Path | None = None) -> SearchSpec:
    """Return the weights of a point's search and rescorers, from what `python -m training weighting` recorded.

    The calibration of confidences is what `python -m training confidence` recorded; None where it did not run.
    Raises CheckpointError when figures.json has no such weights.
    """
    path = REFERENCE_FOLDER / "figures.json"
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        figures = recorded[f"weighting_{operating_point}"]
        confidence = recorded.get(f"confidence_{operating_point}", {})
        rescorers = {family: role for family, role in _RESCORERS.items() if family in figures}
        return SearchSpec(
            ngram_weight=figures["ngram"],
            token_bonus=figures["bonus"],
            rescorers={role: figures[family] for family, role in rescorers.items()},
            rescorers_with_ngram={role: figures[f"{family}_ngram"] for family, role in rescorers.items()},
            ngram=base64.b85encode(ngram.read_bytes()).decode() if ngram is not None else None,
            confidence=_calibration(confidence, ""),
            confidence_with_ngram=_calibration(confidence, "_ngram"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = f"it has no weights of the search for {operating_point} ({error!r})"
        raise CheckpointError(path, cause, "Run `python -m training weighting`, or restore the file") from error


def _calibration(figures: dict[str, float], suffix: str) -> Calibration | None:
    if not figures:
        return None
    return Calibration(slope=figures[f"slope{suffix}"], offset=figures[f"offset{suffix}"])


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
    client = _client(model, parameters, path)
    return Checkpoint(
        network=roles.with_front_end(network, model.family.role),
        dims=network.dims,
        client=client,
        origin=f"reference/{model.operating_point}/{path.name}",
        digest=digest.of_value([digest.of_file(path), client.to_table()]),
    )


def _client(model: Model, parameters: dict[str, str], path: Path) -> ClientSpec:
    """Return what clients must know, from the parameters in a file; raise CheckpointError where one is missing."""
    try:
        if model.family.role == CTC:
            ngram = ngram_path(model.family.name, model.operating_point)
            search = search_spec(model.operating_point, ngram if ngram.is_file() else None)
            return roles.client_spec(model, pieces=tuple(json.loads(parameters["tokens"])), search=search)
        if model.family.role == SPEAKER:
            similarity = float(parameters["same_speaker_similarity"])
            return roles.client_spec(model, same_speaker_similarity=similarity)
        return roles.client_spec(model)
    except (KeyError, ValueError, TypeError) as error:
        cause = f"its parameters do not fit a {model.family.role} network ({error!r})"
        raise CheckpointError(path, cause, "Restore the file from the repository, or train it again") from error


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
