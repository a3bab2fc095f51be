"""The body: a causal-convolution Conformer that every language and both modes share (arXiv:2005.08100)."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.networks.layers import Attention, FeatureNorm, FeedForward, Norm, chunk_mask, valid_positions
from export.networks.streaming import StreamingBody

Frames = TypeVar("Frames", int, Tensor)


@dataclass(frozen=True, kw_only=True, slots=True)
class BodyConfig:
    """What a body's weights are shaped by; written into its checkpoint."""

    bands: int = 80
    size: int = 128
    layers: int = 8
    heads: int = 4
    hidden: int = 256
    kernel: int = 15
    channels: int = 192
    # Behind so many blocks each the others are told which of so many tokens has been understood.
    conditioned: tuple[int, ...] = ()
    vocabulary: int = 0


class Subsampling(nn.Module):
    """Two unpadded convolutions over time, three wide, of stride 2, all bands at once, as matrix products.

    [batch, frames, bands] -> [batch, ((frames-1)//2-1)//2, size]. Convolutions over time and frequency, as Conformers
    have them, took a third of the training's time on a CPU.
    """

    def __init__(self, config: BodyConfig) -> None:
        super().__init__()
        self.first = nn.Linear(3 * config.bands, config.channels)
        self.second = nn.Linear(3 * config.channels, config.size)

    def forward(self, features: Tensor) -> Tensor:
        """Subsample. No masking is needed: a valid output frame sees valid input frames only."""
        return self.second(_triples(functional.silu(self.first(_triples(features)))))  # type: ignore[no-any-return]


def _triples(values: Tensor) -> Tensor:
    """Put every second frame beside the two that follow it: [batch, T, size] -> [batch, (T-1)//2, 3*size]."""
    count = (values.shape[1] - 1) // 2
    return torch.cat([values[:, first : first + 2 * count : 2] for first in range(3)], dim=-1)


