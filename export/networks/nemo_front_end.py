"""NeMo's mel features as layers of a network: log-mel energies, which may be normalised over each recording.

Window and DFT are two products of each frame, as in export/networks/spectrum.py. Definition: NeMo's
FilterbankFeatures, which transformers' ParakeetFeatureExtractor repeats. A frame is centred on its sample: the window
lies in the middle of the transform, and zeros stand before and after the audio. The last frame of the tensor is not
valid: a recording has samples // hop frames.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from contract.frames import Stride
from export.networks import spectrum
from export.networks.layers import valid_positions

# What NeMo adds to an energy before the logarithm, and to a deviation before the division.
SMALLEST_ENERGY = 2.0**-24
SMALLEST_DEVIATION = 1.0e-5
# Slaney's scale: linear up to 1 kHz, then 27 mel for every factor of 6.4.
_BREAK_HZ, _BREAK_MEL, _HZ_PER_MEL = 1000.0, 15.0, 200.0 / 3.0
_LOG_STEP = np.log(6.4) / 27.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NemoFrontEndConfig:
    """The definition of the features; the defaults are those of FastConformer and Parakeet at 16 kHz."""

    sample_rate_hz: int = 16_000
    bands: int = 80
    window_samples: int = 400
    hop_samples: int = 160
    transform_size: int = 512
    preemphasis: float = 0.97
    low_hz: float = 0.0
    high_hz: float = 8_000.0
    normalised: bool = True
    """Whether each band has mean 0 and variance 1 over a recording."""

    @property
    def stride(self) -> Stride:
        """Return the step from samples to valid frames, samples // hop."""
        return Stride(kernel=self.hop_samples, stride=self.hop_samples)


class NemoFrontEnd(nn.Module):
    """Normalised log-mel features of audio, in FP32 whatever the type of the other layers.

    Its kernels are constants, not weights: no conversion to FP16 rounds them.
    """

    def __init__(self, config: NemoFrontEndConfig) -> None:
        super().__init__()
        self.config = config
        # In a list, so that torch takes them for neither parameters nor buffers and leaves them in FP32.
        self._kernels = [torch.from_numpy(kernel)[:, :, None] for kernel in kernels(config)]

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return features FP32 [batch, samples // hop + 1, bands], zero where padded, and INT [batch] valid frames."""
        features = self._log_mel(self._emphasised(audio.float(), audio_lengths))
        lengths = audio_lengths // self.config.hop_samples
        valid = valid_positions(lengths, features.shape[1])[..., None].to(features.dtype)
        if not self.config.normalised:
            return features * valid, lengths
        count = lengths[:, None, None].to(features.dtype)
        mean = (features * valid).sum(dim=1, keepdim=True) / count.clamp(min=1.0)
        centred = (features - mean) * valid
        # A recording of one frame has no deviation: NeMo divides by zero there, and this network returns zeros.
        variance = (centred * centred).sum(dim=1, keepdim=True) / (count - 1.0).clamp(min=1.0)
        return centred / (variance.sqrt() + SMALLEST_DEVIATION), lengths

    def _emphasised(self, audio: Tensor, lengths: Tensor) -> Tensor:
        before = functional.pad(audio, (1, 0))[:, :-1]
        valid = valid_positions(lengths, audio.shape[1]).to(audio.dtype)
        # Without the mask, the sample after the last one would hold a part of the last one.
        return (audio - self.config.preemphasis * before) * valid

    def _log_mel(self, audio: Tensor) -> Tensor:
        real, imaginary, mel = (kernel.to(audio.device) for kernel in self._kernels)
        window, hop = self.config.window_samples, self.config.hop_samples
        half, before = spectrum.half(window), window // 2
        padded = functional.pad(audio, (before, before + spectrum.padding(window, hop)))
        rows = spectrum.FrameRows(spectrum.in_hops(padded, hop), window)
        left, right = (torch.cat(each, dim=1) for each in (rows.forwards(0, half), rows.backwards(window - 1, half)))
        power = spectrum.power(left, right, real, imaginary)
        # As a bias of the convolution: TensorRT-RTX 1.7 fails for sm75 to fuse an addition behind it.
        guard = torch.full((self.config.bands,), SMALLEST_ENERGY, device=audio.device)
        return functional.conv1d(power, mel, guard).log().transpose(1, 2)


@cache
def kernels(config: NemoFrontEndConfig) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return what makes the real parts and the imaginary parts, and the mel filters, computed in FP64.

    The first two: [frequencies, half a window]; the mel filters: [bands, frequencies]. Frequencies that no filter uses
    are left out.
    """
    filters = mel_filters(config)
    used = np.flatnonzero(filters.any(axis=0))
    frequencies = slice(used[0], used[-1] + 1)
    real, imaginary = spectrum.transform(hann_window(config.window_samples), config.transform_size, frequencies)
    mel = np.ascontiguousarray(filters[:, frequencies])
    return real.astype(np.float32), imaginary.astype(np.float32), mel.astype(np.float32)


def hann_window(size: int) -> NDArray[np.float64]:
    """Return a symmetric Hann window: FP64 [size]."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1)))


def mel_filters(config: NemoFrontEndConfig) -> NDArray[np.float64]:
    """Return triangles that are equally wide on Slaney's scale, each of equal area: FP64 [bands, frequencies]."""
    return slaney_filters(config.bands, config.transform_size, config.sample_rate_hz, config.low_hz, config.high_hz)


def slaney_filters(
    bands: int, transform_size: int, sample_rate_hz: int, low_hz: float, high_hz: float
) -> NDArray[np.float64]:
    """Return Slaney's mel filters of equal area, as librosa has them: FP64 [bands, frequencies]."""
    edges = _hertz(np.linspace(_mel(low_hz), _mel(high_hz), bands + 2))
    centres = np.arange(transform_size // 2 + 1) * sample_rate_hz / transform_size
    left, middle, right = (edges[first : first + bands, None] for first in range(3))
    rising, falling = (centres - left) / (middle - left), (right - centres) / (right - middle)
    return np.asarray(np.minimum(rising, falling).clip(min=0.0) * 2.0 / (right - left))


def _mel(hertz: float) -> float:
    if hertz < _BREAK_HZ:
        return hertz / _HZ_PER_MEL
    return float(_BREAK_MEL + np.log(hertz / _BREAK_HZ) / _LOG_STEP)


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    curved = _BREAK_HZ * np.exp((mel - _BREAK_MEL) * _LOG_STEP)
    return np.asarray(np.where(mel < _BREAK_MEL, mel * _HZ_PER_MEL, curved))
