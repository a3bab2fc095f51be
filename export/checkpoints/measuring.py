"""Measure a recogniser on real speech at its import: lengths, padding, batches, and how often it returns the blank.

What a network cannot do is found here and stated, not assumed from its description.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.client import EXACT, MASKED
from contract.errors import CheckpointError
from contract.frames import FrameRule
from export.speech import Samples, read_demo

Recogniser = Callable[[Samples, NDArray[np.int32]], tuple[NDArray[np.float32], NDArray[Any]]]
"""Takes audio FP32 [B, S] and lengths INT32 [B]. Returns log-probabilities FP32 [B, T, V] and lengths INT [B]."""

# The smallest bucket of the catalogue, its optimum, and more than its largest bucket.
LEAST_S, OPTIMUM_S, BEYOND_S = 2.0, 8.0, 24.0
# Rounding in FP32 is below this, also after many layers. It is compared where a token has a probability that counts.
TOLERANCE_NATS, _COUNTING = 2.0e-2, -7.0
_RIGHT_FRAMES = "Correct output.frames in the TOML file beside the graph"
_EXPORT_AGAIN = "Export the network again with dynamic axes for the batch and the time"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What was found."""

    padding: str
    """MASKED or EXACT, as in contract.client.AudioSpec."""
    changed_frames: float
    """The share of the frames of a padded item whose best token differs from that of the item alone."""
    padded_difference: float
    """The largest difference of a log-probability that counts, between the padded item and the item alone, in nats."""
    shortest_samples: int
    """The smallest number of samples that the network runs on."""
    blank_share: float
    """The share of frames of speech whose best token is the blank."""
    most_frequent: int
    """The token that is the best one most often."""

    def remarks(self, blank: int, pieces: tuple[str, ...]) -> tuple[str, ...]:
        """Return sentences for the user."""
        found = []
        if self.padding == EXACT:
            found.append(
                f"Padding changes the results of this network: with {BEYOND_S - OPTIMUM_S:g} s of padding, "
                f"{self.changed_frames:.0%} of the frames of {OPTIMUM_S:g} s of speech have another best token. So a "
                "request holds one item, or items of equal lengths."
            )
        if self.most_frequent != blank:
            name, usual = pieces[blank], pieces[self.most_frequent]
            found.append(
                f"The blank {name!r} is the best token of {self.blank_share:.0%} of the frames of speech, and "
                f"{usual!r} of more. Networks with CTC return the blank most often: check which token it is."
            )
        elif self.blank_share == 1.0:
            found.append("The network recognised nothing in the speech of the demonstration, which is English.")
        return tuple(found)

    def figures(self) -> str:
        """Return the figures as a sentence."""
        return (
            f"Measured on speech: padding changes a log-probability by at most {self.padded_difference:.1e}, and the "
            f"best token of {self.changed_frames:.0%} of the frames; the blank is the best token of "
            f"{self.blank_share:.0%}; the shortest input is {self.shortest_samples} samples."
        )


def speech(sample_rate_hz: int) -> Samples:
    """Return 24 seconds of real speech at a sampling rate."""
    joined = np.concatenate([segment.at(sample_rate_hz) for segment in reversed(read_demo().segments)])
    size = round(BEYOND_S * sample_rate_hz)
    return np.resize(joined, size).astype(np.float32)


def measure(network: Recogniser, subject: Path, rule: FrameRule, blank: int, sample_rate_hz: int) -> Measurement:
    """Return what a network can do; raise CheckpointError for one that cannot be served.

    Refused are a network that fails at a usual length, one whose frames are not those of its rule, one that returns no
    finite log-probabilities, and one whose results depend on the other items of a batch.
    """
    audio = speech(sample_rate_hz)
    alone = {}
    for seconds in (LEAST_S, OPTIMUM_S, BEYOND_S):
        size = round(seconds * sample_rate_hz)
        log_probs, lengths = _run(network, subject, audio[None, :size], [size])
        _check_frames(subject, rule, size, lengths[0], log_probs)
        alone[seconds] = log_probs[0, : int(lengths[0])]
    _check_rule(network, subject, rule, audio)
    _check_batch(network, subject, audio, round(OPTIMUM_S * sample_rate_hz))
    changed, difference = _padded(network, subject, audio, alone[OPTIMUM_S], round(OPTIMUM_S * sample_rate_hz))
    best = alone[BEYOND_S].argmax(axis=-1)
    return Measurement(
        padding=MASKED if changed == 0.0 and difference <= TOLERANCE_NATS else EXACT,
        changed_frames=changed,
        padded_difference=difference,
        shortest_samples=_shortest(network, rule, audio, round(LEAST_S * sample_rate_hz)),
        blank_share=float((best == blank).mean()),
        most_frequent=int(np.bincount(best).argmax()),
    )


