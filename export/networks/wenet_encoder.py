"""The encoder of wenet's U2 and U2++ (arXiv:2012.05481, arXiv:2106.05642): audio to one vector per 40 ms.

A Conformer (arXiv:2005.08100) or a Transformer behind two convolutions over time and bands. wenet's `rel_pos` has no
relative shift: a score depends on the content of the key and on the position of the key, not on a distance. Positions
therefore count from the begin of a recording, in a stream too, where they end at STREAM_POSITIONS. Values that pass
from block to block stay in FP32: the weights are those of others, whose values may exceed what FP16 holds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from contract.frames import FrameRule
from export.networks.conformer_encoder import subsampled
from export.networks.feed_forward import FeedForward
from export.networks.front_end import FilterBank, FilterBankConfig
from export.networks.layers import Attention, Norm, chunk_mask, masked, valid_positions

POSITION_BASE = 10_000.0
STREAM_POSITIONS = 500
"""Where positions of a stream end: after 20 s, the window stays there. wenet begins again with every utterance, so that
its networks know no later positions well, and its table of positions ends after 200 s."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": functional.silu,
    "relu": functional.relu,
    "gelu": functional.gelu,
}
RELATIVE, ABSOLUTE, NONE = POSITIONS = ("rel_pos", "abs_pos", "no_pos")
STEP_FRAMES = 16
"""Encoder frames of a step of a stream: wenet's own choice for streams."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WenetEncoderConfig:
    """The sizes of an encoder's weights, and its front end."""

    front_end: FilterBankConfig = field(default_factory=FilterBankConfig)
    mean: tuple[float, ...] = ()
    """What is subtracted from each band; empty where features are not normalised."""
    scale: tuple[float, ...] = ()
    """What each band is then multiplied with. In the configuration, not in the weights: 1e10 is not an FP16 number."""
    size: int = 256
    layers: int = 12
    heads: int = 4
    hidden: int = 2_048
    macaron: bool = True
    """Whether a block begins with a feed-forward layer; each of the two then counts half."""
    kernel: int = 15
    """The width of the convolution; 0 without one, as in a Transformer."""
    causal: bool = False
    convolution_norm: bool = False
    """Whether a layer norm follows the depthwise convolution. A batch norm is part of the convolution's weights."""
    activation: str = "swish"
    positions: str = RELATIVE
    epsilon: float = 1.0e-5
    convolution_epsilon: float = 1.0e-5
    chunk: int = 0
    """The frames of the chunks that attention sees also in whole recordings; 0: attention sees all frames."""

    @property
    def frames(self) -> FrameRule:
        """Return the rule from samples to encoder frames."""
        front_end = self.front_end
        return FrameRule.of((front_end.window_samples, front_end.hop_samples), (3, 2), (3, 2))


def position_table(positions: Tensor, size: int) -> Tensor:
    """Return sines and cosines in turn (arXiv:1706.03762): INT [..., time] -> FP32 [..., time, size]."""
    steps = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32)
    angles = positions.float()[..., None] * POSITION_BASE ** (-steps / size)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


