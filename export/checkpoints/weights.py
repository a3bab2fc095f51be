"""Read tensors of checkpoints that others made, and place them in a network. Nothing of a file is executed."""

import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

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
_ZIP_MAGIC = b"PK\x03\x04"
_MOST_ENTRIES = 100_000
# Weights that a network shares are stored once and named several times.
_MOST_SHARED = 4
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
    check_zip(path, named)
    found = unpickled(path, named)
    if not isinstance(found, dict):
        raise CheckpointError(named, "it does not hold a state dict", DAMAGED)
    return plain_tensors(found, path, named)


def unpickled(path: Path, named: object) -> Any:
    """Return what torch.save wrote; raise CheckpointError for a damaged file, and for one with code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
    except pickle.UnpicklingError as error:
        cause = "it holds objects other than tensors, and none of a checkpoint's code is run"
        raise CheckpointError(named, cause, "Save the state dict alone, or convert it to safetensors") from error
    except _DAMAGES as error:
        raise CheckpointError(named, f"it is not a file of torch.save ({_line(error)})", DAMAGED) from error


def is_zip(path: Path) -> bool:
    """Return whether a file begins as a zip does, as torch decides it; files before torch 1.6 do not."""
    with path.open("rb") as file:
        return file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC


def plain_tensors(found: Mapping[Any, Any], path: Path, named: object) -> dict[str, Tensor]:
    """Return the tensors of an unpickled table; raise CheckpointError for one that its file does not hold in full.

    A pickle may describe a tensor of any size over a few bytes, or one without data: a copy would fill the memory.
    """
    tensors = {name: each for name, each in found.items() if isinstance(name, str) and isinstance(each, Tensor)}
    total = 0
    for name, each in tensors.items():
        if each.is_nested or each.layout != torch.strided or each.device.type != "cpu":
            raise CheckpointError(named, f"its tensor {name} is not a plain table of numbers", DAMAGED)
        size = each.numel() * each.element_size()
        total += size
        if size > each.untyped_storage().nbytes() or total > _MOST_SHARED * path.stat().st_size:
            raise CheckpointError(named, f"its tensor {name} is larger than the data in the file", DAMAGED)
    return tensors


def check_zip(path: Path, named: object, *, checksums: bool = True) -> None:
    """Raise CheckpointError for a zip that torch.save did not write, or whose parts do not have their checksums."""
    # torch.save stores without compression: an entry that is larger than the file is a bomb.
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            size = sum(entry.file_size for entry in entries)
            if compressed or size > path.stat().st_size or len(entries) > _MOST_ENTRIES:
                raise CheckpointError(named, "it holds compressed data, which torch.save does not write", DAMAGED)
            # torch does not compare the checksums, and so a damaged copy would become a wrong network.
            wrong = archive.testzip() if checksums else None
    except (*_DAMAGES, zipfile.BadZipFile) as error:
        cause = f"it is damaged, or torch before 1.6 saved it ({_line(error)})"
        raise CheckpointError(named, cause, f"{DAMAGED}, or save it again with a current torch") from error
    if wrong is not None:
        raise CheckpointError(named, f"the checksum of its part {wrong} is wrong", DAMAGED)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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
    check_floats({name: tensors[name] for name in expected}, source)
    weights = {name: tensors[name].float().contiguous() for name in expected}
    check_finite(weights, source)
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(requires_grad=False).eval()


def check_floats(tensors: Mapping[str, Tensor], source: object) -> None:
    """Raise CheckpointError for a tensor of another type than a weight has; weights that are folded need it before."""
    for name, value in tensors.items():
        if value.dtype not in _FLOATS:
            # Eight bits are quantised: they mean something only with the scales that belong to them.
            cause = f"its weight {name} is {value.dtype}, and 16, 32 or 64 bits of a floating point are needed"
            raise CheckpointError(source, cause, "Save the network without quantisation")


def check_finite(tensors: Mapping[str, Tensor], source: object) -> None:
    """Raise CheckpointError for a tensor with values that are no finite numbers."""
    for name, value in tensors.items():
        if not value.isfinite().all():
            cause = f"its weight {name} has values that are no finite numbers in FP32"
            raise CheckpointError(source, cause, f"{DAMAGED}, or use one of an earlier step of its training")


def _reject(cause: str, names: Iterable[str], source: object) -> None:
    listed = sorted(names)
    if listed:
        more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
        remedy = f"{DAMAGED}; if it is complete, its kind of network is not supported"
        raise CheckpointError(source, f"{cause}: {', '.join(listed[:SHOWN])}{more}", remedy)
