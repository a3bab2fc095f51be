"""The encoder, `body` in the catalogue: a Conformer with causal convolutions (arXiv:2005.08100).

Every language and both modes share its weights.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.networks.layers import (
    Attention,
    FeatureNorm,
    FeedForward,
    Norm,
    add,
    chunk_mask,
    convolve,
    linear,
    valid_positions,
)
from export.networks.streaming import StreamingEncoder

Frames = TypeVar("Frames", int, Tensor)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConformerEncoderConfig:
    """The sizes of an encoder's weights; written into its checkpoint."""

    bands: int = 80
    size: int = 128
    layers: int = 8
    heads: int = 4
    hidden: int = 256
    kernel: int = 15
    channels: int = 192
    # Numbers of blocks, counted from the first one, after which a SelfConditioning layer follows.
    conditioned: tuple[int, ...] = ()
    # Tokens that these layers predict.
    vocabulary: int = 0


class Subsampling(nn.Module):
    """Two unpadded convolutions over time of width 3 and stride 2, over all bands, computed as matrix products.

    [batch, frames, bands] -> [batch, ((frames-1)//2-1)//2, size]. The usual convolutions of a Conformer, over time and
    frequency, took a third of the training time on a CPU.
    """

    def __init__(self, config: ConformerEncoderConfig) -> None:
        super().__init__()
        self.first = nn.Linear(3 * config.bands, config.channels)
        self.second = nn.Linear(3 * config.channels, config.size)

    def forward(self, features: Tensor) -> Tensor:
        """Subsample. No mask is needed: a valid output frame depends on valid input frames only."""
        return self.second(_triples(functional.silu(self.first(_triples(features)))))  # type: ignore[no-any-return]


def _triples(values: Tensor) -> Tensor:
    """Concatenate every second frame with the two after it: [batch, T, size] -> [batch, (T-1)//2, 3*size]."""
    count = (values.shape[1] - 1) // 2
    return torch.cat([values[:, first : first + 2 * count : 2] for first in range(3)], dim=-1)