class Subsampling(nn.Module):
    """Two unpadded convolutions of width 3 and stride 2 over time and bands, then a linear layer."""

    def __init__(self, config: WenetEncoderConfig) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, config.size, 3, stride=2)
        self.second = nn.Conv2d(config.size, config.size, 3, stride=2)
        self.out = nn.Linear(config.size * subsampled(config.front_end.bands), config.size)

    def forward(self, features: Tensor) -> Tensor:
        """Subsample [batch, frames, bands]. A valid output frame depends on valid input frames only."""
        values = functional.relu(self.first(features[:, None].to(self.first.weight.dtype)))
        values = functional.relu(self.second(values))
        return self.out(values.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class PositionAttention(Attention):
    """Self-attention whose scores have a part for the content of a key and one for its position."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__(size, heads, rotary=False)
        self.position = nn.Linear(size, size, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, size // heads))
        self.position_bias = nn.Parameter(torch.zeros(heads, size // heads))

    def attend(self, values: Tensor, keys: Tensor, contents: Tensor, table: Tensor, mask: Tensor) -> Tensor:
        """Attend from values [batch, Q, size] to keys and contents [batch, K, size] at positions [1 or batch, K, size].

        mask BOOL that broadcasts to [batch, 1, Q, K].
        """
        query, key, value = self._split(self.query(values)), self._split(keys), self._split(contents)
        place = self._split(self.position(table.to(values.dtype)))
        # Scale before the product: scores of a long vector would otherwise come close to the largest FP16 value.
        scale = query.shape[-1] ** -0.5
        content = torch.matmul((query + self.content_bias[:, None]) * scale, key.transpose(-1, -2))
        position = torch.matmul((query + self.position_bias[:, None]) * scale, place.transpose(-1, -2))
        scores = masked(content.float() + position.float(), mask)
        attended = torch.matmul(torch.softmax(scores, dim=-1).to(value.dtype), value)
        return self.out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Convolution(nn.Module):
    """Gated pointwise, depthwise and pointwise convolution over time."""

    def __init__(self, config: WenetEncoderConfig) -> None:
        super().__init__()
        size, self.past = config.size, config.kernel - 1
        self.causal, self.activation = config.causal, ACTIVATIONS[config.activation]
        self.gate, self.out = nn.Linear(size, 2 * size), nn.Linear(size, size)
        self.depthwise = nn.Conv1d(size, size, config.kernel, groups=size)
        self.norm = Norm(size, config.convolution_epsilon) if config.convolution_norm else nn.Identity()

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """Convolve [batch, time, size]; `valid` BOOL [batch, time]."""
        values = values.to(self.gate.weight.dtype)
        if self.causal:
            # wenet pads before the gate, whose bias makes other values of zeros.
            return self._convolve(self._gated(functional.pad(values, (0, 0, self.past, 0))))
        gated = self._gated(values) * valid[..., None].to(values.dtype)
        return self._convolve(functional.pad(gated, (0, 0, self.past // 2, self.past // 2)))

    def step(self, values: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve a chunk [batch, T, size] behind the state [batch, kernel-1, size], the inputs before it.

        Returns the convolved chunk and the state for the next one.
        """
        known = torch.cat((state, values.to(state.dtype)), dim=1)
        return self._convolve(self._gated(known)), known[:, known.shape[1] - self.past :]

    def _gated(self, values: Tensor) -> Tensor:
        return functional.glu(self.gate(values), dim=-1)

    def _convolve(self, gated: Tensor) -> Tensor:
        convolved = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        return self.out(self.activation(self.norm(convolved)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One block: perhaps a feed-forward layer, attention, perhaps a convolution, a feed-forward layer."""

    def __init__(self, config: WenetEncoderConfig) -> None:
        super().__init__()
        size, epsilon = config.size, config.epsilon
        self.macaron, self.convolves = config.macaron, config.kernel > 0
        self.feed_scale = 0.5 if config.macaron else 1.0
        if self.macaron:
            self.before_norm = Norm(size, epsilon)
            self.before = FeedForward(size, config.hidden, ACTIVATIONS[config.activation])
        self.attention_norm = Norm(size, epsilon)
        relative = config.positions == RELATIVE
        self.attention = (
            PositionAttention(size, config.heads) if relative else Attention(size, config.heads, rotary=False)
        )
        if self.convolves:
            self.convolution_norm, self.convolution = Norm(size, epsilon), Convolution(config)
            self.norm = Norm(size, epsilon)
        self.after_norm = Norm(size, epsilon)
        self.after = FeedForward(size, config.hidden, ACTIVATIONS[config.activation])

    def forward(self, values: Tensor, valid: Tensor, mask: Tensor, table: Tensor) -> Tensor:
        """Transform FP32 [batch, time, size]; `table` holds the positions [1, time, size]."""
        values = self._begin(values)
        normed = self.attention_norm(values).to(self.attention.query.weight.dtype)
        if isinstance(self.attention, PositionAttention):
            keys, contents = self.attention.key(normed), self.attention.value(normed)
            values = values + self.attention.attend(normed, keys, contents, table, mask)
        else:
            values = values + self.attention(normed, normed, mask)
        if self.convolves:
            values = values + self.convolution(self.convolution_norm(values), valid)
        return self._end(values)

    def step(
        self, values: Tensor, mask: Tensor, table: Tensor, attention: Tensor, convolution: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Transform a chunk; return it with the next states of attention and convolution.

        attention [batch, 2, past, size], the keys and values before the chunk; table [batch, past + T, size].
        """
        layer = self.attention
        if not isinstance(layer, PositionAttention):
            raise TypeError("only a network with rel_pos is a step of a stream")
        values = self._begin(values)
        normed = self.attention_norm(values).to(layer.query.weight.dtype)
        known = torch.cat((attention, torch.stack((layer.key(normed), layer.value(normed)), dim=1)), dim=2)
        values = values + layer.attend(normed, known[:, 0], known[:, 1], table, mask)
        convolved, convolution = self.convolution.step(self.convolution_norm(values), convolution)
        return self._end(values + convolved), known, convolution

    def _begin(self, values: Tensor) -> Tensor:
        return values + self.feed_scale * self.before(self.before_norm(values)) if self.macaron else values

    def _end(self, values: Tensor) -> Tensor:
        values = values + self.feed_scale * self.after(self.after_norm(values))
        return self.norm(values) if self.convolves else values


class WenetEncoder(nn.Module):
    """Audio in, one vector per 40 ms out."""

    config_type = WenetEncoderConfig

    def __init__(self, config: WenetEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.front_end = FilterBank(config.front_end)
        # In a list, so that torch takes them for neither parameters nor buffers and leaves them in FP32.
        self._normalisation = [torch.from_numpy(np.array(each, np.float32)) for each in (config.mean, config.scale)]
        self.subsampling = Subsampling(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.size, config.epsilon)

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the configuration, by the catalogue's axis names."""
        config = self.config
        past = max(0, config.kernel - 1)
        return {"encoder_size": config.size, "layers": config.layers, "convolution_past": past}

    @staticmethod
    def lengths(feature_lengths: Tensor) -> Tensor:
        """Return the number of valid encoder frames of each item, at least one: INT [batch] -> INT [batch]."""
        return subsampled(feature_lengths).clamp(min=1)

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a padded batch: audio FP32 [batch, samples] in [-1, 1) with INT [batch] valid samples.

        Returns encoder_out [batch, time, size], zero where padded, and encoder_lengths INT [batch].
        """
        chunk = self.config.chunk or None
        return self.encode(self.front_end(audio), self.front_end.lengths(audio_lengths), chunk=chunk)

    def encode(
        self, features: Tensor, feature_lengths: Tensor, *, chunk: int | None = None, left: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode log-mel features FP32 [batch, frames, bands], at least 7 frames, as `forward` does.

        With a chunk, a frame attends to its own chunk and to the `left` frames before the chunk (None: to all of
        them). Both are in encoder frames.
        """
        values, lengths = self.embed(features), self.lengths(feature_lengths)
        time = values.shape[1]
        table = position_table(torch.arange(time, device=values.device)[None], self.config.size)
        if self.config.positions == ABSOLUTE:
            values = values + table
        valid = valid_positions(lengths, time)
        mask = valid[:, None, None, :]
        if chunk is not None:
            mask = mask & chunk_mask(time, chunk, left, values.device)
        for block in self.blocks:
            values = block(values, valid, mask, table)
        return self.finish(values, valid), lengths

    def embed(self, features: Tensor) -> Tensor:
        """Return the input of the first block without positions: FP32 [batch, frames/4, size]."""
        if self.config.mean:
            mean, scale = (each.to(features.device) for each in self._normalisation)
            features = (features - mean) * scale
        values: Tensor = self.subsampling(features).float()
        # wenet scales where it adds positions; its NoPositionalEncoding returns its input.
        return values if self.config.positions == NONE else values * self.config.size**0.5

    def finish(self, values: Tensor, valid: Tensor) -> Tensor:
        """Return the encoder output of the last block's output, in the type of the weights."""
        normed: Tensor = self.norm(values) * valid[..., None].to(values.dtype)
        return normed.to(self.subsampling.out.weight.dtype)


class WenetStreamEncoder(WenetEncoder):
    """An encoder that was trained on chunks and whose convolutions are causal: it can be a step of a stream."""

    step_frames = STEP_FRAMES

    def streaming(self) -> "WenetStep":
        """Return the network of one step of a stream, with the same weights."""
        return WenetStep(self)


class WenetStep(nn.Module):
    """One step of a stream; equals `WenetEncoder.encode` with its chunk and the states' past as `chunk` and `left`.

    The equality ends with STREAM_POSITIONS: from there on, a step equals that of a stream that began later.
    """

    def __init__(self, encoder: WenetEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        audio: Tensor,
        audio_lengths: Tensor,
        state_attention: Tensor,
        state_convolution: Tensor,
        state_frames: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Encode the next window of every stream of a batch.

        audio FP32 [batch, samples]; a window begins 64 feature frames after the one before, with 67 of them.
        audio_lengths: INT [batch], less than a window only in the last window of a stream.
        state_attention: [batch, layers, 2, past, size], keys and values; state_convolution: [batch, layers, kernel-1,
        size], inputs of the convolutions; state_frames: INT [batch, 1], the frames before the window, up to the end of
        positions. All are zero before the first window.
        Returns encoder_out [batch, chunk, size], zero where padded, encoder_lengths INT [batch], and the states for the
        next window.
        """
        encoder, front_end = self.encoder, self.encoder.front_end
        values = encoder.embed(front_end(audio))
        lengths = encoder.lengths(front_end.lengths(audio_lengths))
        chunk, past = values.shape[1], state_attention.shape[3]
        valid = valid_positions(lengths, chunk)
        positions = torch.arange(past + chunk, device=audio.device) - past + state_frames
        mask = torch.cat((positions[:, :past] >= 0, valid), dim=1)[:, None, None, :]
        table = position_table(positions, encoder.config.size)
        kind = encoder.subsampling.out.weight.dtype
        attention, convolution = state_attention.to(kind), state_convolution.to(kind)
        next_attention, next_convolution = [], []
        block: Any
        for index, block in enumerate(encoder.blocks):
            values, known, convolved = block.step(values, mask, table, attention[:, index], convolution[:, index])
            next_attention.append(known[:, :, -past:])
            next_convolution.append(convolved)
        return (
            encoder.finish(values, valid),
            lengths,
            torch.stack(next_attention, dim=1),
            torch.stack(next_convolution, dim=1),
            (state_frames + chunk).clamp(max=STREAM_POSITIONS - chunk),
        )
