"""Degradations of clean speech by a room, a line and a microphone. Samples are FP32 in [-1, 1) at 16 kHz throughout."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import signal

from training.features import SAMPLE_RATE_HZ

Samples = NDArray[np.float32]

REVERB_CHANCE = 0.25
TELEPHONE_CHANCE = 0.12
NOISE_CHANCE = 0.5
NOISE_DB = (5.0, 40.0)
GAIN_DB = (-30.0, 0.0)
PEAK = 0.9


def degrade(samples: Samples, source: Generator) -> Samples:
    """Add a random room, line, noise and gain; some utterances get the gain only."""
    if source.random() < REVERB_CHANCE:
        samples = reverberate(samples, source)
    if source.random() < TELEPHONE_CHANCE:
        samples = telephone(samples)
    if source.random() < NOISE_CHANCE:
        noise = NOISES[source.integers(len(NOISES))](samples, source)
        samples = mix(samples, noise, source.uniform(*NOISE_DB))
    return scale(samples, source.uniform(*GAIN_DB))


def scale(samples: Samples, gain_db: float) -> Samples:
    """Scale the peak to 0.9 and then apply a gain, in decibels."""
    peak = max(float(np.abs(samples).max(initial=0.0)), 1e-6)
    return np.asarray((samples * (PEAK / peak * 10.0 ** (gain_db / 20.0))), dtype=np.float32)


def mix(samples: Samples, noise: Samples, ratio_db: float) -> Samples:
    """Add noise at a signal-to-noise ratio over the whole utterance."""
    power, noise_power = float(np.mean(samples**2)), float(np.mean(noise**2))
    if power == 0.0 or noise_power == 0.0:
        return samples
    factor = np.sqrt(power / noise_power) * 10.0 ** (-ratio_db / 20.0)
    return np.asarray((samples + factor * noise), dtype=np.float32)


def reverberate(samples: Samples, source: Generator) -> Samples:
    """Convolve with a direct path and exponentially falling noise after it, which moves nothing in time."""
    seconds = source.uniform(0.15, 0.6)
    size = int(seconds * SAMPLE_RATE_HZ)
    tail = source.standard_normal(size) * 10.0 ** (-3.0 * np.arange(size) / size)
    tail *= source.uniform(0.1, 0.6) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return np.asarray(signal.oaconvolve(samples, tail)[: len(samples)], dtype=np.float32)


def telephone(samples: Samples) -> Samples:
    """Filter to the band of a telephone, 300 to 3400 Hz."""
    band = signal.butter(4, (300, 3400), "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    return np.asarray(signal.sosfilt(band, samples), dtype=np.float32)


def white(samples: Samples, source: Generator) -> Samples:
    """Return white noise of the length of the samples."""
    return source.standard_normal(len(samples), dtype=np.float32)


def pink(samples: Samples, source: Generator) -> Samples:
    """Return noise whose power falls with frequency, like that of fans and traffic."""
    spectrum = np.fft.rfft(source.standard_normal(len(samples)))
    spectrum /= np.sqrt(np.arange(len(spectrum)) + 1.0)
    return np.asarray(np.fft.irfft(spectrum, len(samples)), dtype=np.float32)


def babble(samples: Samples, source: Generator) -> Samples:
    """Return six unintelligible voices: the utterance itself, reversed and shifted."""
    backwards = samples[::-1]
    shifts = source.integers(len(samples), size=6)
    return np.asarray(np.sum([np.roll(backwards, shift) for shift in shifts], axis=0), dtype=np.float32)


NOISES: tuple[Callable[[Samples, Generator], Samples], ...] = (white, pink, babble)
