"""Shape arrays as the catalogue's engines take them: padded to buckets, and cut into the windows of a stream."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.catalogue import Family
from transcriber.ctc import Integers
from transcriber.features import MEL_BANDS
from transcriber.recogniser import Features, RequestError


def bucket(family: Family, mode: str, axis: str, size: int) -> int:
    """Return the smallest bucket of an axis that holds a size; raise RequestError above the largest one."""
    extent = family.modes[mode].axes[axis]
    found = extent.smallest_bucket(size)
    if found is None:
        raise RequestError(f"{family.name} takes at most {extent.max} {axis}, not {size}")
    return found


def pad_features(items: Sequence[Features], frames: int) -> Features:
    """Return a batch FP16 [len(items), frames, 80] of features FP16 [n, 80], each with zeros after its last frame."""
    batch = np.zeros((len(items), frames, MEL_BANDS), dtype=np.float16)
    for row, item in zip(batch, items, strict=True):
        row[: len(item)] = item
    return batch


def pad_to(array: NDArray[Any], *sizes: int) -> NDArray[Any]:
    """Return an array with zeros after its last element on each axis, so that it has these sizes."""
    return np.pad(array, [(0, size - present) for size, present in zip(sizes, array.shape, strict=True)])


def pad_tokens(sequences: Sequence[Sequence[int]], rows: int, columns: int) -> tuple[Integers, Integers]:
    """Return token sequences as INT32 [rows, columns] with zeros after each, and their lengths INT32 [rows]."""
    tokens, lengths = np.zeros((rows, columns), dtype=np.int32), np.zeros(rows, dtype=np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
        lengths[row] = len(sequence)
    return tokens, lengths


def full_windows(frames: Features, size: int, overlap: int) -> tuple[list[Features], Features]:
    """Return the full windows of a stream, each FP16 [size, 80], and the frames [n, 80] with which the next one begins.

    Each window begins with the last `overlap` frames of the one before it.
    """
    windows = []
    while len(frames) >= size:
        windows.append(frames[:size])
        frames = frames[size - overlap :]
    return windows, frames
