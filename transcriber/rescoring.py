"""Combine the scores of the models: the n-gram model in the search, the rescorers among its best hypotheses."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from contract.catalogue import BATCH_MODE, catalogue
from transcriber import ctc
from transcriber.buckets import pad_tokens
from transcriber.ctc import Emissions, Fusion, Hypothesis
from transcriber.recogniser import EncoderOutput, Recogniser


def search(recogniser: Recogniser, emissions: Emissions, *, ngram: bool = True) -> tuple[Hypothesis, ...]:
    """Return the best hypotheses for emissions, best first; `ngram` uses the n-gram model, if there is one."""
    return ctc.beam(emissions, fusion=fusion(recogniser) if ngram else None)


def fusion(recogniser: Recogniser) -> Fusion | None:
    """Return the n-gram model with its weight and the bonus a token; None when the recogniser has no such model."""
    if recogniser.ngram is None:
        return None
    weights = recogniser.search_weights
    return Fusion(model=recogniser.ngram, weight=weights.ngram, bonus=weights.bonus)


def rescore(
    recogniser: Recogniser,
    encoded: EncoderOutput,
    hypotheses: Sequence[Hypothesis],
    families: Sequence[str] | None = None,
) -> tuple[Hypothesis, ...]:
    """Order hypotheses by their score in the search + sum of weight * log P(rescorer), best first.

    `families` are the rescorers to use, by default all that are served. The order of the search stays
    when there is no rescorer, only one hypothesis, or one that is too long for the rescorers. Raises what Recogniser
    raises.
    """
    used = recogniser.rescorers if families is None else families
    if not used:
        return tuple(hypotheses)
    candidates = list(hypotheses[: _axis_limit(used, "hypothesis_count")])
    longest = max((len(hypothesis.tokens) for hypothesis in candidates), default=0)
    if len(candidates) < 2 or longest > _axis_limit(used, "hypothesis_tokens"):  # noqa: PLR2004
        return tuple(hypotheses)
    tokens, lengths = pad_tokens([hypothesis.tokens for hypothesis in candidates], len(candidates), longest)
    known = recogniser.search_weights
    weights = known.rescorers if candidates[0].lm_log_prob is None else known.rescorers_with_ngram
    scores = np.array([hypothesis.lm_score for hypothesis in candidates])
    for family in used:
        scores += weights[family] * recogniser.score(family, encoded, tokens, lengths)
    rescored = [replace(each, lm_score=float(score)) for each, score in zip(candidates, scores, strict=True)]
    return tuple(sorted(rescored, key=lambda hypothesis: hypothesis.score, reverse=True))


def _axis_limit(families: Sequence[str], axis: str) -> int:
    """Return the largest size of an axis that all these rescorers take."""
    return min(catalogue()[family].modes[BATCH_MODE].axes[axis].max for family in families)
