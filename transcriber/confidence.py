"""Calibrate the confidences of words: from the network's probabilities to the share of words that are right.

Platt scaling (Platt, Probabilistic Outputs for Support Vector Machines, 1999): the log-odds of a probability are
multiplied by a slope, and an offset is added. Both belong to the weights, and depend on whether the search had an
n-gram model: one corrects words that the network is not sure of.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from contract.client import Calibration
from transcriber.recogniser import Recogniser
from transcriber.transcript import Word

# A probability closer to 0 or 1 than this has no meaning in FP32.
LEAST = 1e-6


def calibration(recogniser: Recogniser, search: str | None, *, ngram: bool) -> Calibration | None:
    """Return the calibration of the weights for a search, with or without the n-gram model; None where it has none."""
    if ngram and search != "greedy" and recogniser.ngram is not None:
        return recogniser.search.confidence_with_ngram
    return recogniser.search.confidence


def calibrated(words: Iterable[Word], found: Calibration | None) -> list[Word]:
    """Return the words with calibrated confidences; as they are without a calibration."""
    if found is None:
        return list(words)
    return [replace(word, confidence=apply(word.confidence, found)) for word in words]


def apply(probability: float, found: Calibration) -> float:
    """Return the calibrated confidence of a probability."""
    return _logistic(found.slope * _log_odds(probability) + found.offset)


def invert(confidence: float, found: Calibration | None) -> float:
    """Return the probability of a confidence: what the network itself states."""
    if found is None:
        return confidence
    return _logistic((_log_odds(confidence) - found.offset) / found.slope)


def _log_odds(probability: float) -> float:
    kept = min(max(probability, LEAST), 1.0 - LEAST)
    return math.log(kept / (1.0 - kept))


def _logistic(value: float) -> float:
    # The exponential of a large number would overflow.
    share = math.exp(-abs(value))
    return (1.0 if value >= 0 else share) / (1.0 + share)
