"""Real inputs for every model: speech, run through the networks before it in the pipeline."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contract import synthetic_inputs
from contract.catalogue import ENCODER_FRAMES, SAMPLES, AxisRange, Family, Mode, is_state
from contract.graph import TRANSCRIPTS
from contract.tokens import collapse
from export.speech import Samples, Utterance
from export.tracing import Boundary

Sample = dict[str, NDArray[Any]]
# The steps of a stream that are kept: the first, without a past; one with some past; one with a full past.
_STEPS = (0, 4, 20)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stage:
    """A model of a pipeline: its family, its network, and the blank of a CTC head."""

    family: Family
    network: nn.Module
    blank: int = 0

    def run(self, inputs: Sample) -> Sample:
        """Return the outputs for whole recordings, in the catalogue's types."""
        family = self.family.variants()[""]
        network = Boundary(self.network, family, "fp32")
        with torch.no_grad():
            outputs = network(*(torch.from_numpy(inputs[tensor.name]) for tensor in family.inputs))
        return {tensor.name: array.numpy() for tensor, array in zip(family.outputs, outputs, strict=True)}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pipeline:
    """A model and the models that compute its inputs, first the one that takes audio; all of one operating point."""

    stages: tuple[Stage, ...]
    """Those before the model."""
    model: Stage
    segments: tuple[Samples, ...]
    """Real speech at the rate of the first network, from short to long."""

    def samples(self, mode: Mode) -> Iterator[Sample]:
        """Yield real inputs in a mode: all segments as one padded batch, then each one alone in its bucket.

        If the mode takes a few encoder frames at a time, the inputs are cut to that number.
        """
        groups = (list(self.segments), *([segment] for segment in self.segments))
        family = self.model.family
        for group in groups:
            if mode.is_streaming:
                yield from streaming_samples(self.model.network, family.in_mode(mode.name), group)
                continue
            first = (*self.stages, self.model)[0].family
            # A mode of streams takes windows of audio; the networks after it may read whole segments in it.
            whole = mode if mode.name in first.modes and not first.modes[mode.name].is_streaming else None
            audio = first.modes[(whole or next(iter(first.modes.values()))).name].axes[SAMPLES]
            inputs = self._inputs(padded(group, audio))
            yield _window(inputs, mode.axes[ENCODER_FRAMES].max) if "encoder_out" in inputs else inputs

    def _inputs(self, values: Sample) -> Sample:
        for stage in self.stages:
            values = {**values, **stage.run(values)}
        names = [tensor.name for tensor in self.model.family.inputs]
        if "hypotheses" in names:
            values = {**values, **hypotheses(values, self.stages[-1].blank, self.model.family)}
        return {name: values[name] for name in names}


def padded(segments: Sequence[Samples], extent: AxisRange) -> Sample:
    """Return audio as one batch, padded to the bucket of the longest segment or cut to the largest bucket."""
    size = bucket(max(map(len, segments)), extent)
    lengths = [min(len(segment), size) for segment in segments]
    batch = np.zeros((len(segments), size), dtype=np.float32)
    for row, segment, length in zip(batch, segments, lengths, strict=True):
        row[:length] = segment[:length]
    return {"audio": batch, "audio_lengths": np.array(lengths, dtype=np.int32)}


def bucket(size: int, extent: AxisRange) -> int:
    """Return the smallest bucket that holds a size, or the largest bucket if none does."""
    return extent.smallest_bucket(size) or extent.max


def streaming_samples(network: Any, family: Family, segments: Sequence[Samples]) -> Iterator[Sample]:
    """Yield the inputs of some steps of a streaming network over a batch of segments.

    `family` is that of Family.in_mode for the streaming mode. A segment that has ended continues as silence. The last
    step of a single segment, whose window is not full, is included.
    """
    (mode,) = family.modes.values()
    window, begins = mode.axes[SAMPLES].max, mode.window_starts(max(map(len, segments)))
    batch = np.zeros((len(segments), begins[-1] + window), dtype=np.float32)
    for row, segment in zip(batch, segments, strict=True):
        row[: len(segment)] = segment[: batch.shape[1]]
    step_network = network.streaming()
    sizes = {**network.dims, "batch": len(segments)}
    states = [
        np.zeros(synthetic_inputs.shape(tensor, sizes), dtype=synthetic_inputs.DTYPES[tensor.type])
        for tensor in family.inputs
        if is_state(tensor.name)
    ]
    kinds = [state.dtype for state in states]
    names = [tensor.name for tensor in family.inputs]
    for step, first in enumerate(begins):
        audio = np.ascontiguousarray(batch[:, first : first + window])
        lengths = np.array([len(segment) - first for segment in segments]).clip(1, window).astype(np.int32)
        inputs: list[NDArray[Any]] = [audio, lengths, *states]
        if step in _STEPS or (first == begins[-1] and len(segments) == 1):
            yield dict(zip(names, inputs, strict=True))
        with torch.no_grad():
            after: Sequence[Tensor] = step_network(*(torch.from_numpy(array) for array in inputs))[2:]
        states = [state.numpy().astype(kind) for state, kind in zip(after, kinds, strict=True)]


def _window(sample: Sample, frames: int) -> Sample:
    # The second window: speech has begun there, and every segment is longer than that.
    encoded, lengths = sample["encoder_out"], sample["encoder_lengths"]
    if encoded.shape[1] <= frames:
        return sample
    cut = {"encoder_out": encoded[:, frames : 2 * frames], "encoder_lengths": (lengths - frames).clip(1, frames)}
    return {**sample, **cut}


def transcribed_samples(utterances: Iterable[Utterance], sample_rate_hz: int, extent: AxisRange) -> Iterator[Sample]:
    """Yield each utterance alone in its bucket, with its text in `texts`; longer ones are left out."""
    for utterance in utterances:
        audio = utterance.at(sample_rate_hz)
        if len(audio) <= extent.max:
            yield {**padded([audio], extent), TRANSCRIPTS: np.array([utterance.text])}


def hypotheses(values: Sample, blank: int, family: Family) -> Sample:
    """Return hypotheses as a search would: the best path of each item, then variants without one of its tokens.

    `values` holds top_tokens and encoder_lengths. INT32 [batch, N, L] and INT32 [batch, N]; N and L are those of the
    family's batch mode, which every mode shares.
    """
    axes = family.modes["batch"].axes
    count, longest = axes["hypothesis_count"].opt, axes["hypothesis_tokens"].max
    best = [
        list(collapse(path[:length].tolist(), dropped=(blank,)))
        for path, length in zip(values["top_tokens"][..., 0], values["encoder_lengths"], strict=True)
    ]
    variants = [[path[:skip] + path[skip + 1 :] if skip else path for skip in range(count)] for path in best]
    size = bucket(max(len(path) for rows in variants for path in rows), axes["hypothesis_tokens"])
    cut = [[path[: min(size, longest)] for path in rows] for rows in variants]
    tokens = [[path + [blank] * (size - len(path)) for path in rows] for rows in cut]
    lengths = [[len(path) for path in rows] for rows in cut]
    return {
        "hypotheses": np.array(tokens, dtype=np.int32),
        "hypothesis_lengths": np.array(lengths, dtype=np.int32),
    }
