"""Shape arrays as the catalogue's engines take them: padded to buckets, and cut into the windows of a stream."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from contract.catalogue import Family
from transcriber.audio import Samples
from transcriber.ctc import Integers
from transcriber.recogniser import RequestError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AudioBatch:
    """A batch [len(items), size] of mono audio, each item with zeros after its last sample.

    It stands for an array that is never made: a message is joined from its parts. No item is longer than `size`.
    """

    items: Sequence[Samples]
    size: int
    dtype: DTypeLike = np.float32

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of the array."""
        return len(self.items), self.size

    @property
    def nbytes(self) -> int:
        """Return the bytes of the array."""
        return np.dtype(self.dtype).itemsize * len(self.items) * self.size

    def parts(self) -> Iterator[NDArray[Any]]:
        """Yield arrays which are the bytes of the batch, one after the other."""
        for item in self.items:
            yield np.ascontiguousarray(item, dtype=self.dtype)
            if len(item) < self.size:
                yield _silence(self.size, np.dtype(self.dtype))[len(item) :]


Arrays: TypeAlias = Mapping[str, NDArray[Any] | AudioBatch]
"""The inputs of a model by their names, with a batch axis."""


def bucket(family: Family, mode: str, axis: str, size: int, *, exact: bool = False) -> int:
    """Return the smallest bucket of an axis that holds a size; raise RequestError above the largest one.

    An exact size is only raised to the smallest that the model takes, and may be the largest that it takes.
    """
    extent = family.modes[mode].axes[axis]
    found = max(size, extent.min) if exact else extent.smallest_bucket(size)
    largest = extent.max if exact else max(extent.buckets, default=extent.max)
    if found is None or found > largest:
        raise RequestError(f"{family.name} takes at most {largest} {axis}, not {size}")
    return found


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


@functools.lru_cache(maxsize=16)
def _silence(size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.zeros(size, dtype=dtype)
