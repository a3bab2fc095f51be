"""Log-mel features, the one definition that training, export and transcription share."""

from functools import cache

import kaldi_native_fbank as knf
import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
WINDOW_MS = 25
HOP_MS = 10
MEL_BANDS = 80
HOP_SAMPLES = SAMPLE_RATE_HZ * HOP_MS // 1000
# Kaldi's convention: the filter bank sees samples in the range of 16-bit integers.
FULL_SCALE = 32_768.0


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float16]:
    """Turn mono samples in [-1, 1) at 16 kHz into log-mel features, FP16 [frames, 80].

    Frame t covers the samples from 160 t to 160 t + 399, as in Kaldi with `snip_edges`; fewer than 400 samples give no
    frame. Kaldi's fbank without dither, so the same audio always gives the same features. Its values lie between -16
    (digital silence) and about 25, which FP16 holds with a step of at most 1/64.
    """
    fbank = knf.OnlineFbank(_options())
    fbank.accept_waveform(SAMPLE_RATE_HZ, np.ascontiguousarray(samples, dtype=np.float32) * np.float32(FULL_SCALE))
    fbank.input_finished()
    count = fbank.num_frames_ready
    if count == 0:
        return np.empty((0, MEL_BANDS), dtype=np.float16)
    frames: NDArray[np.float32] = np.stack([fbank.get_frame(index) for index in range(count)])
    return frames.astype(np.float16)


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