def subsampled(frames: Frames) -> Frames:
    """Give the length behind the subsampling: 35 frames make 8, stride 4."""
    return ((frames - 1) // 2 - 1) // 2


class Convolution(nn.Module):
    """Gated pointwise, causal depthwise and pointwise convolution over time, masked before the depthwise one."""

    def __init__(self, size: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.gate = nn.Linear(size, 2 * size)
        self.depthwise = nn.Conv1d(size, size, kernel, groups=size)
        self.norm = Norm(size)
        self.out = nn.Linear(size, size)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """Convolve [batch, time, size]; `valid` BOOL [batch, time] keeps padding from leaking."""
        return self._convolve(functional.pad(self._gated(values, valid), (0, 0, self.kernel - 1, 0)))

    def step(self, values: Tensor, valid: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve a chunk [batch, T, size] behind the gated frames before it: state [batch, kernel-1, size].

        Gives the convolved chunk and the state for the next one.
        """
        gated = torch.cat((state, self._gated(values, valid)), dim=1)
        return self._convolve(gated), gated[:, 1 - self.kernel :]

    def _gated(self, values: Tensor, valid: Tensor) -> Tensor:
        gated: Tensor = functional.glu(self.gate(values), dim=-1) * valid[..., None].to(values.dtype)
        return gated

    def _convolve(self, gated: Tensor) -> Tensor:
        convolved = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        return self.out(functional.silu(self.norm(convolved)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One Conformer block: half feed-forward, attention, convolution, half feed-forward, norm."""

    def __init__(self, config: BodyConfig) -> None:
        super().__init__()
        self.before_norm, self.before = Norm(config.size), FeedForward(config.size, config.hidden)
        self.attention_norm = Norm(config.size)
        self.attention = Attention(config.size, config.heads, rotary=True)
        self.convolution_norm, self.convolution = Norm(config.size), Convolution(config.size, config.kernel)
        self.after_norm, self.after = Norm(config.size), FeedForward(config.size, config.hidden)
        self.norm = Norm(config.size)
        # Added to what a block hears of a stream: with less to come, the answer may have to wait.
        self.streamed = nn.Parameter(torch.zeros(config.size))

    def forward(self, values: Tensor, valid: Tensor, mask: Tensor, *, streamed: bool = False) -> Tensor:
        """Transform [batch, time, size] in place of type and shape, `streamed` where a mask hides what is to come."""
        if streamed:
            values = values + self.streamed
        values = values + 0.5 * self.before(self.before_norm(values))
        normed = self.attention_norm(values)
        values = values + self.attention(normed, normed, mask)
        values = values + self.convolution(self.convolution_norm(values), valid)
        values = values + 0.5 * self.after(self.after_norm(values))
        return self.norm(values)  # type: ignore[no-any-return]

    def step(
        self, values: Tensor, valid: Tensor, mask: Tensor, attention: Tensor, convolution: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Transform a chunk [batch, T, size] with the states of attention and convolution, and give the next ones."""
        values = values + self.streamed
        values = values + 0.5 * self.before(self.before_norm(values))
        attended, attention = self.attention.step(self.attention_norm(values), mask, attention)
        values = values + attended
        convolved, convolution = self.convolution.step(self.convolution_norm(values), valid, convolution)
        values = values + convolved
        values = values + 0.5 * self.after(self.after_norm(values))
        return self.norm(values), attention, convolution


class SelfConditioning(nn.Module):
    """Tell the blocks above what those below have understood: a guess at each frame's token (arXiv:2104.02724).

    With the frames apart from one another, as CTC has them, spelling gains most by it.
    """

    def __init__(self, size: int, vocabulary: int) -> None:
        super().__init__()
        self.guess = nn.Linear(size, vocabulary)
        self.tell = nn.Linear(vocabulary, size)

    def forward(self, values: Tensor) -> Tensor:
        """Add what is guessed to [batch, time, size]; the softmax is in FP32."""
        guessed = torch.softmax(self.guess(values).float(), dim=-1).to(values.dtype)
        return values + self.tell(guessed)  # type: ignore[no-any-return]


class Body(nn.Module):
    """Language-independent encoder: log-mel features in, one vector per 40 ms out."""

    config_type = BodyConfig

    def __init__(self, config: BodyConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_norm = FeatureNorm(config.bands)
        self.subsampling = Subsampling(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.conditioning = nn.ModuleList(SelfConditioning(config.size, config.vocabulary) for _ in config.conditioned)

    @property
    def dims(self) -> dict[str, int]:
        """Give the sizes that depend on the configuration, by the catalogue's axis names."""
        return {
            "bands": self.config.bands,
            "encoder_size": self.config.size,
            "layers": self.config.layers,
            "convolution_past": self.config.kernel - 1,
        }

    def streaming(self) -> StreamingBody:
        """Give the network of a step over a stream, with the same weights."""
        return StreamingBody(self)

    def told(self, index: int, values: Tensor) -> Tensor:
        """Give what the block above block `index` is to hear of its output: [batch, time, size], the same or more."""
        if index + 1 not in self.config.conditioned:
            return values
        return self.conditioning[self.config.conditioned.index(index + 1)](values)  # type: ignore[no-any-return]

    @staticmethod
    def lengths(feature_lengths: Tensor) -> Tensor:
        """Give the valid encoder frames of each item, at least one: INT [batch] -> INT [batch]."""
        return subsampled(feature_lengths).clamp(min=1)

    def forward(self, features: Tensor, feature_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a padded batch with full context.

        features: log-mel [batch, frames, bands], at least 7 frames; feature_lengths: INT [batch], valid frames.
        Gives encoder_out [batch, frames/4, size], zero where padded, and encoder_lengths INT [batch].
        """
        encoded, _, lengths = self.encode(features, feature_lengths)
        return encoded, lengths

    def encode(
        self,
        features: Tensor,
        lengths: Tensor,
        *,
        chunk: int | None = None,
        left: int | None = None,
        taps: Collection[int] = (),
    ) -> tuple[Tensor, dict[int, Tensor], Tensor]:
        """Encode as `forward` does, and also give the output of the blocks `taps`, by their index.

        With a chunk, a frame sees no further than the end of its chunk, and `left` frames before it, or all: both in
        encoder frames.
        """
        values = self.subsampling(self.feature_norm(features))
        lengths = self.lengths(lengths)
        valid = valid_positions(lengths, values.shape[1])
        mask = valid[:, None, None, :]
        if chunk is not None:
            mask = mask & chunk_mask(values.shape[1], chunk, left, values.device)
        tapped = {}
        for index, block in enumerate(self.blocks):
            values = block(values, valid, mask, streamed=chunk is not None)
            if index in taps:
                tapped[index] = values
            values = self.told(index, values)
        return values * valid[..., None].to(values.dtype), tapped, lengths
