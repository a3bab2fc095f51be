"""The FastConformer encoder of NeMo and Parakeet (arXiv:2305.05084): audio to one vector per 80 ms.

A Conformer (arXiv:2005.08100) with relative positions (arXiv:1901.02860, appendix B) behind a subsampling by 8. The
batch normalisation of a block is part of the weights of the convolution before it. Values that pass from block to block
stay in FP32: the weights are those of others, whose values may exceed what FP16 holds.
"""

from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from contract.frames import FrameRule, Stride
from export.networks.feed_forward import FeedForward
from export.networks.layers import Norm, by_key, masked, valid_positions
from export.networks.nemo_front_end import NemoFrontEnd, NemoFrontEndConfig

Frames = TypeVar("Frames", int, Tensor)
POSITION_BASE = 10_000.0
_HALVINGS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class FastConformerConfig:
    """The sizes of an encoder's weights, and its front end."""

    front_end: NemoFrontEndConfig = field(default_factory=NemoFrontEndConfig)
    channels: int = 256
    size: int = 512
    layers: int = 17
    heads: int = 8
    hidden: int = 2_048
    kernel: int = 9
    bias: bool = True
    """Whether attention and feed-forward layers have a bias."""
    convolution_bias: bool = True
    """Whether the pointwise convolutions have a bias; the depthwise one has that of its normalisation anyway."""
    scaled: bool = True
    """Whether the input of the first block is multiplied with the square root of its size."""

    @property
    def frames(self) -> FrameRule:
        """Return the rule from samples to encoder frames."""
        return FrameRule((self.front_end.stride, *(Stride(kernel=3, stride=2, padding=2) for _ in range(_HALVINGS))))


class Subsampling(nn.Module):
    """Three convolutions of width 3 and stride 2 over time and bands; the later two are depthwise and pointwise."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        channels = config.channels
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.depthwise = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels) for _ in range(_HALVINGS - 1)
        )
        self.pointwise = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(_HALVINGS - 1))
        bands = config.front_end.bands
        for _ in range(_HALVINGS):
            bands = halved(bands)
        self.out = nn.Linear(channels * bands, config.size)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Subsample [batch, frames, bands], zero where padded -> [batch, frames/8, size] and its valid frames."""
        lengths = halved(lengths)
        values = _kept(functional.relu(self.first(features[:, None].to(self.first.weight.dtype))), lengths)
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            lengths = halved(lengths)
            values = _kept(functional.relu(pointwise(depthwise(values))), lengths)
        return self.out(values.transpose(1, 2).flatten(2)), lengths


def halved(count: Frames) -> Frames:
    """Return the number of frames after a convolution of stride 2: half of it, rounded up."""
    return (count + 1) // 2


def _kept(values: Tensor, lengths: Tensor) -> Tensor:
    """Set padded frames of [batch, channels, frames, bands] to zero: the next convolution reads across the end."""
    return values * valid_positions(lengths, values.shape[2])[:, None, :, None].to(values.dtype)


