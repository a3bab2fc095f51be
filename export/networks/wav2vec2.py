"""The encoder of wav2vec2 (arXiv:2006.11477), HuBERT (arXiv:2106.07447) and WavLM (arXiv:2110.13900).

Convolutions over the waveform, then a transformer whose positions come from a wide convolution; WavLM adds a bias of
the scores by distance, with a gate. The first convolution of the base networks is normalised over the whole recording.
Here its statistics are those of the valid frames, so that a padded recording has the result that it has alone. Weight
normalisation is part of the weights. Values that pass from block to block stay in FP32: the weights are those of
others, whose values may exceed what FP16 holds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from contract.frames import FrameRule
from export.networks.layers import Norm, masked, valid_positions

GROUP, LAYER = FEATURE_NORMS = ("group", "layer")
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "gelu": functional.gelu,
        "gelu_new": partial(functional.gelu, approximate="tanh"),
        "relu": functional.relu,
        "silu": functional.silu,
        "swish": functional.silu,
    }
)
# What is added to the variance of the samples of a recording.
SAMPLE_EPSILON = 1.0e-7
GROUP_EPSILON = 1.0e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class Wav2Vec2Config:
    """The sizes of an encoder's weights; the defaults are those of wav2vec2-base."""

    channels: tuple[int, ...] = (512,) * 7
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    convolution_bias: bool = False
    feature_norm: str = GROUP
    """`group`: the first convolution is normalised over time. `layer`: each one is normalised over its channels."""
    feature_activation: str = "gelu"
    projection_norm: bool = True
    size: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3_072
    activation: str = "gelu"
    position_kernel: int = 128
    position_groups: int = 16
    norm_first: bool = False
    """Whether a block normalises the inputs of its layers, not their outputs."""
    epsilon: float = 1.0e-5
    normalised: bool = True
    """Whether the samples of a recording are brought to mean 0 and variance 1."""
    farthest: int | None = None
    """WavLM: the distance from which on the bias of a score is the same; None without such a bias."""

    @property
    def frames(self) -> FrameRule:
        """Return the rule from samples to encoder frames."""
        return FrameRule.of(*zip(self.kernels, self.strides, strict=True))


class WaveConvolution(nn.Module):
    """One convolution over time with its normalisation, none, over the valid frames or over the channels."""

    def __init__(self, config: Wav2Vec2Config, index: int) -> None:
        super().__init__()
        before = config.channels[index - 1] if index else 1
        channels, kernel, stride = config.channels[index], config.kernels[index], config.strides[index]
        self.convolution = nn.Conv1d(before, channels, kernel, stride=stride, bias=config.convolution_bias)
        self.activation = ACTIVATIONS[config.feature_activation]
        self.norm: nn.Module | None = None
        if config.feature_norm == LAYER:
            self.norm = Norm(channels)
        elif index == 0:
            self.norm = TimeNorm(channels)

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve [batch, channels, time] with INT [batch] valid values; return both after the convolution.

        No mask is needed: a valid frame depends on valid values only.
        """
        (kernel,), (stride,) = self.convolution.kernel_size, self.convolution.stride
        # An item of less than a kernel keeps one frame, so that no sum is empty.
        lengths = (lengths - kernel).clamp(min=0) // stride + 1
        values = self.convolution(values)
        if isinstance(self.norm, TimeNorm):
            values = self.norm(values, lengths)
        elif self.norm is not None:
            values = self.norm(values.transpose(1, 2)).transpose(1, 2)
        return self.activation(values), lengths


class TimeNorm(nn.Module):
    """Normalise each channel over the valid frames of a recording, in FP32: group normalisation that can be batched."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Normalise [batch, channels, time] with INT [batch] valid frames; return the shape and type of the input."""
        valid = valid_positions(lengths, values.shape[2])[:, None, :].float()
        normed = _standardised(values.float(), valid, lengths[:, None, None].float(), GROUP_EPSILON)
        return (normed * self.weight.float()[:, None] + self.bias.float()[:, None]).to(values.dtype)


def _standardised(values: Tensor, valid: Tensor, count: Tensor, epsilon: float) -> Tensor:
    """Bring the valid values along the last axis to mean 0 and variance 1; padded ones become 0."""
    mean = (values * valid).sum(dim=-1, keepdim=True) / count
    centred = (values - mean) * valid
    variance = (centred * centred).sum(dim=-1, keepdim=True) / count
    return centred / (variance + epsilon).sqrt()


