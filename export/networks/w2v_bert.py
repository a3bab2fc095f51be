"""The encoder of w2v-BERT 2.0 (arXiv:2312.05187, section 3.1): audio to one vector per 20 ms.

Kaldi's log-mel features, normalised per band over the recording, two frames in one. Then a Conformer (arXiv:2005.08100)
with causal convolutions and a score for every distance of two frames. Adapters may follow, each of which halves the
number of frames. Values that pass from block to block stay in FP32: the weights are those of others, whose values may
exceed what FP16 holds.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from contract.frames import FrameRule
from export.networks.feed_forward import FeedForward
from export.networks.front_end import FilterBank, FilterBankConfig
from export.networks.layers import Attention, Norm, by_key, masked, valid_positions
from export.networks.wav2vec2 import ACTIVATIONS

# What is added to the variance of a band over a recording.
BAND_EPSILON = 1.0e-7
STACKED = 2
"""Feature frames in one frame of the encoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class W2vBertConfig:
    """The sizes of an encoder's weights, and its front end; the defaults are those of w2v-BERT 2.0."""

    front_end: FilterBankConfig = field(default_factory=FilterBankConfig)
    size: int = 1_024
    layers: int = 24
    heads: int = 16
    hidden: int = 4_096
    activation: str = "swish"
    kernel: int = 31
    epsilon: float = 1.0e-5
    left: int = 64
    """The distance to earlier frames from which on the score of a distance is the same."""
    right: int = 8
    widened: bool = False
    """Whether a further feed-forward layer stands before the adapters."""
    adapters: int = 0
    adapter_size: int = 1_024
    adapter_kernel: int = 3
    adapter_stride: int = 2
    adapter_activation: str = "relu"

    @property
    def adapter_padding(self) -> int:
        """Return the zeros on each side of an adapter's convolution."""
        return self.adapter_stride // 2

    @property
    def frames(self) -> FrameRule:
        """Return the rule from samples to encoder frames."""
        adapter = (self.adapter_kernel, self.adapter_stride, 2 * self.adapter_padding)
        front_end = (self.front_end.window_samples, self.front_end.hop_samples)
        return FrameRule.of(front_end, (STACKED, STACKED), *[adapter] * self.adapters)