class RelativeAttention(nn.Module):
    """Self-attention with relative positions: scores of content and of distance, each with a bias of its own."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        size, self.heads = config.size, config.heads
        self.query, self.key, self.value, self.out = (nn.Linear(size, size, bias=config.bias) for _ in range(4))
        self.position = nn.Linear(size, size, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(config.heads, size // config.heads))
        self.position_bias = nn.Parameter(torch.zeros(config.heads, size // config.heads))

    def forward(self, values: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Attend within [batch, time, size]; positions [1, 2*time-1, size]; mask BOOL [batch, 1, 1, time]."""
        values = values.to(self.query.weight.dtype)
        query, key, value = (_split(layer(values), self.heads) for layer in (self.query, self.key, self.value))
        distance = _split(self.position(positions), self.heads)
        # Scale before the product: scores of a long vector would otherwise come close to the largest FP16 value.
        scale = query.shape[-1] ** -0.5
        content = torch.matmul((query + self.content_bias[:, None]) * scale, key.transpose(-1, -2))
        relative = torch.matmul((query + self.position_bias[:, None]) * scale, distance.transpose(-1, -2))
        scores = content.float() + by_key(relative).float()
        weights = torch.softmax(masked(scores, mask), dim=-1).to(value.dtype)
        return self.out(torch.matmul(weights, value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _split(values: Tensor, heads: int) -> Tensor:
    batch, time, _ = values.shape
    return values.reshape(batch, time, heads, -1).transpose(1, 2)


class Convolution(nn.Module):
    """Gated pointwise, depthwise and pointwise convolution over time; the depthwise input is masked."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        size, kernel = config.size, config.kernel
        self.gate = nn.Linear(size, 2 * size, bias=config.convolution_bias)
        self.depthwise = nn.Conv1d(size, size, kernel, padding=(kernel - 1) // 2, groups=size)
        self.out = nn.Linear(size, size, bias=config.convolution_bias)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """Convolve [batch, time, size]; `valid` BOOL [batch, time] sets padded frames to zero."""
        gated = functional.glu(self.gate(values.to(self.gate.weight.dtype)), dim=-1)
        gated = gated * valid[..., None].to(gated.dtype)
        convolved = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        return self.out(functional.silu(convolved))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One Conformer block: half feed-forward, attention, convolution, half feed-forward, norm."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        size = config.size
        self.before_norm, self.before = Norm(size), FeedForward(size, config.hidden, functional.silu, bias=config.bias)
        self.attention_norm, self.attention = Norm(size), RelativeAttention(config)
        self.convolution_norm, self.convolution = Norm(size), Convolution(config)
        self.after_norm, self.after = Norm(size), FeedForward(size, config.hidden, functional.silu, bias=config.bias)
        self.norm = Norm(size)

    def forward(self, values: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Transform FP32 [batch, time, size], keeping shape and type."""
        values = values + 0.5 * self.before(self.before_norm(values)).float()
        mask = valid[:, None, None, :]
        values = values + self.attention(self.attention_norm(values), positions, mask).float()
        values = values + self.convolution(self.convolution_norm(values), valid).float()
        values = values + 0.5 * self.after(self.after_norm(values)).float()
        return self.norm(values)  # type: ignore[no-any-return]


class FastConformer(nn.Module):
    """The encoder with its front end."""

    config_type = FastConformerConfig

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.front_end = NemoFrontEnd(config.front_end)
        self.subsampling = Subsampling(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the configuration, by the catalogue's axis names."""
        return {"encoder_size": self.config.size}

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode audio FP32 [batch, samples] in [-1, 1) with INT [batch] valid samples.

        Returns encoder_out FP32 [batch, frames, size], zero where padded, and encoder_lengths INT [batch], at least 1.
        """
        values, lengths = self.subsampling(*self.front_end(audio, audio_lengths))
        positions = _positions(values)
        values, lengths = values.float(), lengths.clamp(min=1)
        if self.config.scaled:
            values = values * self.config.size**0.5
        valid = valid_positions(lengths, values.shape[1])
        for block in self.blocks:
            values = block(values, positions, valid)
        return values * valid[..., None].to(values.dtype), lengths


def _positions(values: Tensor) -> Tensor:
    """Return the sinusoids of the distances time-1 to 1-time of [batch, time, size]: [1, 2*time-1, size].

    Angles are computed, not read from a table, so the length of the input is not limited.
    """
    time, size = values.shape[1], values.shape[2]
    frequencies = POSITION_BASE ** (-torch.arange(0, size, 2, device=values.device, dtype=torch.float32) / size)
    distances = (time - 1) - torch.arange(2 * time - 1, device=values.device, dtype=torch.float32)
    angles = distances[:, None] * frequencies[None, :]
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[None].to(values.dtype)
