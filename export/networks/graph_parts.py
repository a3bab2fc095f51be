"""The parts that surround a graph from elsewhere: the input that it expects of audio, and the outputs of the catalogue.

Each input part takes audio FP32 [batch, samples] in [-1, 1) and audio_lengths INT [batch], and returns the values that
the graph takes with their lengths. All parts compute in FP32.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from contract.frames import FrameRule, Stride
from export.networks.ctc_head import MASKED_LOG_PROB
from export.networks.front_end import FilterBank, FilterBankConfig
from export.networks.layers import valid_positions
from export.networks.nemo_front_end import NemoFrontEnd, NemoFrontEndConfig

# Added to the variance of an utterance, as transformers does.
_WAVEFORM_EPSILON = 1.0e-7


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """An input part with its frames: the steps from samples, and the sample that the first frame is centred on."""

    module: nn.Module
    steps: tuple[Stride, ...] = ()
    first_centre: float = 0.5
    layout: str = "time"
    """The usual axes of a graph's input after the batch; those of the graph itself decide."""


class Waveform(nn.Module):
    """Audio as a graph expects it: scaled, and if `normalise` with mean 0 and variance 1 over its valid samples."""

    def __init__(self, scale: float, *, normalise: bool) -> None:
        super().__init__()
        self.scale, self.normalise = scale, normalise

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return FP32 [batch, samples], zero where padded, and the lengths."""
        if not self.normalise:
            return audio * self.scale, audio_lengths
        valid = valid_positions(audio_lengths, audio.shape[1])
        count = audio_lengths.clamp(min=1)[:, None].float()
        mean = (audio * valid).sum(dim=1, keepdim=True) / count
        centred = (audio - mean) * valid
        variance = centred.square().sum(dim=1, keepdim=True) / count
        return centred / (variance + _WAVEFORM_EPSILON).sqrt(), audio_lengths


class KaldiFeatures(nn.Module):
    """Kaldi's log-mel, with or without frames at the edges, and if `subtract_mean` with mean 0 over the utterance."""

    def __init__(self, config: FilterBankConfig, *, snip_edges: bool, subtract_mean: bool) -> None:
        super().__init__()
        self.bank = FilterBank(config)
        self.subtract_mean = subtract_mean
        missing = 0 if snip_edges else config.window_samples - config.hop_samples
        self.left = missing // 2
        self.right = config.window_samples // 2 if missing else 0

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return features FP32 [batch, frames, bands], zero where padded, and their lengths, at least 1."""
        lengths = audio_lengths
        if self.right:
            audio, lengths = self._mirrored(audio, audio_lengths)
        features = self.bank(audio)
        lengths = self.bank.lengths(lengths).clamp(min=1)
        valid = valid_positions(lengths, features.shape[1])[..., None]
        if self.subtract_mean:
            features = features - (features * valid).sum(dim=1, keepdim=True) / lengths[:, None, None].float()
        return features * valid, lengths

    def _mirrored(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Extend each item by its own samples in reverse order, as Kaldi does without snip_edges."""
        size = audio.shape[1] + self.left + self.right
        place = torch.arange(size, device=audio.device)[None, :] - self.left
        length = lengths.clamp(min=1)[:, None]
        place = torch.where(place < 0, -1 - place, place)
        place = torch.where(place < length, place, 2 * length - 1 - place)
        # An item shorter than the window would be mirrored twice; its last sample stands for the rest.
        place = torch.minimum(place.clamp(min=0), length - 1)
        return torch.gather(audio, 1, place.long()), lengths + self.left + self.right