def _run(
    network: Recogniser, subject: Path, audio: Samples, lengths: list[int]
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    try:
        log_probs, found = network(audio, np.array(lengths, dtype=np.int32))
    except Exception as error:
        samples, items = audio.shape[1], len(audio)
        cause = f"it fails on {items} x {samples} samples ({_first_line(error)})"
        raise CheckpointError(subject, cause, _EXPORT_AGAIN) from error
    _check_shapes(subject, log_probs, found, audio)
    if not np.isfinite(_valid(log_probs, found)).all():
        cause = f"its outputs for {audio.shape[1]} samples are not finite"
        raise CheckpointError(subject, cause, "Check the network and the kind and the scale of its input")
    return log_probs, found


def _check_shapes(subject: Path, log_probs: NDArray[np.float32], lengths: NDArray[Any], audio: Samples) -> None:
    """Raise CheckpointError for outputs whose axes are not those of a batch: a description may have another layout."""
    items = len(audio)
    if log_probs.ndim != 3 or len(log_probs) != items:  # noqa: PLR2004 - batch, time, tokens
        cause = f"its scores of {items} items are {list(log_probs.shape)}, in place of [{items}, frames, tokens]"
        raise CheckpointError(subject, cause, "Correct output.layout or output.name")
    if lengths.shape != (items,):
        cause = f"its lengths of {items} items are {list(lengths.shape)}, in place of [{items}]"
        raise CheckpointError(subject, cause, "Correct output.lengths")


def _valid(log_probs: NDArray[np.float32], lengths: NDArray[Any]) -> NDArray[np.float32]:
    frames = np.arange(log_probs.shape[1])[None, :] < lengths[:, None]
    # A probability may be zero.
    return np.where(np.isneginf(log_probs), 0.0, log_probs)[frames]


def _check_frames(subject: Path, rule: FrameRule, size: int, found: int, log_probs: NDArray[np.float32]) -> None:
    expected, there = max(1, rule.count(size)), log_probs.shape[1]
    # Some networks have one frame more, which their lengths leave out.
    if found != expected or not expected <= there <= expected + 1:
        made = there if found == expected else int(found)
        cause = f"it makes {made} frames of {size} samples, and the rule of its description {expected}"
        raise CheckpointError(subject, cause, _RIGHT_FRAMES)


def _check_rule(network: Recogniser, subject: Path, rule: FrameRule, audio: Samples) -> None:
    """Compare frames at lengths around a step of the rule, where wrong rules differ."""
    # About a second: the first size whose count is one above that of the size before it.
    size = next(size for size in range(16_000, 16_000 + rule.hop + 1) if rule.count(size) > rule.count(size - 1))
    for chosen in (size - 1, size):
        log_probs, lengths = _run(network, subject, audio[None, :chosen], [chosen])
        _check_frames(subject, rule, chosen, lengths[0], log_probs)


def _check_batch(network: Recogniser, subject: Path, audio: Samples, size: int) -> None:
    items = np.stack((audio[:size], audio[-size:]))
    together, lengths = _run(network, subject, items, [size, size])
    for number, item in enumerate(items):
        alone, _ = _run(network, subject, item[None], [size])
        count = int(lengths[number])
        changed, difference = compare(together[number, :count], alone[0, :count])
        if changed or difference > TOLERANCE_NATS:
            cause = f"its results depend on the other items of a batch: a log-probability differs by {difference:.2g}"
            raise CheckpointError(subject, cause, "Export the network again in evaluation mode")


def _padded(
    network: Recogniser, subject: Path, audio: Samples, alone: NDArray[np.float32], size: int
) -> tuple[float, float]:
    batch = np.stack((audio, np.pad(audio[:size], (0, len(audio) - size))))
    log_probs, lengths = _run(network, subject, batch, [len(audio), size])
    if int(lengths[1]) != len(alone):
        return 1.0, float("inf")
    return compare(log_probs[1, : len(alone)], alone)


def compare(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> tuple[float, float]:
    """Return the share of frames with another best token, and the largest difference of a log-probability that counts.

    A near tie of two tokens is no other best token.
    """
    counts = np.maximum(ours, theirs) > _COUNTING
    difference = np.abs(np.maximum(ours, _COUNTING) - np.maximum(theirs, _COUNTING))[counts]
    frames = np.arange(len(ours))
    behind = ours.max(axis=-1) - ours[frames, theirs.argmax(axis=-1)]
    return float((behind > TOLERANCE_NATS).mean()), float(difference.max(initial=0.0))


def _shortest(network: Recogniser, rule: FrameRule, audio: Samples, largest: int) -> int:
    """Return the smallest number of samples that the network runs on, if it runs on all larger ones."""
    fails, runs = rule.shortest - 1, largest
    while runs - fails > 1:
        # The rule's own number first: most networks run on it.
        middle = rule.shortest if fails < rule.shortest and runs == largest else (fails + runs) // 2
        if _runs_on(network, audio[:middle]):
            runs = middle
        else:
            fails = middle
    return runs


def _runs_on(network: Recogniser, audio: Samples) -> bool:
    try:
        log_probs, lengths = network(audio[None], np.array([len(audio)], dtype=np.int32))
    except Exception:
        return False
    return bool(lengths[0] >= 1 and log_probs.shape[1] >= 1 and np.isfinite(_valid(log_probs, lengths)).all())


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
