"""Real inputs for every model: a few stretches of speech, carried through the networks that stand before it.

The file of speech holds log-mel features of any number of stretches, `segment_*`, which every graph is compared on. It
may hold more, `turn_*`, with the words of each in its metadata (`turns`, a JSON list): build counts wrong words there.
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
from contract.catalogue import Extent, Family, Mode, is_state
from contract.graph import TEXTS
from export.networks.streaming import zero_states

SPEECH_FILE = Path(__file__).parent.parent / "demo" / "features.safetensors"
Sample = dict[str, NDArray[Any]]
BLANK_TOKEN = 0
# Which steps of a stream are kept: the first, where there is no past; one where there is some; where it is full.
_STEPS = (0, 4, 20)


def speech() -> list[NDArray[np.float16]]:
    """Load log-mel features of real speech, each FP16 [frames, 80], from short to long."""
    return list(_named("segment_").values())


def spoken() -> list[tuple[NDArray[np.float16], str]]:
    """Load log-mel features whose words are known, each FP16 [frames, 80], with these words; none where none are."""
    features = _named("turn_")
    with safe_open(SPEECH_FILE, framework="np") as file:
        texts = json.loads((file.metadata() or {}).get("turns", "[]"))
    return list(zip(features.values(), texts, strict=True)) if texts else []


def _named(prefix: str) -> dict[str, NDArray[np.float16]]:
    with safe_open(SPEECH_FILE, framework="np") as file:
        return {name: file.get_tensor(name) for name in sorted(file.keys()) if name.startswith(prefix)}


def padded(features: list[NDArray[np.float16]], frames: Extent) -> Sample:
    """Put stretches of speech into one batch, padded to the bucket of the longest and cut to the largest."""
    size = bucket(max(len(values) for values in features), frames)
    lengths = [min(len(values), size) for values in features]
    batch = np.zeros((len(features), size, features[0].shape[1]), dtype=np.float16)
    for row, values, length in zip(batch, features, lengths, strict=True):
        row[:length] = values[:length]
    return {"features": batch, "feature_lengths": np.array(lengths, dtype=np.int32)}


def bucket(size: int, extent: Extent) -> int:
    """Give the smallest bucket that holds a size; the largest one for everything beyond."""
    return extent.bucket(size) or extent.max


def samples(
    family: Family, mode: Mode, families: Iterable[Family], before: Mapping[str, nn.Module]
) -> Iterator[Sample]:
    """Give real inputs of a family in a mode: the speech as one padded batch, then each stretch alone in its bucket.

    `before` holds torch networks of the same operating point, by the catalogue's name of the network: what stands
    before this family in the pipeline is run to make its inputs; of a mode of streams it is the family's own network,
    whose steps make the states. Where the mode hears encoder frames a few at a time, they are cut to that.
    """
    stretches = speech()
    groups = (stretches, *([stretch] for stretch in stretches))
    if mode.is_streaming:
        for group in groups:
            yield from steps(before[str(family.network)], family.at(mode.name), group)
        return
    listener = next(each for each in (family, *families) if each.network == "body" or _hears(each))
    heard_in = mode if "frames" in mode.axes else listener.modes["batch"]
    for group in groups:
        heard = padded(group, heard_in.axes["frames"])
        made = _carried(heard, family, before)
        yield _window(made, mode.axes["encoder_frames"].max) if "encoder_out" in made else made


def steps(network: Any, family: Family, stretches: list[NDArray[np.float16]]) -> Iterator[Sample]:
    """Give inputs of a streaming network at some of its steps over stretches of speech, side by side in a batch.

    `family` is as it is in the mode. A stretch that has ended goes on as silence; the last step of a single stretch,
    whose window is not full, is given too.
    """
    (mode,) = family.modes.values()
    window, past = mode.axes["frames"].max, next(each.shape[2] for each in mode.states if each.name == "attention")
    begins = mode.windows(max(map(len, stretches)))
    heard = np.zeros((len(stretches), begins[-1] + window, stretches[0].shape[1]), dtype=np.float16)
    for row, values in zip(heard, stretches, strict=True):
        row[: len(values)] = values[: heard.shape[1]]
    body = network.streaming()
    states = zero_states(network, len(stretches), int(past))
    names = [tensor.name for tensor in family.inputs]
    for step, first in enumerate(begins):
        features = heard[:, first : first + window]
        left = np.array([len(values) - first for values in stretches]).clip(1, window).astype(np.int32)
        inputs: list[NDArray[Any]] = [features, left, *_as_sent(states, family)]
        if step in _STEPS or (first == begins[-1] and len(stretches) == 1):
            yield dict(zip(names, inputs, strict=True))
        with torch.no_grad():
            states = body(torch.from_numpy(features), torch.from_numpy(left), *states)[2:]


def _as_sent(states: Iterable[Tensor], family: Family) -> list[NDArray[Any]]:
    kinds = [synthetic_inputs.DTYPES[tensor.type] for tensor in family.inputs if is_state(tensor.name)]
    return [state.numpy().astype(kind) for state, kind in zip(states, kinds, strict=True)]


def _window(sample: Sample, frames: int) -> Sample:
    # The second one, where speech has begun; every stretch is longer than that.
    encoded, lengths = sample["encoder_out"], sample["encoder_lengths"]
    if encoded.shape[1] <= frames:
        return sample
    cut = {"encoder_out": encoded[:, frames : 2 * frames], "encoder_lengths": (lengths - frames).clip(1, frames)}
    return {**sample, **cut}


def words(frames: Extent) -> Iterator[Sample]:
    """Give each stretch whose words are known alone in its bucket, with `texts`: the words of every item."""
    for features, text in spoken():
        if len(features) <= frames.max:
            yield {**padded([features], frames), TEXTS: np.array([text])}


def _hears(family: Family) -> bool:
    return any(tensor.name == "features" for tensor in family.inputs) and not family.is_ensemble


def _carried(heard: Sample, family: Family, before: Mapping[str, nn.Module]) -> Sample:
    """Carry what is heard through the networks before a family: its inputs."""
    names = [tensor.name for tensor in family.inputs]
    if not heard.keys() >= set(names):
        features, lengths = (torch.from_numpy(heard[key]) for key in ("features", "feature_lengths"))
        with torch.no_grad():
            encoded, encoder_lengths = before["body"](features, lengths)
            made: dict[str, Tensor] = {"encoder_out": encoded.half(), "encoder_lengths": encoder_lengths}
            if "hypotheses" in names:
                tokens, token_lengths = hypotheses(before["acoustic"], encoded, encoder_lengths, family)
                made |= {"hypotheses": tokens, "hypothesis_lengths": token_lengths}
        heard = {**heard, **{name: tensor.numpy() for name, tensor in made.items()}}
    return {name: heard[name] for name in names}


def hypotheses(head: Any, encoded: Tensor, lengths: Tensor, family: Family) -> tuple[Tensor, Tensor]:
    """Make the hypotheses of a search: the best path of each item, then the same with one token left out.

    Gives INT32 [batch, N, L] and INT32 [batch, N], with N and L from the family's batch mode, which every mode shares.
    """
    axes = family.modes["batch"].axes
    count, longest = axes["hypothesis_count"].opt, axes["hypothesis_tokens"].max
    best = [_best_path(path[:length]) for path, length in zip(head(encoded, lengths)[1][..., 0], lengths, strict=True)]
    variants = [[path[:skip] + path[skip + 1 :] if skip else path for skip in range(count)] for path in best]
    size = bucket(max(len(path) for rows in variants for path in rows), axes["hypothesis_tokens"])
    cut = [[path[: min(size, longest)] for path in rows] for rows in variants]
    padded_rows = [[path + [BLANK_TOKEN] * (size - len(path)) for path in rows] for rows in cut]
    token_lengths = [[len(path) for path in rows] for rows in cut]
    return torch.tensor(padded_rows, dtype=torch.int32), torch.tensor(token_lengths, dtype=torch.int32)


def _best_path(frames: Tensor) -> list[int]:
    merged = torch.unique_consecutive(frames).tolist()
    return [token for token in merged if token != BLANK_TOKEN]
