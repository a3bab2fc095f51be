"""How much each model counts beside the emissions: in the search, and afterwards among its best hypotheses."""

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from contract.catalogue import catalogue
from transcriber import ctc
from transcriber.ctc import Emissions, Fusion, Hypothesis, Integers
from transcriber.ngram import Ngram
from transcriber.recogniser import Heard, Recogniser

# All are found by `python -m training weighting`. An n-gram model's log-probability counts so much in the search, and
# every token of a hypothesis earns the bonus beside it.
NGRAM_WEIGHT, TOKEN_BONUS = 0.8, 2.0
# How much a rescorer's log-probability counts beside the score of a search without and with an n-gram model, which
# says some of the same.
WEIGHTS = MappingProxyType({"decoder": 3.0, "lm": 1.5})
WEIGHTS_WITH_NGRAM = MappingProxyType({"decoder": 1.0, "lm": 0.5})


def search(emissions: Emissions, ngram: Ngram | None) -> tuple[Hypothesis, ...]:
    """Give the best hypotheses for emissions, with the n-gram model where there is one; best first."""
    return ctc.beam(emissions, fusion=fusion(ngram))


def fusion(ngram: Ngram | None) -> Fusion | None:
    """Say how much an n-gram model counts in the search."""
    return None if ngram is None else Fusion(model=ngram, weight=NGRAM_WEIGHT, bonus=TOKEN_BONUS)


def rescore(
    recogniser: Recogniser, heard: Heard, hypotheses: Sequence[Hypothesis], families: Sequence[str] | None = None
) -> tuple[Hypothesis, ...]:
    """Order hypotheses by their score in the search + sum of weight * log P(rescorer), best first.

    `families` are the rescorers to ask, by default all that are served. A single hypothesis, or one that is too long
    for the rescorers, is left as it is. Raises what Recogniser raises.
    """
    asked = recogniser.rescorers if families is None else families
    candidates = list(hypotheses[: _most("hypothesis_count")])
    longest = max((len(hypothesis.tokens) for hypothesis in candidates), default=0)
    if len(candidates) < 2 or longest > _most("hypothesis_tokens") or not asked:  # noqa: PLR2004
        return tuple(hypotheses)
    tokens, lengths = _stacked(candidates, longest)
    weights = WEIGHTS if candidates[0].ngram is None else WEIGHTS_WITH_NGRAM
    added = np.array([hypothesis.added for hypothesis in candidates])
    for family in asked:
        added += weights[family] * recogniser.score(family, heard, tokens, lengths)
    rescored = [replace(each, added=float(more)) for each, more in zip(candidates, added, strict=True)]
    return tuple(sorted(rescored, key=lambda hypothesis: hypothesis.score, reverse=True))


def _most(axis: str) -> int:
    return catalogue()["decoder"].modes["batch"].axes[axis].max


def _stacked(hypotheses: list[Hypothesis], longest: int) -> tuple[Integers, Integers]:
    """Give INT32 [N, L], padded with zeros, and the lengths INT32 [N]."""
    tokens = np.zeros((len(hypotheses), longest), dtype=np.int32)
    for row, hypothesis in zip(tokens, hypotheses, strict=True):
        row[: len(hypothesis.tokens)] = hypothesis.tokens
    return tokens, np.array([len(hypothesis.tokens) for hypothesis in hypotheses], dtype=np.int32)
