"""Read tensors of checkpoints that others made, and place them in a network. Nothing of a file is executed."""

import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from contract.errors import CheckpointError

Network = TypeVar("Network", bound=nn.Module)
DAMAGED = "Copy or download the checkpoint again"
# What torch.load raises for bytes that are not those that it wrote.
_DAMAGES = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError),
    *(EOFError, OSError, OverflowError, MemoryError, struct.error),
)
SHOWN = 3
"""How many names an error lists."""
_MOST_ENTRIES = 100_000


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; raise CheckpointError for a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"it is not a safetensors file ({error})", DAMAGED) from error


def read_pickle(path: Path, subject: object = None) -> dict[str, Tensor]:
    """Return the tensors of a file of torch.save; raise CheckpointError for a damaged one, and for one with code.

    `subject` is what errors name instead of the path.
    """
    named = subject or path
    _check_zip(path, named)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        cause = "it holds objects other than tensors, and none of a checkpoint's code is run"
        raise CheckpointError(named, cause, "Save the state dict alone, or convert it to safetensors") from error
    except _DAMAGES as error:
        raise CheckpointError(named, f"it is not a file of torch.save ({_line(error)})", DAMAGED) from error
    if not isinstance(found, dict):
        raise CheckpointError(named, "it does not hold a state dict", DAMAGED)
    return {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _check_zip(path: Path, named: object) -> None:
    # torch.save stores without compression: an entry that is larger than the file is a bomb.
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        cause = f"it is damaged, or torch before 1.6 saved it ({_line(error)})"
        raise CheckpointError(named, cause, f"{DAMAGED}, or save it again with a current torch") from error
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size or len(entries) > _MOST_ENTRIES:
        raise CheckpointError(named, "it holds compressed data, which torch.save does not write", DAMAGED)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def place(
    build: Callable[[], Network], tensors: Mapping[str, Tensor], source: object, unused: Iterable[str] = ()
) -> Network:
    """Return a network in evaluation mode with these tensors, by the network's own keys, in FP32.

    `unused` are names of tensors in the source that no part of the network takes. Raises CheckpointError for these, for
    a missing tensor and for one of another shape.
    """
    with torch.device("meta"):
        network = build()
    expected = network.state_dict()
    _reject("it lacks weights that its configuration requires", expected.keys() - tensors.keys(), source)
    _reject("it holds weights that its configuration does not explain", [*unused, *(tensors.keys() - expected)], source)
    for name, value in expected.items():
        if tensors[name].shape != value.shape:
            found, wanted = list(tensors[name].shape), list(value.shape)
            cause = f"its weight {name} is {found}, and its configuration requires {wanted}"
            raise CheckpointError(source, cause, DAMAGED)
        if not tensors[name].is_floating_point():
            raise CheckpointError(source, f"its weight {name} is {tensors[name].dtype}, not a float", DAMAGED)
    network.load_state_dict({name: tensors[name].float().contiguous() for name in expected}, assign=True)
    return network.requires_grad_(requires_grad=False).eval()


def _reject(cause: str, names: Iterable[str], source: object) -> None:
    listed = sorted(names)
    if listed:
        more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
        remedy = f"{DAMAGED}; if it is complete, its kind of network is not supported"
        raise CheckpointError(source, f"{cause}: {', '.join(listed[:SHOWN])}{more}", remedy)
