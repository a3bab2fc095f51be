"""Chooses among the hypotheses of a search by what the decoder and the language model say of them."""

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from contract.catalogue import catalogue
from transcriber.ctc import Hypothesis, Integers
from transcriber.recogniser import Heard, Recogniser

# How much a rescorer's log-probability counts beside that of the search.
WEIGHTS = MappingProxyType({"decoder": 1.3, "lm": 0.6})


def rescore(
    recogniser: Recogniser, heard: Heard, hypotheses: Sequence[Hypothesis], families: Sequence[str] | None = None
) -> tuple[Hypothesis, ...]:
    """Order hypotheses by log P(CTC) + sum of weight * log P(rescorer), best first.

    `families` are the rescorers to ask, by default all that are served. A single hypothesis, or one that is too long
    for the rescorers, is left as it is. Raises what Recogniser raises.
    """
    asked = recogniser.rescorers if families is None else families
    candidates = list(hypotheses[: _most("hypothesis_count")])
    longest = max((len(hypothesis.tokens) for hypothesis in candidates), default=0)
    if len(candidates) < 2 or longest > _most("hypothesis_tokens") or not asked:  # noqa: PLR2004
        return tuple(hypotheses)
    tokens, lengths = _stacked(candidates, longest)
    totals = np.array([hypothesis.log_prob for hypothesis in candidates])
    for family in asked:
        totals += WEIGHTS[family] * recogniser.score(family, heard, tokens, lengths)
    ranked = np.argsort(-totals, kind="stable")
    return tuple(Hypothesis(tokens=candidates[place].tokens, log_prob=float(totals[place])) for place in ranked)


def _most(axis: str) -> int:
    return catalogue()["decoder"].modes["batch"].axes[axis].max


def _stacked(hypotheses: list[Hypothesis], longest: int) -> tuple[Integers, Integers]:
    """Give INT32 [N, L], padded with zeros, and the lengths INT32 [N]."""
    tokens = np.zeros((len(hypotheses), longest), dtype=np.int32)
    for row, hypothesis in zip(tokens, hypotheses, strict=True):
        row[: len(hypothesis.tokens)] = hypothesis.tokens
    return tokens, np.array([len(hypothesis.tokens) for hypothesis in hypotheses], dtype=np.int32)
