"""The reference weights: safetensors files in FP16 that carry their network's configuration beside them.

A file's metadata holds three JSON texts: `network` (a key of export.networks.NETWORKS), `config` (the fields of its
configuration) and `parameters` (strings that clients need and that depend on the weights, such as the token list).
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from export.networks import NETWORKS

REFERENCE_FOLDER = Path(__file__).parent / "reference"


def checkpoint_path(family: str, operating_point: str) -> Path:
    """Say where the reference weights of a model lie."""
    return REFERENCE_FOLDER / operating_point / f"{family}.safetensors"


def save(path: Path, network_name: str, network: nn.Module, parameters: dict[str, str]) -> None:
    """Write a network's weights in FP16 with its configuration and its clients' parameters."""
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in network.state_dict().items()}
    config: Any = network.config
    metadata = {
        "network": json.dumps(network_name),
        "config": json.dumps(asdict(config)),
        "parameters": json.dumps(parameters),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata)
    partial.replace(path)


def load(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """Read a network in FP32 evaluation mode, and its clients' parameters."""
    with safe_open(path, framework="pt") as file:
        metadata = {key: json.loads(text) for key, text in file.metadata().items()}
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    network_type: Any = NETWORKS[metadata["network"]]
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in metadata["config"].items()}
    network: nn.Module = network_type(network_type.config_type(**fields))
    network.load_state_dict(tensors)
    return network.eval(), metadata["parameters"]
