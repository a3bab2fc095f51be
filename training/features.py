"""Compute the log-mel features of the training, with kaldi-native-fbank; exported graphs compute the same ones."""

from functools import cache

import kaldi_native_fbank as knf
import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
WINDOW_MS = 25
HOP_MS = 10
MEL_BANDS = 80
WINDOW_SAMPLES = SAMPLE_RATE_HZ * WINDOW_MS // 1000
HOP_SAMPLES = SAMPLE_RATE_HZ * HOP_MS // 1000
# Kaldi's convention: the filter bank takes samples in the range of 16-bit integers.
FULL_SCALE = 32_768.0


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return the log-mel features FP16 [frames, 80] of mono samples in [-1, 1) at 16 kHz.

    Frame t covers the samples from 160 t to 160 t + 399, as in Kaldi with `snip_edges`; fewer than 400 samples make no
    frame. It is Kaldi's fbank without dither, so the same audio always has the same features. The values lie between
    -16 (digital silence) and about 25, which FP16 represents with a step of at most 1/64.
    """
    return FeatureStream().accept_waveform(samples)


class FeatureStream:
    """Compute the features of a recording that comes piece by piece; the pieces may be cut anywhere."""

    def __init__(self) -> None:
        self._fbank = knf.OnlineFbank(_options())
        self._returned = 0

    def accept_waveform(self, samples: NDArray[np.float32]) -> NDArray[np.float16]:
        """Take the next samples, as `log_mel` does, and return the frames that they complete: FP16 [frames, 80]."""
        self._fbank.accept_waveform(
            SAMPLE_RATE_HZ, np.ascontiguousarray(samples, dtype=np.float32) * np.float32(FULL_SCALE)
        )
        first, self._returned = self._returned, self._fbank.num_frames_ready
        if first == self._returned:
            return np.empty((0, MEL_BANDS), dtype=np.float16)
        frames: NDArray[np.float32] = np.stack([self._fbank.get_frame(index) for index in range(first, self._returned)])
        self._fbank.pop(self._returned - first)
        return frames.astype(np.float16)


def feature_frames(samples: int) -> int:
    """Return the number of frames that a number of samples makes."""
    return max(0, (samples - WINDOW_SAMPLES) // HOP_SAMPLES + 1)


@cache
def _options() -> knf.FbankOptions:
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE_HZ
    options.frame_opts.frame_length_ms = WINDOW_MS
    options.frame_opts.frame_shift_ms = HOP_MS
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = MEL_BANDS
    return options