class PositionConvolution(nn.Module):
    """The positions: a wide grouped convolution over time, of the length of its input."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        kernel = config.position_kernel
        self.convolution = nn.Conv1d(
            config.size, config.size, kernel, padding=kernel // 2, groups=config.position_groups
        )
        self.activation = ACTIVATIONS[config.feature_activation]

    def forward(self, values: Tensor) -> Tensor:
        """Convolve [batch, time, size], which is zero where padded; return the type of the weights."""
        time = values.shape[1]
        convolved = self.convolution(values.to(self.convolution.weight.dtype).transpose(1, 2))
        # An even kernel makes one frame more.
        return self.activation(convolved[..., :time]).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention; with a gate, each query decides how much the bias of its scores counts."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        size, self.heads = config.size, config.heads
        self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))
        self.gate = Gate(config) if config.farthest is not None else None

    def forward(self, values: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Attend within [batch, time, size]; mask BOOL [batch, 1, 1, time]; bias FP32 [heads, time, time]."""
        values = values.to(self.query.weight.dtype)
        query, key, value = (_split(layer(values), self.heads) for layer in (self.query, self.key, self.value))
        # Scale before the product: scores of a long vector would otherwise come close to the largest FP16 value.
        scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2)).float()
        if self.gate is not None and bias is not None:
            scores = scores + self.gate(_split(values, self.heads)) * bias
        weights = torch.softmax(masked(scores, mask), dim=-1).to(value.dtype)
        return self.out(torch.matmul(weights, value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Gate(nn.Module):
    """WavLM's gate of the bias by distance (arXiv:2110.13900, section 3.2)."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.gates = nn.Linear(config.size // config.heads, 2)
        self.scale = nn.Parameter(torch.ones(config.heads, 1, 1))

    def forward(self, values: Tensor) -> Tensor:
        """Return FP32 [batch, heads, time, 1] for the input of an attention, [batch, heads, time, size/heads]."""
        update, reset = torch.sigmoid(self.gates(values).float()).chunk(2, dim=-1)
        return update * (reset * self.scale.float() - 1.0) + 2.0


def _split(values: Tensor, heads: int) -> Tensor:
    batch, time, _ = values.shape
    return values.reshape(batch, time, heads, -1).transpose(1, 2)


class Block(nn.Module):
    """One transformer block: attention and feed-forward, each with its normalisation before or after it."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.attention, self.attention_norm = Attention(config), Norm(config.size, eps=config.epsilon)
        self.first, self.second = nn.Linear(config.size, config.hidden), nn.Linear(config.hidden, config.size)
        self.feed_norm = Norm(config.size, eps=config.epsilon)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, values: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Transform FP32 [batch, time, size], keeping shape and type."""
        if self.norm_first:
            values = values + self.attention(self.attention_norm(values), mask, bias).float()
            return values + self._feed(self.feed_norm(values))
        values = self.attention_norm(values + self.attention(values, mask, bias).float())
        return self.feed_norm(values + self._feed(values))  # type: ignore[no-any-return]

    def _feed(self, values: Tensor) -> Tensor:
        return self.second(self.activation(self.first(values.to(self.first.weight.dtype)))).float()  # type: ignore[no-any-return]


class Wav2Vec2(nn.Module):
    """The encoder."""

    config_type = Wav2Vec2Config

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        self.convolutions = nn.ModuleList(WaveConvolution(config, index) for index in range(len(config.channels)))
        channels = config.channels[-1]
        self.projection_norm = Norm(channels, eps=config.epsilon) if config.projection_norm else nn.Identity()
        self.projection = nn.Linear(channels, config.size)
        self.position = PositionConvolution(config)
        self.norm = Norm(config.size, eps=config.epsilon)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        # By distance, from -farthest to farthest: the bucket of a distance does not depend on the input.
        self.distance_bias = (
            nn.Embedding(2 * config.farthest + 1, config.heads) if config.farthest is not None else None
        )

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the configuration, by the catalogue's axis names."""
        return {"encoder_size": self.config.size}

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode audio FP32 [batch, samples] in [-1, 1) with INT [batch] valid samples.

        Returns encoder_out FP32 [batch, frames, size], zero where padded, and encoder_lengths INT [batch], at least 1.
        """
        values, lengths = self._waveform(audio, audio_lengths), audio_lengths
        for layer in self.convolutions:
            values, lengths = layer(values, lengths)
        valid = valid_positions(lengths, values.shape[2])
        keep = valid[..., None].float()
        values = self.projection(self.projection_norm(values.transpose(1, 2))).float() * keep
        values = values + self.position(values).float()
        if not self.config.norm_first:
            values = self.norm(values)
        mask, bias = valid[:, None, None, :], self._distance_bias(values)
        for block in self.blocks:
            values = block(values, mask, bias)
        if self.config.norm_first:
            values = self.norm(values)
        return values * keep, lengths

    def _waveform(self, audio: Tensor, lengths: Tensor) -> Tensor:
        audio = audio.float()
        if self.config.normalised:
            valid = valid_positions(lengths, audio.shape[1]).float()
            audio = _standardised(audio, valid, lengths[:, None].clamp(min=1).float(), SAMPLE_EPSILON)
        return audio[:, None].to(self.projection.weight.dtype)

    def _distance_bias(self, values: Tensor) -> Tensor | None:
        if self.distance_bias is None or self.config.farthest is None:
            return None
        farthest, place = self.config.farthest, torch.arange(values.shape[1], device=values.device)
        distances = (place[None, :] - place[:, None]).clamp(-farthest, farthest) + farthest
        return self.distance_bias(distances).float().permute(2, 0, 1)  # type: ignore[no-any-return]
