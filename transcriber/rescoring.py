"""How much each model counts beside the emissions: in the search, and afterwards among its best hypotheses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from contract.catalogue import catalogue
from transcriber import ctc
from transcriber.ctc import Emissions, Fusion, Hypothesis, Integers
from transcriber.recogniser import Heard, Recogniser


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """How much log-probabilities count beside those of the emissions, at an operating point."""

    ngram: float
    """That of the n-gram model in the search."""
    bonus: float
    """What every token earns beside it."""
    rescorers: Mapping[str, float]
    """Those of the rescorers, by family, after a search without an n-gram model."""
    rescorers_with_ngram: Mapping[str, float]
    """The same after a search with one, which has said some of it."""


# Found by `python -m training weighting`.
WEIGHTS: Mapping[str, Weights] = MappingProxyType(
    {
        "standard": Weights(ngram=0.8, bonus=2.0, rescorers={"decoder": 1.5}, rescorers_with_ngram={"decoder": 1.25}),
        "enhanced": Weights(
            ngram=0.8,
            bonus=2.5,
            rescorers={"decoder": 1.0, "lm": 0.5},
            rescorers_with_ngram={"decoder": 2.0, "lm": 0.6},
        ),
    }
)


def search(recogniser: Recogniser, emissions: Emissions, *, ngram: bool = True) -> tuple[Hypothesis, ...]:
    """Give the best hypotheses for emissions, best first; with the n-gram model, if any, unless `ngram` is off."""
    return ctc.beam(emissions, fusion=fusion(recogniser) if ngram else None)


def fusion(recogniser: Recogniser) -> Fusion | None:
    """Say how much the n-gram model counts in the search; None where there is none."""
    weights = WEIGHTS[recogniser.operating_point]
    if recogniser.ngram is None:
        return None
    return Fusion(model=recogniser.ngram, weight=weights.ngram, bonus=weights.bonus)


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
    known = WEIGHTS[recogniser.operating_point]
    weights = known.rescorers if candidates[0].ngram is None else known.rescorers_with_ngram
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