class NemoFeatures(nn.Module):
    """NeMo's log-mel without the last frame, which NeMo does not count."""

    def __init__(self, config: NemoFrontEndConfig) -> None:
        super().__init__()
        self.front_end = NemoFrontEnd(config)

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return features FP32 [batch, frames, bands], zero where padded, and their lengths, at least 1."""
        features, lengths = self.front_end(audio, audio_lengths)
        return features[:, :-1], lengths.clamp(min=1)


class GraphInput(nn.Module):
    """An input part with the types, the layout and the extra outputs that one graph needs."""

    def __init__(
        self,
        part: nn.Module,
        *,
        layout: str,
        value_type: torch.dtype,
        length_type: torch.dtype | None,
        frames: FrameRule | None,
    ) -> None:
        super().__init__()
        self.part, self.layout = part, layout
        self.value_type, self.length_type, self.frames = value_type, length_type, frames

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, ...]:
        """Return the values; the lengths if `length_type`; the encoder frames of each item if `frames`."""
        values, lengths = self.part(audio, audio_lengths)
        if self.layout == BANDS_TIME:
            values = values.transpose(1, 2)
        elif self.layout == CHANNEL_TIME:
            values = values[:, None]
        found = [values.to(self.value_type)]
        if self.length_type is not None:
            found.append(lengths.to(self.length_type))
        if self.frames is not None:
            found.append(frame_count(audio_lengths, self.frames).to(torch.int32))
        return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class TopTokensConfig:
    """What the scores of a graph are, and how many tokens of each frame are returned."""

    top: int
    blank: int
    kind: str
    """One of OUTPUT_KINDS."""
    layout: str
    """One of OUTPUT_LAYOUTS."""


class TopTokens(nn.Module):
    """The outputs of a CTC head: the best tokens of each frame, as export.networks.ctc_head.CtcHead returns them."""

    def __init__(self, config: TopTokensConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, scores: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities FP32 and tokens INT32, each [batch, frames, top], and lengths INT32 [batch]."""
        values = scores.float()
        if self.config.layout == TOKENS_TIME:
            values = values.transpose(1, 2)
        elif self.config.layout == TIME_BATCH:
            values = values.transpose(0, 1)
        if self.config.kind == LOGITS:
            values = torch.log_softmax(values, dim=-1)
        elif self.config.kind == PROBABILITIES:
            values = values.clamp(min=_SMALLEST_PROBABILITY).log()
        frames = values.shape[1]
        kept = lengths.clamp(min=1, max=frames)
        log_probs, tokens = torch.topk(values, self.config.top, dim=-1)
        valid = valid_positions(kept, frames)[..., None]
        padded = torch.where(torch.arange(self.config.top) == 0, 0.0, MASKED_LOG_PROB)
        return (
            torch.where(valid, log_probs, padded),
            torch.where(valid, tokens, self.config.blank).to(torch.int32),
            kept.to(torch.int32),
        )


class UnitLength(nn.Module):
    """The output of a speaker network: an embedding of unit length."""

    def forward(self, embedding: Tensor) -> Tensor:
        """Return FP32 [batch, size] of [batch, size]."""
        return functional.normalize(embedding.float(), dim=-1)


TIME, TIME_BANDS, BANDS_TIME, CHANNEL_TIME = "time", "time_bands", "bands_time", "channel_time"
"""The axes of a graph's input after the batch."""
TIME_TOKENS, TOKENS_TIME, TIME_BATCH = OUTPUT_LAYOUTS = ("batch_time_tokens", "batch_tokens_time", "time_batch_tokens")
LOG_PROBS, LOGITS, PROBABILITIES = OUTPUT_KINDS = ("log_probs", "logits", "probabilities")
# Its logarithm is above MASKED_LOG_PROB.
_SMALLEST_PROBABILITY = 1.0e-30


@cache
def waveform(scale: float, *, normalise: bool) -> Part:
    """Return the part of a graph that takes audio."""
    return Part(module=Waveform(scale, normalise=normalise))


@cache
def kaldi_features(config: FilterBankConfig, *, snip_edges: bool, subtract_mean: bool) -> Part:
    """Return the part of a graph that takes Kaldi's log-mel."""
    module = KaldiFeatures(config, snip_edges=snip_edges, subtract_mean=subtract_mean)
    window, hop = config.window_samples, config.hop_samples
    step = Stride(kernel=window, stride=hop, padding=module.left + module.right)
    return Part(module=module, steps=(step,), first_centre=window / 2 - module.left, layout=TIME_BANDS)


@cache
def nemo_features(bands: int, sample_rate_hz: int, *, normalise: bool) -> Part:
    """Return the part of a graph that takes NeMo's log-mel."""
    config = NemoFrontEndConfig(
        bands=bands, sample_rate_hz=sample_rate_hz, high_hz=sample_rate_hz / 2, normalised=normalise
    )
    module, window, hop = NemoFeatures(config), config.window_samples, config.hop_samples
    # Windows that are centred on samples 0, hop, 2 * hop and so on; the last one is not counted.
    step = Stride(kernel=window, stride=hop, padding=window - hop)
    return Part(module=module, steps=(step,), first_centre=0.0, layout=BANDS_TIME)


def frame_count(samples: Tensor, rule: FrameRule) -> Tensor:
    """Return the encoder frames of INT samples, as FrameRule.count does for a number."""
    for step in rule.steps:
        samples = (samples + (step.padding - step.kernel + step.stride)).clamp(min=0) // step.stride
    return samples
