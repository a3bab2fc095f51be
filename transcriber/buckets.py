"""Shape arrays as the catalogue's engines take them: padded to buckets, and cut into the windows of a stream."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.catalogue import Family
from transcriber.audio import Samples
from transcriber.ctc import Integers
from transcriber.recogniser import RequestError


def bucket(family: Family, mode: str, axis: str, size: int, *, exact: bool = False) -> int:
    """Return the smallest bucket of an axis that holds a size; raise RequestError above the largest one.

    An exact size is only raised to the smallest that the model takes.
    """
    extent = family.modes[mode].axes[axis]
    found = extent.smallest_bucket(size)
    if found is None:
        raise RequestError(f"{family.name} takes at most {extent.max} {axis}, not {size}")
    return max(size, extent.min) if exact else found


def pad_audio(items: Sequence[Samples], size: int) -> Samples:
    """Return a batch FP32 [len(items), size] of mono audio, each item with zeros after its last sample."""
    batch = np.zeros((len(items), size), dtype=np.float32)
    for row, item in zip(batch, items, strict=True):
        row[: len(item)] = item
    return batch


def pad_to(array: NDArray[Any], *sizes: int) -> NDArray[Any]:
    """Return an array with zeros after its last element on each axis, so that it has these sizes."""
    if array.shape == sizes:
        return array
    padded = np.zeros(sizes, dtype=array.dtype)
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded


def pad_tokens(sequences: Sequence[Sequence[int]], rows: int, columns: int) -> tuple[Integers, Integers]:
    """Return token sequences as INT32 [rows, columns] with zeros after each, and their lengths INT32 [rows]."""
    tokens, lengths = np.zeros((rows, columns), dtype=np.int32), np.zeros(rows, dtype=np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
        lengths[row] = len(sequence)
    return tokens, lengths


def full_windows(samples: Samples, size: int, overlap: int) -> tuple[list[Samples], Samples]:
    """Return the full windows of a stream, each of `size` samples, and the samples with which the next one begins.

    Each window begins with the last `overlap` samples of the one before it.
    """
    windows = []
    while len(samples) >= size:
        windows.append(samples[:size])
        samples = samples[size - overlap :]
    return windows, samples
