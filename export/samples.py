"""Real inputs for every model: segments of speech, run through the networks before it in the pipeline.

The file of speech holds log-mel features of segments, `segment_*`; every graph is compared on them. It may also hold
`turn_*`, with the text of each in its metadata (`turns`, a JSON list): `build` counts wrong words on these.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from contract import synthetic_inputs
from contract.catalogue import AxisRange, Family, Mode, is_state
from contract.graph import TRANSCRIPTS
from contract.tokens import BLANK, collapse
from export.networks.streaming import zero_states

SPEECH_FILE = Path(__file__).parent.parent / "demo" / "features.safetensors"
Sample = dict[str, NDArray[Any]]
# The steps of a stream that are kept: the first, without a past; one with some past; one with a full past.
_STEPS = (0, 4, 20)


def speech() -> list[NDArray[np.float16]]:
    """Load log-mel features of the segments, each FP16 [frames, 80], from short to long."""
    return list(_named("segment_").values())


def transcribed_speech() -> list[tuple[NDArray[np.float16], str]]:
    """Load log-mel features, each FP16 [frames, 80], with their text; empty if the file has no texts."""
    features = _named("turn_")
    with safe_open(SPEECH_FILE, framework="np") as file:
        texts = json.loads((file.metadata() or {}).get("turns", "[]"))
    return list(zip(features.values(), texts, strict=True)) if texts else []


def _named(prefix: str) -> dict[str, NDArray[np.float16]]:
    with safe_open(SPEECH_FILE, framework="np") as file:
        return {name: file.get_tensor(name) for name in sorted(file.keys()) if name.startswith(prefix)}


def padded(features: list[NDArray[np.float16]], frames: AxisRange) -> Sample:
    """Return segments as one batch, padded to the bucket of the longest one or cut to the largest bucket."""
    size = bucket(max(len(values) for values in features), frames)
    lengths = [min(len(values), size) for values in features]
    batch = np.zeros((len(features), size, features[0].shape[1]), dtype=np.float16)
    for row, values, length in zip(batch, features, lengths, strict=True):
        row[:length] = values[:length]
    return {"features": batch, "feature_lengths": np.array(lengths, dtype=np.int32)}


def bucket(size: int, extent: AxisRange) -> int:
    """Return the smallest bucket that holds a size, or the largest bucket if none does."""
    return extent.smallest_bucket(size) or extent.max


def samples(
    family: Family, mode: Mode, families: Iterable[Family], networks: Mapping[str, nn.Module]
) -> Iterator[Sample]:
    """Yield real inputs of a family in a mode: all segments as one padded batch, then each one alone in its bucket.

    `networks` holds torch networks of the same operating point, by their name in the catalogue: those before the family
    in the pipeline, which compute its inputs, and for a streaming mode the family's own, which computes the states. If
    the mode takes a few encoder frames at a time, the inputs are cut to that number.
    """
    segments = speech()
    groups = (segments, *([segment] for segment in segments))
    if mode.is_streaming:
        for group in groups:
            yield from streaming_samples(networks[str(family.network)], family.in_mode(mode.name), group)
        return
    source = next(each for each in (family, *families) if each.network == "body" or _takes_features(each))
    features_mode = mode if "frames" in mode.axes else source.modes["batch"]
    for group in groups:
        inputs = _run_upstream(padded(group, features_mode.axes["frames"]), family, networks)
        yield _window(inputs, mode.axes["encoder_frames"].max) if "encoder_out" in inputs else inputs


def streaming_samples(network: Any, family: Family, segments: list[NDArray[np.float16]]) -> Iterator[Sample]:
    """Yield the inputs of some steps of a streaming network over a batch of segments.

    `family` is that of Family.at for the streaming mode. A segment that has ended continues as silence. The last step
    of a single segment, whose window is not full, is included.
    """
    (mode,) = family.modes.values()
    window, past = mode.axes["frames"].max, next(each.shape[2] for each in mode.states if each.name == "attention")
    begins = mode.window_starts(max(map(len, segments)))
    batch = np.zeros((len(segments), begins[-1] + window, segments[0].shape[1]), dtype=np.float16)
    for row, values in zip(batch, segments, strict=True):
        row[: len(values)] = values[: batch.shape[1]]
    encoder = network.streaming()
    states = zero_states(network, len(segments), int(past))
    names = [tensor.name for tensor in family.inputs]
    for step, first in enumerate(begins):
        features = batch[:, first : first + window]
        lengths = np.array([len(values) - first for values in segments]).clip(1, window).astype(np.int32)
        inputs: list[NDArray[Any]] = [features, lengths, *_in_catalogue_types(states, family)]
        if step in _STEPS or (first == begins[-1] and len(segments) == 1):
            yield dict(zip(names, inputs, strict=True))
        with torch.no_grad():
            states = encoder(torch.from_numpy(features), torch.from_numpy(lengths), *states)[2:]


def _in_catalogue_types(states: Iterable[Tensor], family: Family) -> list[NDArray[Any]]:
    kinds = [synthetic_inputs.DTYPES[tensor.type] for tensor in family.inputs if is_state(tensor.name)]
    return [state.numpy().astype(kind) for state, kind in zip(states, kinds, strict=True)]


def _window(sample: Sample, frames: int) -> Sample:
    # The second window: speech has begun there, and every segment is longer than that.
    encoded, lengths = sample["encoder_out"], sample["encoder_lengths"]
    if encoded.shape[1] <= frames:
        return sample
    cut = {"encoder_out": encoded[:, frames : 2 * frames], "encoder_lengths": (lengths - frames).clip(1, frames)}
    return {**sample, **cut}


def transcribed_samples(frames: AxisRange) -> Iterator[Sample]:
    """Yield each turn whose text is known, alone in its bucket, with its text in `texts`; longer turns are left out."""
    for features, text in transcribed_speech():
        if len(features) <= frames.max:
            yield {**padded([features], frames), TRANSCRIPTS: np.array([text])}


def _takes_features(family: Family) -> bool:
    return any(tensor.name == "features" for tensor in family.inputs) and not family.is_ensemble


def _run_upstream(sample: Sample, family: Family, networks: Mapping[str, nn.Module]) -> Sample:
    """Return the inputs of a family, computed from features by the networks before it."""
    names = [tensor.name for tensor in family.inputs]
    if not sample.keys() >= set(names):
        features, lengths = (torch.from_numpy(sample[key]) for key in ("features", "feature_lengths"))
        with torch.no_grad():
            encoded, encoder_lengths = networks["body"](features, lengths)
            outputs: dict[str, Tensor] = {"encoder_out": encoded.half(), "encoder_lengths": encoder_lengths}
            if "hypotheses" in names:
                tokens, token_lengths = hypotheses(networks["acoustic"], encoded, encoder_lengths, family)
                outputs |= {"hypotheses": tokens, "hypothesis_lengths": token_lengths}
        sample = {**sample, **{name: tensor.numpy() for name, tensor in outputs.items()}}
    return {name: sample[name] for name in names}


def hypotheses(head: Any, encoded: Tensor, lengths: Tensor, family: Family) -> tuple[Tensor, Tensor]:
    """Return hypotheses as a search would: the best path of each item, then variants without one of its tokens.

    INT32 [batch, N, L] and INT32 [batch, N]; N and L are those of the family's batch mode, which every mode shares.
    """
    axes = family.modes["batch"].axes
    count, longest = axes["hypothesis_count"].opt, axes["hypothesis_tokens"].max
    best = [_best_path(path[:length]) for path, length in zip(head(encoded, lengths)[1][..., 0], lengths, strict=True)]
    variants = [[path[:skip] + path[skip + 1 :] if skip else path for skip in range(count)] for path in best]
    size = bucket(max(len(path) for rows in variants for path in rows), axes["hypothesis_tokens"])
    cut = [[path[: min(size, longest)] for path in rows] for rows in variants]
    padded_rows = [[path + [BLANK] * (size - len(path)) for path in rows] for rows in cut]
    token_lengths = [[len(path) for path in rows] for rows in cut]
    return torch.tensor(padded_rows, dtype=torch.int32), torch.tensor(token_lengths, dtype=torch.int32)


def _best_path(frames: Tensor) -> list[int]:
    return list(collapse(frames.tolist(), dropped=(BLANK,)))
