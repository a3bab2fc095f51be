"""Random changes of log-mel features during training, drawn again in every epoch.

The changes are mild: networks of this size, trained for an hour, underfit rather than overfit.
"""

import random
from functools import cache

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]

STRETCH = (0.92, 1.1)
# Steps of vocal-tract warping (Jaitly and Hinton 2013, "VTLP"); the factor of step n is 1 + n / 100.
WARP_STEPS = (-6, -3, 0, 0, 3, 6)
UNCHANGED_SHARE = 0.6
LEVEL_DB = 6.0
MASKED_SHARE = 0.1
BANDS_MASKED, FRAMES_MASKED, FRAMES_PER_MASK = 12, 12, 300
_NEPERS_PER_DB = float(np.log(10.0) / 10.0)


def perturb(
    features: NDArray[np.float16], labels: NDArray[np.uint8], source: random.Random
) -> tuple[Features, NDArray[np.uint8]]:
    """Change the speed, the length of the vocal tract and the level of speech at random.

    features: log-mel [frames, bands]; labels: one phoneme per frame. More than half of all speech stays unchanged.
    """
    values = features.astype(np.float32)
    if source.random() < UNCHANGED_SHARE:
        return values, labels
    values, labels = stretch(values, labels, source.uniform(*STRETCH))
    step = source.choice(WARP_STEPS)
    if step:
        values = values @ warping_matrix(values.shape[1], 1.0 + step / 100)
    return values + np.float32(source.uniform(-LEVEL_DB, LEVEL_DB) * _NEPERS_PER_DB), labels


def stretch(values: Features, labels: NDArray[np.uint8], factor: float) -> tuple[Features, NDArray[np.uint8]]:
    """Stretch features in time by linear interpolation: [frames, bands] -> [round(frames * factor), bands]."""
    frames = max(round(len(values) * factor), 1)
    positions = np.linspace(0.0, len(values) - 1.0, frames, dtype=np.float32)
    lower = positions.astype(np.int64)
    upper = np.minimum(lower + 1, len(values) - 1)
    share = (positions - lower).astype(np.float32)[:, None]
    return values[lower] * (1.0 - share) + values[upper] * share, labels[np.rint(positions).astype(np.int64)]


@cache
def warping_matrix(bands: int, factor: float) -> Features:
    """Return the matrix [bands, bands] that moves mel band b to b * factor, with linear interpolation."""
    positions = np.minimum(np.arange(bands) / factor, bands - 1.0)
    lower = positions.astype(np.int64)
    matrix = np.zeros((bands, bands), dtype=np.float32)
    matrix[lower, np.arange(bands)] = 1.0 - (positions - lower)
    matrix[np.minimum(lower + 1, bands - 1), np.arange(bands)] += positions - lower
    return matrix


def mask(values: Features, fill: Features, source: random.Random) -> None:
    """Replace a random band and random time spans of a tenth of all speech by the mean, in place (arXiv:1904.08779)."""
    if source.random() >= MASKED_SHARE:
        return
    frames, bands = values.shape
    width = source.randint(0, BANDS_MASKED)
    first = source.randint(0, bands - width)
    values[:, first : first + width] = fill[first : first + width]
    for _ in range(frames // FRAMES_PER_MASK + 1):
        width = source.randint(0, min(FRAMES_MASKED, frames // 4))
        first = source.randint(0, frames - width)
        values[first : first + width] = fill