class StackedFeatures(nn.Module):
    """Log-mel features of mean 0 and variance 1 per band over each recording, two frames in one, in FP32."""

    def __init__(self, config: FilterBankConfig) -> None:
        super().__init__()
        self.bank = FilterBank(config)

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return FP32 [batch, frames, 2 * bands] and INT [batch] valid frames, at least 1."""
        features, lengths = self.bank(audio), self.bank.lengths(audio_lengths)
        valid = valid_positions(lengths, features.shape[1])[..., None].float()
        count = lengths[:, None, None].float()
        mean = (features * valid).sum(dim=1, keepdim=True) / count.clamp(min=1.0)
        centred = (features - mean) * valid
        # A recording of one frame has no deviation: transformers divides by zero there, and this returns zeros.
        variance = (centred * centred).sum(dim=1, keepdim=True) / (count - 1.0).clamp(min=1.0)
        normed = centred / (variance + BAND_EPSILON).sqrt()
        # A last frame without a second one is left out.
        stacked = torch.cat((normed[:, :-1:STACKED], normed[:, 1::STACKED]), dim=2)
        return stacked, (lengths // STACKED).clamp(min=1)


class WideFeedForward(FeedForward):
    """Feed-forward layers whose output is FP32."""

    def __init__(self, size: int, hidden: int, activation: str) -> None:
        super().__init__(size, hidden, ACTIVATIONS[activation])

    def forward(self, values: Tensor) -> Tensor:
        """Transform [batch, time, size] -> FP32."""
        return super().forward(values).float()


class DistanceAttention(Attention):
    """Self-attention whose scores have a part for the content of a key and one for its distance (arXiv:1803.02155)."""

    def __init__(self, config: W2vBertConfig) -> None:
        super().__init__(config.size, config.heads, rotary=False)
        self.left, self.right = config.left, config.right
        self.distances = nn.Embedding(config.left + config.right + 1, config.size // config.heads)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Attend within [batch, time, size]; mask BOOL [batch, 1, 1, time]."""
        query, key, value = self._split(self.query(queries)), self._split(self.key(keys)), self._split(self.value(keys))
        # Scale before the product: scores of a long vector would otherwise come close to the largest FP16 value.
        query = query * query.shape[-1] ** -0.5
        content, distance = torch.matmul(query, key.transpose(-1, -2)), torch.matmul(query, self._table(queries))
        scores = content.float() + by_key(distance).float()
        weights = torch.softmax(masked(scores, mask), dim=-1).to(value.dtype)
        return self.out(torch.matmul(weights, value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _table(self, values: Tensor) -> Tensor:
        """Return a vector for each distance from a frame to a later one, 1-time to time-1: [size/heads, 2*time-1]."""
        time = values.shape[1]
        distances = torch.arange(2 * time - 1, device=values.device) - (time - 1)
        return self.distances(distances.clamp(-self.left, self.right) + self.left).transpose(0, 1)  # type: ignore[no-any-return]


class Convolution(nn.Module):
    """Gated pointwise, causal depthwise and pointwise convolution over time, without biases."""

    def __init__(self, config: W2vBertConfig) -> None:
        super().__init__()
        size, self.past = config.size, config.kernel - 1
        self.gate, self.out = nn.Linear(size, 2 * size, bias=False), nn.Linear(size, size, bias=False)
        self.depthwise = nn.Conv1d(size, size, config.kernel, groups=size, bias=False)
        self.norm, self.activation = Norm(size, config.epsilon), ACTIVATIONS[config.activation]

    def forward(self, values: Tensor) -> Tensor:
        """Convolve [batch, time, size] -> FP32. No mask is needed: a frame depends on earlier frames only."""
        gated = functional.glu(self.gate(values.to(self.gate.weight.dtype)), dim=-1)
        convolved = self.depthwise(functional.pad(gated.transpose(1, 2), (self.past, 0))).transpose(1, 2)
        return self.out(self.activation(self.norm(convolved))).float()  # type: ignore[no-any-return]


class Block(nn.Module):
    """One Conformer block: half feed-forward, attention, convolution, half feed-forward, norm."""

    def __init__(self, config: W2vBertConfig) -> None:
        super().__init__()
        size, epsilon = config.size, config.epsilon
        self.before_norm, self.before = Norm(size, epsilon), WideFeedForward(size, config.hidden, config.activation)
        self.attention_norm, self.attention = Norm(size, epsilon), DistanceAttention(config)
        self.convolution_norm, self.convolution = Norm(size, epsilon), Convolution(config)
        self.after_norm, self.after = Norm(size, epsilon), WideFeedForward(size, config.hidden, config.activation)
        self.norm = Norm(size, epsilon)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Transform FP32 [batch, time, size], keeping shape and type."""
        values = values + 0.5 * self.before(self.before_norm(values))
        values = values + _attended(self.attention, self.attention_norm(values), mask)
        values = values + self.convolution(self.convolution_norm(values))
        return self.norm(values + 0.5 * self.after(self.after_norm(values)))  # type: ignore[no-any-return]


class Adapter(nn.Module):
    """Attention and feed-forward behind gated convolutions with a stride, with a convolved residual."""

    def __init__(self, config: W2vBertConfig) -> None:
        super().__init__()
        size, epsilon = config.adapter_size, config.epsilon
        self.stride = config.frames.steps[-1]
        self.residual_norm, self.residual = Norm(size, epsilon), self._convolution(config)
        self.convolution_norm, self.convolution = Norm(size, epsilon), self._convolution(config)
        self.attention = Attention(size, config.heads, rotary=False)
        self.feed_norm, self.feed = Norm(size, epsilon), WideFeedForward(size, config.hidden, config.adapter_activation)

    @staticmethod
    def _convolution(config: W2vBertConfig) -> nn.Conv1d:
        size, kernel, stride = config.adapter_size, config.adapter_kernel, config.adapter_stride
        return nn.Conv1d(size, 2 * size, kernel, stride=stride, padding=config.adapter_padding)

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Transform FP32 [batch, time, size] with INT [batch] valid frames; return both after the convolutions."""
        valid = valid_positions(lengths, values.shape[1])[..., None]
        residual = self._convolved(self.residual, self.residual_norm(values) * valid)
        hidden = self._convolved(self.convolution, self.convolution_norm(values) * valid)
        step = self.stride
        lengths = (lengths + step.padding - step.kernel).clamp(min=0) // step.stride + 1
        mask = valid_positions(lengths, hidden.shape[1])[:, None, None, :]
        values = _attended(self.attention, hidden, mask) + residual
        return values + self.feed(self.feed_norm(values)), lengths

    @staticmethod
    def _convolved(layer: nn.Conv1d, values: Tensor) -> Tensor:
        convolved = layer(values.to(layer.weight.dtype).transpose(1, 2))
        return functional.glu(convolved, dim=1).transpose(1, 2).float()


def _attended(layer: Attention, values: Tensor, mask: Tensor) -> Tensor:
    values = values.to(layer.query.weight.dtype)
    return layer(values, values, mask).float()  # type: ignore[no-any-return]


class W2vBert(nn.Module):
    """The encoder with its front end."""

    config_type = W2vBertConfig

    def __init__(self, config: W2vBertConfig) -> None:
        super().__init__()
        self.config = config
        self.front_end = StackedFeatures(config.front_end)
        features, size, epsilon = STACKED * config.front_end.bands, config.size, config.epsilon
        self.projection_norm, self.projection = Norm(features, epsilon), nn.Linear(features, size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.widening = WideFeedForward(size, config.hidden, "relu") if config.widened else None
        changed = config.adapters > 0 and config.adapter_size != size
        self.adapter_projection = nn.Linear(size, config.adapter_size) if changed else None
        self.adapter_norm = Norm(config.adapter_size, epsilon) if changed else None
        self.adapters = nn.ModuleList(Adapter(config) for _ in range(config.adapters))

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the configuration, by the catalogue's axis names."""
        return {"encoder_size": self.config.adapter_size if self.config.adapters else self.config.size}

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode audio FP32 [batch, samples] in [-1, 1) with INT [batch] valid samples.

        Returns encoder_out FP32 [batch, frames, size], zero where padded, and encoder_lengths INT [batch], at least 1.
        """
        features, lengths = self.front_end(audio, audio_lengths)
        values = self.projection(self.projection_norm(features).to(self.projection.weight.dtype)).float()
        mask = valid_positions(lengths, values.shape[1])[:, None, None, :]
        for block in self.blocks:
            values = block(values, mask)
        if self.widening is not None:
            values = values + 0.5 * self.widening(values)
        values, lengths = self._adapted(values, lengths)
        return values * valid_positions(lengths, values.shape[1])[..., None].to(values.dtype), lengths

    def _adapted(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.adapter_projection is not None and self.adapter_norm is not None:
            projected = self.adapter_projection(values.to(self.adapter_projection.weight.dtype))
            values = self.adapter_norm(projected.float())
        for adapter in self.adapters:
            values, lengths = adapter(values, lengths)
        return values, lengths
