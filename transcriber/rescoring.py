"""Combine the scores of the models: the n-gram model in the search, the rescorers among its best hypotheses."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from transcriber import ctc
from transcriber.buckets import pad_tokens
from transcriber.ctc import Emissions, Fusion, Hypothesis
from transcriber.recogniser import EncoderOutput, Recogniser
from transcriber.vocabulary import Vocabulary

PHRASE_SHARE = 0.5
"""What each rescorer takes from the phrases of a vocabulary is added again as this share of their score.

Rescorers find made-up names improbable. Found with benchmarks.vocabulary: the names of both operating points.
"""


def search(
    recogniser: Recogniser, emissions: Emissions, *, ngram: bool = True, vocabulary: Vocabulary | None = None
) -> tuple[Hypothesis, ...]:
    """Return the best hypotheses for emissions, best first; `ngram` uses the n-gram model, if there is one."""
    return ctc.beam(
        emissions,
        recogniser.tokens,
        width=ctc.beam_width(vocabulary),
        fusion=fusion(recogniser) if ngram else None,
        vocabulary=vocabulary,
    )


def fusion(recogniser: Recogniser) -> Fusion | None:
    """Return the n-gram model with its weight and the bonus a token; None when the recogniser has no such model."""
    if recogniser.ngram is None:
        return None
    search = recogniser.search
    return Fusion(model=recogniser.ngram, weight=search.ngram_weight, bonus=search.token_bonus)


def rescore(
    recogniser: Recogniser,
    encoded: EncoderOutput,
    hypotheses: Sequence[Hypothesis],
    roles: Sequence[str] | None = None,
) -> tuple[Hypothesis, ...]:
    """Order hypotheses by their score in the search + sum of weight * log P(model), best first.

    `roles` are those of the models to use, by default of all that are served. The order of the search stays when there
    is no such model, only one hypothesis, or one that is too long for the models. Raises what Recogniser raises.
    """
    used = recogniser.rescorers if roles is None else roles
    if not used:
        return tuple(hypotheses)
    candidates = list(hypotheses[: recogniser.most_hypotheses])
    longest = max((len(hypothesis.tokens) for hypothesis in candidates), default=0)
    if len(candidates) < 2 or longest > recogniser.longest_hypothesis:  # noqa: PLR2004
        return tuple(hypotheses)
    tokens, lengths = pad_tokens([hypothesis.tokens for hypothesis in candidates], len(candidates), longest)
    known = recogniser.search
    weights = known.rescorers if candidates[0].lm_log_prob is None else known.rescorers_with_ngram
    share = PHRASE_SHARE * len(used)
    scores = np.array([hypothesis.lm_score + share * hypothesis.phrase_score for hypothesis in candidates])
    for role in used:
        scores += weights[role] * recogniser.score(role, encoded, tokens, lengths)
    rescored = [replace(each, lm_score=float(score)) for each, score in zip(candidates, scores, strict=True)]
    return tuple(sorted(rescored, key=lambda hypothesis: hypothesis.score, reverse=True))
