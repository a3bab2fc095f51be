"""Features of a recording as a whole and in pieces."""

import numpy as np
import pytest

from tests.unit.transcriber.sounds import burst
from training.features import FeatureStream, feature_frames, log_mel


@pytest.mark.parametrize("size", [1, 159, 1600, 5000])
def test_pieces_have_the_same_features(size: int) -> None:
    samples = burst(0.5)
    stream = FeatureStream()
    parts = [stream.accept_waveform(samples[start : start + size]) for start in range(0, samples.size, size)]
    assert np.array_equal(np.concatenate(parts), log_mel(samples))


@pytest.mark.parametrize("samples", [0, 399, 400, 559, 560, 16_000])
def test_counts_frames(samples: int) -> None:
    assert feature_frames(samples) == len(log_mel(np.zeros(samples, dtype=np.float32)))
