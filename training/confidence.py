"""The calibration of the confidences of words, on the development sets.

The transcriber states it as the share of words that are right (transcriber/confidence.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jiwer
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from contract.client import AudioSpec, Calibration
from training import dataset, reporting, weighting
from training.errors import MissingDataError
from training.features import HOP_MS, SAMPLE_RATE_HZ
from training.recipe import Recipe
from training.synthesis import EVALUATION_PARTS
from training.weighting import EncodedUtterance
from transcriber import ctc, words
from transcriber.confidence import LEAST
from transcriber.ctc import Fusion

Reals: TypeAlias = NDArray[np.float64]
# Times of words have no influence on confidences.
_AUDIO = AudioSpec(sample_rate_hz=SAMPLE_RATE_HZ, shortest_samples=1, hop_s=HOP_MS / 1000, first_centre_s=0.0)
_LONGEST_S = 3600.0


def fit(recipe: Recipe) -> None:
    """Fit slope and offset of each point, for the best path and for the best search with the n-gram model.

    Records them with the cross entropies that they reach. Raises MissingDataError when the stages `ngram` or
    `weighting` have not run.
    """
    logger = reporting.open_log(recipe)
    torch.set_num_threads(1)
    data = dataset.load(recipe)
    known = reporting.read_figures(recipe)
    for point in recipe.points:
        if f"weighting_{point.name}" not in known:
            raise MissingDataError(f"the figures of weighting_{point.name} in {recipe.figures}", "weighting")
        weights = known[f"weighting_{point.name}"]
        model = weighting.ngram_model(recipe.ngram(point))
        fusion = Fusion(model=model, weight=weights["ngram"], bonus=weights["bonus"])
        examples = [example for part in EVALUATION_PARTS for example in data.part(part)]
        utterances = weighting.encode(recipe, point, examples)
        figures: dict[str, Any] = {}
        for suffix, found in (
            ("", [_best_path(one) for one in utterances]),
            ("_ngram", [_best_hypothesis(one, fusion, weights) for one in utterances]),
        ):
            pairs = [pair for one, tokens in zip(utterances, found, strict=True) for pair in _judged(one, tokens)]
            probabilities, right = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
            best = fit_calibration(probabilities, right)
            figures |= {f"slope{suffix}": round(best.slope, 3), f"offset{suffix}": round(best.offset, 3)}
            figures |= {f"words{suffix}": len(right), f"right{suffix}": round(float(right.mean()), 4)}
        for name, value in figures.items():
            logger.info("confidence, %s, %s: %.4g", point.name, name, value)
        reporting.record(recipe, f"confidence_{point.name}", figures)


def fit_calibration(probabilities: Reals, right: Reals) -> Calibration:
    """Return the calibration with the smallest cross entropy of words that are right (1) or wrong (0).

    Platt scaling with its smoothed targets: (N+ + 1) / (N+ + 2) for a right word, 1 / (N- + 2) for a wrong one. They
    keep the result finite where all words are right.
    """
    kept = np.clip(probabilities, LEAST, 1.0 - LEAST)
    log_odds = np.log(kept / (1.0 - kept))
    positive = float(right.sum())
    negative = len(right) - positive
    targets = np.where(right > 0, (positive + 1.0) / (positive + 2.0), 1.0 / (negative + 2.0))

    def cross_entropy(parameters: Reals) -> float:
        scores = np.exp(parameters[0]) * log_odds + parameters[1]
        losses = targets * np.logaddexp(0.0, -scores) + (1.0 - targets) * np.logaddexp(0.0, scores)
        return float(losses.mean())

    # The logarithm of the slope, so that the map rises.
    log_slope, offset = minimize(cross_entropy, np.zeros(2)).x
    return Calibration(slope=float(np.exp(log_slope)), offset=float(offset))


def right_words(reference: str, hypothesis: Sequence[str]) -> list[bool]:
    """Return for each word of a hypothesis whether the alignment with the fewest errors has it in the reference."""
    right = [False] * len(hypothesis)
    if reference and hypothesis:
        (chunks,) = jiwer.process_words(reference, " ".join(hypothesis)).alignments
        for chunk in chunks:
            if chunk.type == "equal":
                for place in range(chunk.hyp_start_idx, chunk.hyp_end_idx):
                    right[place] = True
    return right


def _best_path(utterance: EncodedUtterance) -> tuple[int, ...]:
    return ctc.greedy(utterance.emissions, utterance.pieces.spec()).tokens


def _best_hypothesis(utterance: EncodedUtterance, fusion: Fusion, weights: Mapping[str, float]) -> tuple[int, ...]:
    hypotheses = ctc.beam(utterance.emissions, utterance.pieces.spec(), fusion=fusion)
    scores = utterance.scores([one.tokens for one in hypotheses])
    totals = [
        one.score + sum(weights[f"{name}_ngram"] * score for name, score in each.items())
        for one, each in zip(hypotheses, scores, strict=True)
    ]
    return hypotheses[int(np.argmax(totals))].tokens


def _judged(utterance: EncodedUtterance, tokens: tuple[int, ...]) -> Iterator[tuple[float, bool]]:
    """Yield the probability of each word of a hypothesis, and whether it is right."""
    spec = utterance.pieces.spec()
    found = words.join(ctc.align(utterance.emissions, tokens, spec), spec, _AUDIO, 0.0, _LONGEST_S)
    right = right_words(utterance.text, [word.content for word in found])
    yield from ((word.confidence, each) for word, each in zip(found, right, strict=True))
