"""Convert audio from one sampling rate to another, where a speaker network takes another rate than the recogniser."""

import math

import numpy as np

from transcriber.audio import Samples


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Return mono audio at another sampling rate, by a polyphase filter."""
    if from_hz == to_hz or not samples.size:
        return samples
    # Half a second of processor time, which most networks need not spend.
    from scipy.signal import resample_poly  # noqa: PLC0415

    common = math.gcd(from_hz, to_hz)
    return np.asarray(resample_poly(samples, to_hz // common, from_hz // common), dtype=np.float32)
