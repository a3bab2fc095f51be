"""The reference weights: safetensors files in FP16 that carry their network's configuration beside them.

A file's metadata holds three JSON texts: `network` (a key of export.networks.NETWORKS), `config` (the fields of its
configuration) and `parameters` (strings that clients need and that depend on the weights, such as the token list).
A network that lies within another one, as the body of `standard` does within that of `enhanced`, holds only what is its
own; a fourth text, `within`, names the other file from the folder above and its digest.

The n-gram model of a family lies beside its weights and joins those strings here.
"""

import base64
import json
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
from export.networks import NETWORKS

REFERENCE_FOLDER = Path(__file__).parent / "reference"


def checkpoint_path(family: str, operating_point: str) -> Path:
    """Say where the reference weights of a model lie."""
    return REFERENCE_FOLDER / operating_point / f"{family}.safetensors"


def ngram_path(family: str, operating_point: str) -> Path:
    """Say where the n-gram model lies that is told to the clients of an acoustic head, if it has one."""
    return REFERENCE_FOLDER / operating_point / f"{family}.ngram"


def open_checkpoint(model: Model) -> Checkpoint:
    """Read the reference weights of a model; raise CheckpointError when there are none, or of another network."""
    path = checkpoint_path(model.family.name, model.operating_point)
    if not path.is_file():
        remedy = "Train them with `python -m training`, or take `--weights random` to try the pipeline without"
        raise CheckpointError(model.name, "there are no reference weights for it", remedy)
    network, parameters = load(path)
    expected: Any = NETWORKS[str(model.family.network)]
    if not isinstance(network, expected):
        cause = f"it holds a {type(network).__name__}, and the catalogue wants a {expected.__name__} for {model.name}"
        raise CheckpointError(path, cause, "Put the weights of that network there")
    decisive = digest.of_file(path)
    ngram = ngram_path(model.family.name, model.operating_point)
    if ngram.is_file():
        parameters = {**parameters, "ngram": base64.b85encode(ngram.read_bytes()).decode()}
        decisive = digest.of_value([decisive, digest.of_file(ngram)])
    return Checkpoint(
        network=network,
        dims=network.dims,
        parameters=parameters,
        origin=f"reference/{model.operating_point}/{path.name}",
        digest=decisive,
    )


def save(
    path: Path, network_name: str, network: nn.Module, parameters: dict[str, str], within: Path | None = None
) -> None:
    """Write a network's weights in FP16 with its configuration and its clients' parameters.

    What file `within`, of another operating point beside this one, holds by the same name and value is left out.
    """
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in network.state_dict().items()}
    config: Any = network.config
    metadata = {
        "network": json.dumps(network_name),
        "config": json.dumps(asdict(config)),
        "parameters": json.dumps(parameters),
    }
    if within is not None:
        with safe_open(within, framework="pt") as file:
            known = set(file.keys()) & set(tensors)
            tensors = {
                name: tensor
                for name, tensor in tensors.items()
                if name not in known or not torch.equal(tensor, file.get_tensor(name))
            }
        file_name = f"{within.parent.name}/{within.name}"
        metadata["within"] = json.dumps({"file": file_name, "digest": digest.of_file(within)})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata)
    # The library makes files that nobody else may read.
    partial.chmod(0o644)
    partial.replace(path)


def load(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """Read a network in FP32 evaluation mode, and its clients' parameters; raise CheckpointError for a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}
        network_type: Any = NETWORKS[metadata["network"]]
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in metadata["config"].items()}
        network: nn.Module = network_type(network_type.config_type(**fields))
        if "within" in metadata:
            missing = set(network.state_dict()) - set(tensors)
            tensors.update(_from_within(path, metadata["within"], missing))
        network.load_state_dict(tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        cause = f"it does not hold the weights of one of {', '.join(NETWORKS)} ({error})"
        raise CheckpointError(path, cause, "Restore the file from the repository, or train it again") from error
    return network.eval(), metadata["parameters"]


def _from_within(path: Path, within: dict[str, str], names: set[str]) -> dict[str, Tensor]:
    other = path.parent.parent / within["file"]
    if not other.is_file() or digest.of_file(other) != within["digest"]:
        cause = f"most of its weights lie within {other}, which is missing or another file than when it was saved"
        raise CheckpointError(path, cause, "Restore both files from the repository, or train both points again")
    with safe_open(other, framework="pt") as file:
        return {name: file.get_tensor(name).float() for name in names}
