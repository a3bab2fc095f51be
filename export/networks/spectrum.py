"""Power spectra of overlapping frames, at half the products of a plain DFT.

The power of a frequency does not depend on where a frame begins, so the origin of time is the middle of the frame. With
a symmetric window the real part then depends only on the sums of samples at equal distances from the middle, and the
imaginary part only on their differences. Both products are convolutions of width 1: TensorRT-RTX refuses an FP32 MatMul
for sm75.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


class FrameRows:
    """The samples of overlapping frames: row n holds sample n of every frame.

    It is a part of the row that holds one sample of every hop.
    """

    def __init__(self, hops: Tensor, window: int) -> None:
        """Take [batch, count, hop]."""
        self.hop = hops.shape[2]
        self._last = -(-window // self.hop) - 1
        self._forwards = hops.transpose(1, 2)
        order = torch.arange(self.hop - 1, -1, -1, device=hops.device)
        self._backwards = self._forwards.index_select(1, order)

    def frames(self, hops: Tensor, later: int = 0) -> Tensor:
        """Return what [batch, ..., count] holds in the hop that is `later` than the first one of each frame."""
        return hops[..., later : (later - self._last) or None]

    def forwards(self, first: int, count: int) -> list[Tensor]:
        """Return the rows `first`, `first` + 1 and so on, in parts [batch, rows, frames]."""
        parts = []
        while count:
            later, row = divmod(first, self.hop)
            rows = min(self.hop - row, count)
            parts.append(self.frames(self._forwards[:, row : row + rows], later))
            first, count = first + rows, count - rows
        return parts

    def backwards(self, first: int, count: int) -> list[Tensor]:
        """Return the rows `first`, `first` - 1 and so on, in parts [batch, rows, frames]."""
        parts = []
        while count:
            later, row = divmod(first, self.hop)
            rows = min(row + 1, count)
            begin = self.hop - 1 - row
            parts.append(self.frames(self._backwards[:, begin : begin + rows], later))
            first, count = first - rows, count - rows
        return parts


def padding(window: int, hop: int) -> int:
    """Return how many samples must follow a signal so that its last frame ends with a whole hop."""
    return -window % hop


def in_hops(signal: Tensor, hop: int) -> Tensor:
    """Return the whole hops of [batch, samples]: [batch, samples // hop, hop]."""
    return signal[:, : signal.shape[1] // hop * hop].reshape(signal.shape[0], -1, hop)


def half(window: int) -> int:
    """Return the number of distances from the middle of a frame; the middle sample of an odd window is one."""
    return (window + 1) // 2


def transform(window: NDArray[np.float64], size: int, frequencies: slice) -> tuple[NDArray[np.float64], ...]:
    """Return the products [frequencies, half] that make the real part of sums and the imaginary part of differences.

    window: symmetric, of a frame; size: that of the DFT. A sum or difference holds a sample of the first half and its
    partner. The middle sample of an odd window is its own partner, so its weight is halved.
    """
    count = half(len(window))
    weights = window[:count].copy()
    if len(window) % 2:
        weights[-1] /= 2
    distances = np.arange(count) - (len(window) - 1) / 2
    angles = 2 * np.pi / size * np.outer(np.arange(size // 2 + 1)[frequencies], distances)
    return np.cos(angles) * weights, np.sin(angles) * weights


def power(left: Tensor, right: Tensor, real: Tensor, imaginary: Tensor) -> Tensor:
    """Return the power [batch, frequencies, frames] of the samples before and after the middle of each frame.

    left and right: [batch, half, frames], partners in the same row; real and imaginary: [frequencies, half, 1].
    """
    cosines, sines = functional.conv1d(left + right, real), functional.conv1d(left - right, imaginary)
    return cosines * cosines + sines * sines
