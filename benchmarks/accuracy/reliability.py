"""The reliability of confidences: how often words of a confidence are right, before and after the calibration."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks import drawing
from benchmarks.accuracy.results import Bin, Reliability
from benchmarks.recordings import RecordingSet, for_each
from contract.client import Calibration
from training.confidence import right_words
from transcriber.confidence import LEAST, invert
from transcriber.transcript import Transcript

BINS, FEWEST_WORDS = 10, 20

Reals: TypeAlias = NDArray[np.float64]
Judged: TypeAlias = NDArray[np.float64]
"""A row a word: its confidence, and 1 where it is right, else 0."""


def judge(title: str, transcribe: Callable[[Path], Transcript], chosen: RecordingSet) -> Judged:
    """Transcribe a set and return its words, aligned with the references by the fewest errors."""
    found = for_each(title, chosen, transcribe)
    rows: list[tuple[float, float]] = []
    for one, transcript in zip(chosen.recordings, found, strict=True):
        words = [word for turn in transcript.turns for word in turn.words]
        right = right_words(one.text, [word.content for word in words])
        rows += [(word.confidence, float(each)) for word, each in zip(words, right, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def reliability(judged: Judged, calibration: Calibration | None) -> Reliability:
    """Return the errors of the confidences of at least one word, and of the probabilities before the calibration."""
    after, right = judged.T
    before = np.array([invert(each, calibration) for each in after])
    return Reliability(
        words=len(right),
        right=float(right.mean()),
        probability=float(before.mean()),
        confidence=float(after.mean()),
        calibration_error_before=calibration_error(before, right),
        calibration_error=calibration_error(after, right),
        cross_entropy_before=normalised_cross_entropy(before, right),
        cross_entropy=normalised_cross_entropy(after, right),
        curve_before=curve(before, right),
        curve=curve(after, right),
    )


def calibration_error(confidences: Reals, right: Reals) -> float:
    """Return the expected calibration error over ten bins of equal width.

    It is the mean over all words of |share that is right - mean confidence| of their bin (Guo et al., On Calibration of
    Modern Neural Networks, ICML 2017, equation 3).
    """
    return sum(abs(each.right - each.confidence) * each.words for each in curve(confidences, right)) / len(right)


def normalised_cross_entropy(confidences: Reals, right: Reals) -> float:
    """Return the share of the entropy of "is this word right" that the confidences remove, 1 at most.

    NIST's measure (Siu, Gish and Richardson, Eurospeech 1997): (H - cross entropy) / H, where H is that of the share of
    right words alone. It is nan where all words are right, or all are wrong.
    """
    share = float(right.mean())
    if share in (0.0, 1.0):
        return float("nan")
    kept = np.clip(confidences, LEAST, 1.0 - LEAST)
    entropy = -(share * np.log(share) + (1.0 - share) * np.log(1.0 - share))
    cross = -np.mean(right * np.log(kept) + (1.0 - right) * np.log(1.0 - kept))
    return float((entropy - cross) / entropy)


def curve(confidences: Reals, right: Reals) -> tuple[Bin, ...]:
    """Return the bins of confidence that have words."""
    places = np.minimum((confidences * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(words=int(inside.sum()), confidence=float(confidences[inside].mean()), right=float(right[inside].mean()))
        for inside in (places == place for place in range(BINS))
        if inside.any()
    )


def draw(path: Path, pooled: Mapping[str, Reliability]) -> None:
    """Draw the reliability curves of the operating points, over all recordings, as a PNG file."""
    figure, axes = drawing.pyplot().subplots(
        1, len(pooled), figsize=(4.6 * len(pooled), 4.6), layout="constrained", squeeze=False
    )
    for place, (point, found) in zip(axes[0], pooled.items(), strict=True):
        place.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="ideal")
        _line(place, found.curve_before, found.calibration_error_before, "o--", "before", "tab:orange")
        _line(place, found.curve, found.calibration_error, "o-", "calibrated", "tab:blue")
        place.set(title=point, xlabel="confidence", ylabel="words that are right", xlim=(0, 1), ylim=(0, 1), aspect=1)
        place.grid(visible=True, color="0.92")
        place.legend(loc="lower right", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.save(figure, path)


def _line(axes: Any, bins: Sequence[Bin], error: float, style: str, name: str, colour: str) -> None:
    shown = [each for each in bins if each.words >= FEWEST_WORDS]
    label = f"{name}, ECE {100 * error:.1f} %"
    axes.plot([each.confidence for each in shown], [each.right for each in shown], style, color=colour, label=label)
