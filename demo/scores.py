"""Error rates of transcripts and of speaker verification; benchmarks and training use the same functions."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Error rates of a transcript, as shares of the reference's words, and numbers of speakers."""

    word_error_rate: float
    speaker_word_error_rate: float
    """Concatenated minimum-permutation word error rate (cpWER, arXiv:2004.09249): words count for their speaker."""
    speakers: int
    reference_speakers: int


def score(transcript: dict[str, Any], reference: dict[str, Any]) -> Score:
    """Compare a json-v2 transcript with a reference of `turns`, each with a speaker and a text."""
    words = [result for result in transcript["results"] if result["type"] == "word"]
    hypotheses: dict[str, list[str]] = {}
    for word in words:
        best = word["alternatives"][0]
        hypotheses.setdefault(best.get("speaker", ""), []).append(best["content"])
    references: dict[str, list[str]] = {}
    for turn in reference["turns"]:
        references.setdefault(turn["speaker"], []).append(turn["text"])
    whole = " ".join(turn["text"] for turn in reference["turns"])
    return Score(
        word_error_rate=jiwer.wer(whole, " ".join(word["alternatives"][0]["content"] for word in words)),
        speaker_word_error_rate=_minimum_permutation_rate(
            [" ".join(texts) for texts in references.values()], [*map(" ".join, hypotheses.values())]
        ),
        speakers=len(hypotheses),
        reference_speakers=len(references),
    )


def word_errors(reference: str, hypothesis: str) -> int:
    """Return the number of words that are substituted, deleted and inserted."""
    if not reference:
        return len(hypothesis.split())
    found = jiwer.process_words(reference, hypothesis)
    return int(found.substitutions + found.deletions + found.insertions)


def equal_error_rate(same: NDArray[np.float32], different: NDArray[np.float32]) -> float:
    """Return the rate at which false rejections and false acceptances are equal.

    same, different: the similarities of pairs of one speaker and of two speakers; neither may be empty.
    """
    thresholds = np.sort(np.concatenate((same, different)))
    rejected = np.searchsorted(np.sort(same), thresholds) / len(same)
    accepted = 1.0 - np.searchsorted(np.sort(different), thresholds) / len(different)
    best = int(np.argmin(np.abs(rejected - accepted)))
    return float((rejected[best] + accepted[best]) / 2)


def pair_error_rate(embeddings: NDArray[np.float32], speakers: Sequence[str]) -> float:
    """Return the equal error rate of all pairs of unit vectors [n, E], one for each name of a speaker.

    It is nan when no speaker has two vectors, or when there is a single speaker.
    """
    names, pairs = np.asarray(speakers), np.triu_indices(len(speakers), 1)
    similarity = (embeddings @ embeddings.T)[pairs]
    same = (names[:, None] == names[None, :])[pairs]
    if same.all() or not same.any():
        return math.nan
    return equal_error_rate(similarity[same], similarity[~same])


def mean_direction(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the direction of the mean of unit vectors [n, E], a unit vector [E]."""
    total = embeddings.sum(axis=0)
    return np.asarray(total / np.linalg.norm(total), dtype=np.float32)


def _minimum_permutation_rate(references: list[str], hypotheses: list[str]) -> float:
    size = max(len(references), len(hypotheses))
    padded_hypotheses = hypotheses + [""] * (size - len(hypotheses))
    padded_references = references + [""] * (size - len(references))
    total = sum(len(text.split()) for text in references)
    errors = (
        sum(word_errors(reference, text) for reference, text in zip(padded_references, order, strict=True))
        for order in itertools.permutations(padded_hypotheses)
    )
    return min(errors) / total
