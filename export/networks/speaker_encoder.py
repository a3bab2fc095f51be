"""The speaker encoder: a masked TDNN with attentive statistics pooling (x-vector; arXiv:1803.10963)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.networks.layers import MASKED_SCORE, FeatureNorm, Norm, convolve, valid_positions

# A smaller variance is rounding noise of the FP32 sum, and its square root has no usable gradient.
SMALLEST_VARIANCE = 1.0e-5
# Below the weight of any frame; a window without one has the mean 0.
_SMALLEST_WEIGHT = 1.0e-30


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeakerEncoderConfig:
    """The sizes of a speaker encoder's weights; there is one layer per dilation."""

    bands: int = 80
    size: int = 192
    kernel: int = 3
    dilations: tuple[int, ...] = (1, 2, 3, 4)
    attention: int = 64
    embedding: int = 128


class TimeDelay(nn.Module):
    """A residual dilated convolution over time; its input is zero where padded."""

    def __init__(self, size: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(size, size, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)
        self.norm = Norm(size)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """Transform [batch, time, size]; `valid` has the type of values, [batch, time, 1]."""
        convolved = convolve(self.convolution, (values * valid).transpose(1, 2)).transpose(1, 2)
        return values + functional.silu(self.norm(convolved))


class SpeakerEncoder(nn.Module):
    """Embeds the voice of a segment of speech in a vector of unit length."""

    config_type = SpeakerEncoderConfig

    def __init__(self, config: SpeakerEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_norm = FeatureNorm(config.bands)
        self.first = nn.Conv1d(config.bands, config.size, 5, padding=2)
        self.blocks = nn.ModuleList(TimeDelay(config.size, config.kernel, dilation) for dilation in config.dilations)
        self.score = nn.Sequential(nn.Linear(config.size, config.attention), nn.Tanh(), nn.Linear(config.attention, 1))
        self.out = nn.Linear(2 * config.size, config.embedding)

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the configuration, by the catalogue's axis names."""
        return {"embedding_size": self.config.embedding}

    def forward(self, features: Tensor, feature_lengths: Tensor) -> Tensor:
        """Embed log-mel [batch, frames, bands] with INT [batch] valid frames -> FP32 [batch, E], of unit length."""
        values, valid = self.frames(features, feature_lengths)
        return self.embedded(self._pool(values, valid).to(values.dtype))

    def frames(self, features: Tensor, feature_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is pooled, [batch, frames, size], and which frames are valid, BOOL [batch, frames]."""
        valid = valid_positions(feature_lengths, features.shape[1])
        normed = self.feature_norm(features)
        keep = valid[..., None].to(normed.dtype)
        values = convolve(self.first, (normed * keep).transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            values = block(values, keep)
        return values, valid

    def embedded(self, pooled: Tensor) -> Tensor:
        """Return the embeddings FP32 [..., E], of unit length, of means and deviations [..., 2 * size]."""
        return functional.normalize(self.out(pooled).float(), dim=-1)

    def _pool(self, values: Tensor, valid: Tensor) -> Tensor:
        # Sums over time overflow FP16 after a few seconds of audio: the whole pooling is in FP32.
        scores = self.score(values).float().masked_fill(~valid[..., None], MASKED_SCORE)
        weights = torch.softmax(scores, dim=1)
        wide = values.float()
        mean = (weights * wide).sum(dim=1)
        variance = (weights * (wide - mean[:, None]) ** 2).sum(dim=1)
        return torch.cat((mean, variance.clamp(min=SMALLEST_VARIANCE).sqrt()), dim=-1)


class WindowedSpeakerEncoder(nn.Module):
    """Embeds every window of a segment with a speaker encoder. What windows share is computed once.

    A window begins every `hop` frames, for as long as there are frames, and has `window` frames, or those that are
    left. It is pooled as the encoder pools it alone. But the convolutions see the frames around the window, where those
    of a window alone see zeros.
    """

    def __init__(self, encoder: SpeakerEncoder, window: int, hop: int) -> None:
        super().__init__()
        self.encoder, self.window, self.hop = encoder, window, hop

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the configuration, by the catalogue's axis names."""
        return self.encoder.dims

    def forward(self, features: Tensor, feature_lengths: Tensor) -> Tensor:
        """Embed log-mel [batch, frames, bands] with INT [batch] valid frames -> FP32 [batch, windows, E].

        Each embedding has unit length. A window that begins after the valid frames holds nothing of the segment.
        """
        values, valid = self.encoder.frames(features, feature_lengths)
        return self.encoder.embedded(self._pool(values, valid).to(values.dtype))

    def _pool(self, values: Tensor, valid: Tensor) -> Tensor:
        """Return the means and deviations of the windows, [batch, windows, 2 * size]."""
        scores = self.encoder.score(values).float().masked_fill(~valid[..., None], MASKED_SCORE)
        # A factor that all windows of a segment share cancels. This one keeps the exponential from overflowing. Scores
        # are weighted sums of hyperbolic tangents, too near each other for a whole window to underflow.
        weights = torch.exp(scores - scores.amax(dim=1, keepdim=True))
        wide = values.float()
        weighted = weights * wide
        sums = torch.cat((weighted, weighted * wide, weights), dim=-1).transpose(1, 2)
        pooled = self._windows(sums)
        size = values.shape[2]
        total = pooled[:, 2 * size :].clamp(min=_SMALLEST_WEIGHT)
        mean, square = pooled[:, :size] / total, pooled[:, size : 2 * size] / total
        variance = (square - mean * mean).clamp(min=SMALLEST_VARIANCE)
        return torch.cat((mean, variance.sqrt()), dim=1).transpose(1, 2)

    def _windows(self, values: Tensor) -> Tensor:
        """Return the sums of the windows, [batch, size, windows], of values [batch, size, frames].

        A window is some whole hops and the beginning of the next one, so it is the sum of their sums. Average pooling
        would do the same. But TensorRT 8.6 pools so many frames with cuDNN alone, whose kernels builds leave off.
        """
        whole, rest = divmod(self.window, self.hop)
        windows = (values.shape[2] + self.hop - 1) // self.hop
        blocks = windows + whole
        long = functional.pad(values, (0, (whole + 1) * self.hop))[:, :, : blocks * self.hop]
        hops = long.reshape(values.shape[0], values.shape[1], blocks, self.hop)
        sums, starts = hops.sum(dim=3), hops[:, :, :, :rest].sum(dim=3)
        found = starts[:, :, whole:]
        for shift in range(whole):
            found = found + sums[:, :, shift : windows + shift]
        return found
