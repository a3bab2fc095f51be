"""Synthetic recordings for the tests: bursts that the detector takes for speech, in files of any kind."""

from functools import cache
from pathlib import Path

import av
import numpy as np
import soundfile
from av.audio.stream import AudioStream
from av.container import OutputContainer
from numpy.typing import NDArray

RATE_HZ = 16_000


def burst(seconds: float, rate_hz: int = RATE_HZ, level: float = 0.5) -> NDArray[np.float32]:
    """Build a voiced sound: a pulse train with the formants of a vowel, with changing pitch and loudness."""
    cycle = _cycle(rate_hz)
    return np.resize(cycle, round(seconds * rate_hz)) * np.float32(level)


def silence(seconds: float, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    return np.zeros(round(seconds * rate_hz), dtype=np.float32)


def encode(path: Path, samples: NDArray[np.float32], rate_hz: int, codec: str, layout: str = "mono") -> Path:
    """Write samples [n] (the same in every channel) or [channels, n] with PyAV."""
    channels = 2 if layout == "stereo" else 1
    planes = np.broadcast_to(np.atleast_2d(samples), (channels, samples.shape[-1]))
    if codec == "vorbis":
        # libav's own Vorbis encoder is experimental; libsndfile has the reference encoder.
        soundfile.write(path, planes.T, rate_hz, "VORBIS")
        return path
    with av.open(str(path), "w") as container:
        stream = add_audio(container, codec, rate_hz, layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes, dtype=np.float32), format="fltp", layout=layout)
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(
            format=stream.format.name, layout=layout, rate=rate_hz, frame_size=stream.frame_size or 1024
        )
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(part))
    return path


def add_audio(container: OutputContainer, codec: str, rate_hz: int, layout: str) -> AudioStream:
    stream = container.add_stream(codec, rate=rate_hz, layout=layout)
    assert isinstance(stream, AudioStream)
    return stream


@cache
def _cycle(rate_hz: int) -> NDArray[np.float32]:
    """Two seconds that can be repeated without a click, at full level."""
    time_s = np.arange(2 * rate_hz) / rate_hz
    phase = 2 * np.pi * (120 * time_s + 4 * np.sin(2 * np.pi * 2.5 * time_s) / 2.5)
    harmonics = [
        np.sin(number * phase) / (1 + ((number * 120 - formant_hz) / 120) ** 2)
        for formant_hz in (600, 1_700, 2_500)
        for number in range(1, 28)
    ]
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * time_s)
    wave = np.sum(harmonics, axis=0) * envelope
    cycle: NDArray[np.float32] = (wave / np.abs(wave).max()).astype(np.float32)
    return cycle


def wav(path: Path, samples: NDArray[np.float32], rate_hz: int = RATE_HZ) -> Path:
    return encode(path, samples, rate_hz, "pcm_s16le")
