"""Layers that the networks share: masks, attention with rotary positions, normalisation in FP32.

Every layer computes in the type of its weights. Softmax, normalisation and sums over time are not accurate enough in
FP16: they compute in FP32 and cast back. The types are thus part of the exported graph, as TensorRT 11 expects.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROTARY_BASE = 10_000.0
# Finite, so that the softmax of a row without a valid key is uniform and not NaN.
MASKED_SCORE = -1.0e9


def valid_positions(lengths: Tensor, size: int) -> Tensor:
    """Return which positions are valid, not padding: INT [batch] -> BOOL [batch, size]."""
    positions = torch.arange(size, device=lengths.device)
    return positions[None, :] < lengths[:, None]


def chunk_mask(size: int, chunk: int, left: int | None, device: torch.device) -> Tensor:
    """Return BOOL [queries, keys]: each frame attends to its own chunk and to frames before it (U2, arXiv:2012.05481).

    Frames before the chunk are limited to the last `left`, or not at all with None.
    """
    position = torch.arange(size, device=device)
    start = position // chunk * chunk
    mask = position[None, :] < start[:, None] + chunk
    return mask if left is None else mask & (position[None, :] >= start[:, None] - left)


def by_key(scores: Tensor) -> Tensor:
    """Turn scores by distance [batch, heads, time, 2*time-1] into scores by key [batch, heads, time, time].

    Row i begins at distance time-1-i. One more column moves each row by one place against the row before it.
    """
    batch, heads, time, distances = scores.shape
    moved = functional.pad(scores, (1, 0)).reshape(batch, heads, distances + 1, time)[:, :, 1:]
    return moved.reshape(batch, heads, time, distances)[..., :time]


def masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Return FP32 scores with MASKED_SCORE added where `mask` is false; it broadcasts to the scores.

    ONNX Runtime adds a row to all rows of scores in a third of the time that it takes to choose between two tensors.
    """
    return scores + torch.where(mask, 0.0, MASKED_SCORE)


def linear(layer: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Apply linear layers to the last axis of [batch, time, size], as one batch of vectors.

    ONNX adds a bias within a product only where the product has two axes.
    """
    batch, time, _ = values.shape
    return layer(values.flatten(0, 1)).reshape(batch, time, -1)


def convolve(layer: nn.Conv1d, values: Tensor, before: int = 0) -> Tensor:
    """Apply a convolution over time to [batch, channels, time], with `before` zeros before the first place.

    It is one over two axes, of which the first has one row: ONNX Runtime has faster kernels for these, by half where
    the convolution is depthwise.
    """
    weight, padding, dilation = layer.weight[:, :, None], layer.padding[0], layer.dilation[0]
    places: dict[str, Any] = {"stride": (1, layer.stride[0]), "padding": (0, padding), "dilation": (1, dilation)}
    # Padding directly before the convolution becomes a part of it.
    padded = functional.pad(values[:, :, None], (before, 0)) if before else values[:, :, None]
    return functional.conv2d(padded, weight, layer.bias, groups=layer.groups, **places)[:, :, 0]


def add(values: Tensor, change: Tensor, factor: float = 1.0) -> Tensor:
    """Return values + factor * change for a normalisation that follows.

    It is a difference because ONNX Runtime joins a sum and a normalisation to one operator, which takes five times as
    long as the two.
    """
    return values - -factor * change


class Norm(nn.LayerNorm):
    """Layer normalisation in FP32, whatever the type of its input."""

    def forward(self, values: Tensor) -> Tensor:
        """Normalise the last axis; return the shape and type of the input."""
        weight, bias = self.weight.float(), self.bias.float()
        return functional.layer_norm(values.float(), self.normalized_shape, weight, bias, self.eps).to(values.dtype)


def rotate(values: Tensor, first: int = 0) -> Tensor:
    """Rotate [batch, heads, time, size] by its positions, which count from `first` (RoFormer, arXiv:2104.09864).

    Angles are computed, not read from a table, so the length of the input is not limited.
    """
    size = values.shape[-1]
    # The frequencies depend on the head size only, so they are a constant of the graph.
    frequencies = ROTARY_BASE ** (-torch.arange(0, size, 2, device=values.device, dtype=torch.float32) / size)
    positions = torch.arange(first, first + values.shape[-2], device=values.device, dtype=torch.float32)
    angles = positions[:, None] * frequencies[None, :]
    cosine, sine = angles.cos(), angles.sin()
    left, right = values.float().chunk(2, dim=-1)
    rotated = torch.cat((left * cosine - right * sine, right * cosine + left * sine), dim=-1)
    return rotated.to(values.dtype)


class Attention(nn.Module):
    """Multi-head attention with a boolean mask; scores and softmax in FP32."""

    def __init__(self, size: int, heads: int, *, rotary: bool) -> None:
        super().__init__()
        self.heads = heads
        self.rotary = rotary
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Attend: queries [batch, Q, size], keys [batch, K, size], mask BOOL that broadcasts to [batch, 1, Q, K]."""
        query, key = self._split(linear(self.query, queries)), self._split(linear(self.key, keys))
        value = self._split(linear(self.value, keys))
        if self.rotary:
            query, key = rotate(query), rotate(key)
        return self._attend(query, key, value, mask)

    def step(self, values: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from the frames of a chunk to the chunk itself and to the frames before it.

        values [batch, T, size]; state [batch, 2, past, size], the unrotated keys and values of earlier frames; mask
        BOOL [batch, 1, 1, past + T]. Returns [batch, T, size] and the state with the chunk appended.
        """
        past = state.shape[2]
        own = torch.stack((linear(self.key, values), linear(self.value, values)), dim=1)
        known = torch.cat((state, own), dim=2)
        query, key = self._split(linear(self.query, values)), self._split(known[:, 0])
        if self.rotary:
            query, key = rotate(query, past), rotate(key)
        return self._attend(query, key, self._split(known[:, 1]), mask), known

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        if self.training:
            # The same result without storing the scores: a third faster on a CPU. Never exported.
            bias = torch.where(mask, 0.0, MASKED_SCORE)
            attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            return self.out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
        # Scale before the product: scores of a long vector would otherwise come close to the largest FP16 value.
        scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2)).float()
        weights = torch.softmax(masked(scores, mask), dim=-1).to(value.dtype)
        attended = torch.matmul(weights, value).transpose(1, 2)
        return linear(self.out, attended.flatten(2))

    def _split(self, values: Tensor) -> Tensor:
        batch, time, _ = values.shape
        return values.reshape(batch, time, self.heads, -1).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Two linear layers with a SiLU between them; the output has the shape and type of the input."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__(nn.Linear(size, hidden), nn.SiLU(), nn.Linear(hidden, size))

    def forward(self, values: Tensor) -> Tensor:
        """Transform [batch, time, size]."""
        return linear(super().forward, values)


class FeatureNorm(nn.Module):
    """Normalises each mel band by its mean and deviation over the training data, in FP32."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("deviation", torch.ones(bands))

    def forward(self, features: Tensor) -> Tensor:
        """Normalise [batch, frames, bands]; return the type of the statistics."""
        return ((features.float() - self.mean.float()) / self.deviation.float()).to(self.mean.dtype)
