"""Kaldi's log-mel filter bank as layers of a network, so that a network takes audio.

Removal of the mean, window and DFT are two products of each frame, as in export/networks/spectrum.py. The power of each
frequency follows, then the mel filters as a convolution of width 1 (TensorRT-RTX refuses an FP32 MatMul for sm75), then
the logarithm. Definition: Kaldi's feat/feature-fbank.cc, feat/feature-window.cc and feat/mel-computations.cc.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from export.networks import spectrum

# Kaldi's floor of a filter's energy: the machine epsilon of FP32.
SMALLEST_ENERGY = float(np.finfo(np.float32).eps)
# Kaldi takes samples in the range of 16-bit integers.
FULL_SCALE = 32_768.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterBankConfig:
    """The definition of a filter bank; the defaults are Kaldi's for 16 kHz, without dither."""

    sample_rate_hz: int = 16_000
    bands: int = 80
    window_s: float = 0.025
    hop_s: float = 0.010
    preemphasis: float = 0.97
    window: str = "povey"
    """povey or hamming."""
    scale: float = FULL_SCALE
    """What samples in [-1, 1) are multiplied with."""
    low_hz: float = 20.0
    high_hz: float = 0.0
    """The upper end of the highest band; 0 or less counts from half the sampling rate."""

    @property
    def window_samples(self) -> int:
        """Return the samples of a frame."""
        return round(self.window_s * self.sample_rate_hz)

    @property
    def hop_samples(self) -> int:
        """Return the samples from one frame to the next."""
        return round(self.hop_s * self.sample_rate_hz)


class FilterBank(nn.Module):
    """Log-mel features of audio, in FP32 whatever the type of the other layers.

    Its kernels are constants, not weights: no checkpoint holds them, and no conversion to FP16 rounds them.
    """

    def __init__(self, config: FilterBankConfig) -> None:
        super().__init__()
        self.config = config
        # In a list, so that torch takes them for neither parameters nor buffers and leaves them in FP32.
        self._kernels = [torch.from_numpy(kernel)[:, :, None] for kernel in kernels(config)]

    def lengths(self, audio_lengths: Tensor) -> Tensor:
        """Return the number of frames of each item; an item of less than a window has none: INT [batch]."""
        config = self.config
        missing = config.window_samples - config.hop_samples
        return (audio_lengths - missing).clamp(min=0) // config.hop_samples

    def forward(self, audio: Tensor) -> Tensor:
        """Return log-mel features FP32 [batch, (samples - window) // hop + 1, bands] of audio [batch, samples]."""
        real, imaginary, mel = (kernel.to(audio.device) for kernel in self._kernels)
        energies = functional.conv1d(spectrum.power(*self._halves(audio.float()), real, imaginary), mel)
        return energies.clamp(min=SMALLEST_ENERGY).log().transpose(1, 2)

    def _halves(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return both halves of every frame, and its mean as the last row of both: [batch, half + 1, frames]."""
        config = self.config
        window, hop, kept = config.window_samples, config.hop_samples, 1.0 - config.preemphasis
        padded = functional.pad(audio, (1, spectrum.padding(window, hop)))
        now, before = padded[:, 1:], padded[:, :-1]
        # What is left of low frequencies is small: only the difference of two samples is exact.
        emphasised = spectrum.in_hops((now - before) + kept * before, hop)
        plain = spectrum.in_hops(now, hop)
        rows = spectrum.FrameRows(emphasised, window)
        # The first sample of a frame stands for the one before it.
        first = kept * rows.frames(plain[:, None, :, 0])
        mean = _means(plain, window)
        left = torch.cat((first, *rows.forwards(1, spectrum.half(window) - 1), mean), dim=1)
        return left, torch.cat((*rows.backwards(window - 1, spectrum.half(window)), mean), dim=1)


def _means(hops: Tensor, window: int) -> Tensor:
    """Return the mean of every frame [batch, 1, frames] of [batch, count, hop]."""
    hop = hops.shape[2]
    # Every frame is a number of whole parts, so each sample is added once.
    part = math.gcd(window, hop)
    sums = hops.reshape(hops.shape[0], 1, -1, part).sum(dim=3)
    kernel = torch.full((1, 1, window // part), 1.0 / window, device=hops.device)
    return functional.conv1d(sums, kernel, stride=hop // part)


class FromAudio(nn.Module):
    """A network that takes audio: a filter bank in front of a network that takes features."""

    def __init__(self, front_end: FilterBank, network: nn.Module) -> None:
        super().__init__()
        self.front_end, self.network = front_end, network

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the network's configuration, by the catalogue's axis names."""
        found: dict[str, int] = self.network.dims  # type: ignore[assignment]
        return found

    def streaming(self) -> "FromAudio":
        """Return the network of one step of a stream, with the same weights."""
        network: Any = self.network
        return FromAudio(self.front_end, network.streaming())

    def forward(self, audio: Tensor, audio_lengths: Tensor, *states: Tensor) -> Any:
        """Run the network on audio FP32 [batch, samples] in [-1, 1) with INT [batch] valid samples."""
        return self.network(self.front_end(audio), self.front_end.lengths(audio_lengths), *states)


@cache
def kernels(config: FilterBankConfig) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return what makes the real parts and the imaginary parts, and the mel filters, computed in FP64.

    The first two: [frequencies, half + 1], of the halves of a frame and of its mean; the mel filters: [bands,
    frequencies]. Frequencies that no filter uses are left out.
    """
    size = config.window_samples
    padded = 1 << (size - 1).bit_length()
    filters = _mel_filters(config, padded)
    used = np.flatnonzero(filters.any(axis=0))
    frequencies = slice(used[0], used[-1] + 1)
    real, imaginary = spectrum.transform(_window(config) * config.scale, padded, frequencies)
    # What pre-emphasis leaves of a constant is subtracted: a sum holds it twice, a difference not at all.
    constant = -(1.0 - config.preemphasis) * real.sum(axis=1, keepdims=True)
    return (
        np.hstack((real, constant)).astype(np.float32),
        np.hstack((imaginary, np.zeros_like(constant))).astype(np.float32),
        np.ascontiguousarray(filters[:, frequencies]).astype(np.float32),
    )


def _window(config: FilterBankConfig) -> NDArray[np.float64]:
    phase = 2 * np.pi * np.arange(config.window_samples) / (config.window_samples - 1)
    if config.window == "povey":
        return np.asarray((0.5 - 0.5 * np.cos(phase)) ** 0.85)
    if config.window == "hamming":
        return np.asarray(0.54 - 0.46 * np.cos(phase))
    raise ValueError(f"{config.window!r} is neither povey nor hamming")


def _mel(hertz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.asarray(1127.0 * np.log1p(np.asarray(hertz) / 700.0))


def _mel_filters(config: FilterBankConfig, padded: int) -> NDArray[np.float64]:
    """Return triangles that are equally wide in mel: FP64 [bands, padded // 2 + 1]."""
    nyquist = config.sample_rate_hz / 2
    high_hz = config.high_hz if config.high_hz > 0 else nyquist + config.high_hz
    edges = np.linspace(_mel(config.low_hz), _mel(high_hz), config.bands + 2)
    centres = _mel(np.arange(padded // 2 + 1) * config.sample_rate_hz / padded)
    left, middle, right = (edges[first : first + config.bands, None] for first in range(3))
    rising, falling = (centres - left) / (middle - left), (right - centres) / (right - middle)
    filters = np.minimum(rising, falling).clip(min=0.0)
    # Kaldi leaves half the sampling rate out.
    filters[:, -1] = 0.0
    return np.asarray(filters)