def subsampled(frames: Frames) -> Frames:
    """Return the number of frames after the subsampling of stride 4: 35 frames become 8."""
    return ((frames - 1) // 2 - 1) // 2


class Convolution(nn.Module):
    """Gated pointwise, causal depthwise and pointwise convolution over time; the depthwise input is masked."""

    def __init__(self, size: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.gate = nn.Linear(size, 2 * size)
        self.depthwise = nn.Conv1d(size, size, kernel, groups=size)
        self.norm = Norm(size)
        self.out = nn.Linear(size, size)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """Convolve [batch, time, size]; `valid` BOOL [batch, time] sets padded frames to zero."""
        return self._convolve(self._gated(values, valid), self.kernel - 1)

    def step(self, values: Tensor, valid: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve a chunk [batch, T, size]; `state` [batch, kernel-1, size] holds the gated frames before it.

        Returns the convolved chunk and the state for the next one.
        """
        gated = torch.cat((state, self._gated(values, valid)), dim=1)
        return self._convolve(gated), gated[:, 1 - self.kernel :]

    def _gated(self, values: Tensor, valid: Tensor) -> Tensor:
        gated: Tensor = functional.glu(linear(self.gate, values), dim=-1) * valid[..., None].to(values.dtype)
        return gated

    def _convolve(self, gated: Tensor, before: int = 0) -> Tensor:
        convolved = convolve(self.depthwise, gated.transpose(1, 2), before).transpose(1, 2)
        return self.out(functional.silu(self.norm(convolved)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One Conformer block: half feed-forward, attention, convolution, half feed-forward, norm."""

    def __init__(self, config: ConformerEncoderConfig) -> None:
        super().__init__()
        self.before_norm, self.before = Norm(config.size), FeedForward(config.size, config.hidden)
        self.attention_norm = Norm(config.size)
        self.attention = Attention(config.size, config.heads, rotary=True)
        self.convolution_norm, self.convolution = Norm(config.size), Convolution(config.size, config.kernel)
        self.after_norm, self.after = Norm(config.size), FeedForward(config.size, config.hidden)
        self.norm = Norm(config.size)
        # Added to a block's input in a stream, where later frames are hidden and the output may have to be delayed.
        self.streamed = nn.Parameter(torch.zeros(config.size))

    def forward(self, values: Tensor, valid: Tensor, mask: Tensor, *, streamed: bool = False) -> Tensor:
        """Transform [batch, time, size], keeping shape and type; `streamed` if the mask hides later frames."""
        if streamed:
            values = values + self.streamed
        values = values + 0.5 * self.before(self.before_norm(values))
        normed = self.attention_norm(values)
        values = values + self.attention(normed, normed, mask)
        values = values + self.convolution(self.convolution_norm(values), valid)
        values = add(values, self.after(self.after_norm(values)), 0.5)
        return self.norm(values)  # type: ignore[no-any-return]

    def step(
        self, values: Tensor, valid: Tensor, mask: Tensor, attention: Tensor, convolution: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Transform a chunk [batch, T, size]; return it with the next states of attention and convolution."""
        values = values + self.streamed
        values = values + 0.5 * self.before(self.before_norm(values))
        attended, attention = self.attention.step(self.attention_norm(values), mask, attention)
        values = values + attended
        convolved, convolution = self.convolution.step(self.convolution_norm(values), valid, convolution)
        values = values + convolved
        values = add(values, self.after(self.after_norm(values)), 0.5)
        return self.norm(values), attention, convolution


class SelfConditioning(nn.Module):
    """Add a projection of an intermediate CTC prediction to the input of the next blocks (arXiv:2104.02724).

    CTC predicts each frame independently of the others; spelling improves most by this layer.
    """

    def __init__(self, size: int, vocabulary: int) -> None:
        super().__init__()
        self.ctc_head = nn.Linear(size, vocabulary)
        self.project = nn.Linear(vocabulary, size)

    def forward(self, values: Tensor) -> Tensor:
        """Add the projected prediction to [batch, time, size]; the softmax is in FP32."""
        predicted = torch.softmax(self.ctc_head(values).float(), dim=-1).to(values.dtype)
        return values + self.project(predicted)  # type: ignore[no-any-return]


class ConformerEncoder(nn.Module):
    """Language-independent encoder: log-mel features in, one vector per 40 ms out."""

    config_type = ConformerEncoderConfig

    def __init__(self, config: ConformerEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_norm = FeatureNorm(config.bands)
        self.subsampling = Subsampling(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.conditioning = nn.ModuleList(SelfConditioning(config.size, config.vocabulary) for _ in config.conditioned)

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the configuration, by the catalogue's axis names."""
        return {
            "encoder_size": self.config.size,
            "layers": self.config.layers,
            "convolution_past": self.config.kernel - 1,
        }

    def streaming(self) -> StreamingEncoder:
        """Return the network of one step of a stream, with the same weights."""
        return StreamingEncoder(self)

    def condition(self, index: int, values: Tensor) -> Tensor:
        """Apply the SelfConditioning layer after block `index`, if it has one, to its output [batch, time, size]."""
        if index + 1 not in self.config.conditioned:
            return values
        return self.conditioning[self.config.conditioned.index(index + 1)](values)  # type: ignore[no-any-return]

    @staticmethod
    def lengths(feature_lengths: Tensor) -> Tensor:
        """Return the number of valid encoder frames of each item, at least one: INT [batch] -> INT [batch]."""
        return subsampled(feature_lengths).clamp(min=1)

    def forward(self, features: Tensor, feature_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a padded batch with full context.

        features: log-mel [batch, frames, bands], at least 7 frames; feature_lengths: INT [batch], valid frames.
        Returns encoder_out [batch, frames/4, size], zero where padded, and encoder_lengths INT [batch].
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
        """Encode as `forward` does; return encoder_out, the outputs of the blocks `taps` by index, and the lengths.

        With a chunk, a frame attends to its own chunk and to the `left` frames before the chunk (None: to all of
        them). Both are in encoder frames.
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
            values = self.condition(index, values)
        return values * valid[..., None].to(values.dtype), tapped, lengths
