"""How right a transcript is: its words, its words by speaker, its speakers' times."""

import itertools
from dataclasses import dataclass
from typing import Any

import jiwer


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Error rates as shares of the reference."""

    word_error_rate: float
    speaker_word_error_rate: float
    """Concatenated minimum-permutation word error rate (cpWER, arXiv:2004.09249): words count for their speaker."""
    speakers: int
    wanted_speakers: int


def score(transcript: dict[str, Any], reference: dict[str, Any]) -> Score:
    """Compare a json-v2 transcript with a reference of `turns`, each with a speaker and a text."""
    words = [result for result in transcript["results"] if result["type"] == "word"]
    said: dict[str, list[str]] = {}
    for word in words:
        best = word["alternatives"][0]
        said.setdefault(best.get("speaker", ""), []).append(best["content"])
    wanted: dict[str, list[str]] = {}
    for turn in reference["turns"]:
        wanted.setdefault(turn["speaker"], []).append(turn["text"])
    whole = " ".join(turn["text"] for turn in reference["turns"])
    return Score(
        word_error_rate=jiwer.wer(whole, " ".join(word["alternatives"][0]["content"] for word in words)),
        speaker_word_error_rate=_permuted(
            [" ".join(texts) for texts in wanted.values()], [*map(" ".join, said.values())]
        ),
        speakers=len(said),
        wanted_speakers=len(wanted),
    )


def _permuted(wanted: list[str], said: list[str]) -> float:
    size = max(len(wanted), len(said))
    padded = said + [""] * (size - len(said))
    references = wanted + [""] * (size - len(wanted))
    total = sum(len(text.split()) for text in wanted)
    errors = (
        sum(wrong_words(reference, text) for reference, text in zip(references, order, strict=True))
        for order in itertools.permutations(padded)
    )
    return min(errors) / total


def wrong_words(reference: str, text: str) -> int:
    """Count the words substituted, deleted and inserted."""
    if not reference:
        return len(text.split())
    found = jiwer.process_words(reference, text)
    return found.substitutions + found.deletions + found.insertions
