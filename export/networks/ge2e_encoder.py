"""The speaker encoder of Resemblyzer: LSTM layers over mel energies, trained with GE2E (arXiv:1710.10467).

It takes windows of audio without padding: the last state of the LSTM is that of its last frame.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from export.networks.nemo_front_end import slaney_filters

# Resemblyzer raises a quieter utterance to this level, and leaves a louder one as it is: -30 dB of full scale.
_TARGET_RMS = 10.0 ** (-30.0 / 20.0)
_SMALLEST_POWER = 1.0e-12
# The smallest length of an embedding before it is brought to 1.
_SMALLEST_NORM = 1.0e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Ge2eEncoderConfig:
    """The sizes of the weights and of the features."""

    bands: int = 40
    size: int = 256
    layers: int = 3
    embedding: int = 256
    sample_rate_hz: int = 16_000
    window: int = 400
    hop: int = 160


class LstmLayer(nn.Module):
    """An LSTM layer with its weights as ONNX has them, gates in the order input, output, forget, cell.

    torch would unroll every frame at export, which fails for a dynamic number of them. ONNX has the layer as one
    operator.
    """

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.input_weight = nn.Parameter(torch.zeros(1, 4 * size, inputs))
        self.state_weight = nn.Parameter(torch.zeros(1, 4 * size, size))
        self.bias = nn.Parameter(torch.zeros(1, 8 * size))
        """That of the inputs, then that of the states."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the states of all frames, [frames, batch, size], of [frames, batch, inputs]."""
        frames, batch, _ = values.shape
        if torch.onnx.is_in_onnx_export():
            inputs = (values, self.input_weight, self.state_weight, self.bias)
            sizes = (frames, 1, batch, self.size)
            found = torch.onnx.ops.symbolic("LSTM", inputs, {"hidden_size": self.size}, dtype=values.dtype, shape=sizes)
            return found[:, 0]
        first = values.new_zeros(1, batch, self.size)
        weights = [self.input_weight[0], self.state_weight[0], *self.bias[0].chunk(2)]
        states, _, _ = torch.lstm(
            values,
            (first, first),
            [reordered_gates(each, (0, 2, 3, 1)) for each in weights],
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=False,
            bidirectional=False,
            batch_first=False,
        )
        return states


class Ge2eEncoder(nn.Module):
    """Embeds the voice of a window of audio in a vector of unit length.

    All of it computes in FP32: the features are energies, not their logarithms, and cover twelve decades.
    """

    config_type = Ge2eEncoderConfig

    def __init__(self, config: Ge2eEncoderConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.bands, *[config.size] * (config.layers - 1)]
        self.layers = nn.ModuleList(LstmLayer(inputs, config.size) for inputs in sizes)
        self.linear = nn.Linear(config.size, config.embedding)
        transform, mel = _kernels(config)
        # In a list, so that torch takes them for neither parameters nor buffers and leaves them in FP32.
        self._kernels = [torch.from_numpy(transform)[:, None, :], torch.from_numpy(mel)[:, :, None]]

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the configuration, by the catalogue's axis names."""
        return {"embedding_size": self.config.embedding}

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
        """Embed audio FP32 [batch, samples] in [-1, 1) -> FP32 [batch, E], of unit length.

        All samples count: `audio_lengths` INT [batch] only decides the level of an utterance.
        """
        # Resemblyzer takes as many frames as hops: not the one that is centred on the end.
        features = self.features(self._levelled(audio, audio_lengths))[:, :-1]
        states = features.transpose(0, 1).to(self.linear.weight.dtype)
        for layer in self.layers:
            states = layer(states)
        # Negative values are cut: all embeddings lie in one orthant.
        embedding = functional.relu(self.linear(states[-1])).float()
        return functional.normalize(embedding, dim=-1, eps=_SMALLEST_NORM)

    def features(self, audio: Tensor) -> Tensor:
        """Return mel energies FP32 [batch, samples // hop + 1, bands]."""
        transform, mel = (kernel.to(audio.device) for kernel in self._kernels)
        half = self.config.window // 2
        spectrum = functional.conv1d(audio.float()[:, None], transform, stride=self.config.hop, padding=half)
        real, imaginary = spectrum.chunk(2, dim=1)
        return functional.conv1d(real * real + imaginary * imaginary, mel).transpose(1, 2)

    def _levelled(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
        power = audio.float().square().sum(dim=1) / audio_lengths.clamp(min=1).float()
        factor = (_TARGET_RMS * power.clamp(min=_SMALLEST_POWER).rsqrt()).clamp(min=1.0)
        return audio * factor[:, None]


def reordered_gates(weights: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return the rows of an LSTM's weights with its four gates in another order."""
    size = len(weights) // len(order)
    return torch.cat([weights[gate * size : (gate + 1) * size] for gate in order])


def _kernels(config: Ge2eEncoderConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    # librosa's window is periodic, and NumPy's is symmetric.
    window = np.hanning(config.window + 1)[:-1]
    spectrum = np.fft.rfft(np.diag(window), axis=0)
    transform = np.concatenate((spectrum.real, spectrum.imag)).astype(np.float32)
    rate = config.sample_rate_hz
    filters = slaney_filters(config.bands, config.window, rate, 0.0, rate / 2)
    return transform, filters.astype(np.float32)
