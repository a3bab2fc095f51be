"""Combine the scores of the models: the n-gram model in the search, the rescorers among its best hypotheses."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from transcriber import ctc
from transcriber.buckets import pad_tokens
from transcriber.ctc import Emissions, Fusion, Hypothesis
from transcriber.recogniser import EncoderOutput, Recogniser
from transcriber.vocabulary import Vocabulary

PHRASE_SHARE = 0.5
"""What each rescorer takes from the phrases of a vocabulary is added again as this share of their score.

Rescorers find made-up names improbable. Found with benchmarks.vocabulary: the names of both operating points.
"""

MARGIN = 10.0
"""How far a hypothesis may be behind the best one, in the unit of a log-probability, to be scored by a rescorer.

Of 830 segments of the sets of benchmarks.accuracy, the result was another one than with all 16 hypotheses in none of
`standard`, and in 4 of `enhanced`. The decoder gets 45 and 35 % of the tokens of all hypotheses, a language model after
it 10 %.
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
    """Return the hypotheses with the best scores, best first: score in the search + sum of weight * log P(model).

    `roles` are those of the models to use, by default of all that are served. Each model scores the hypotheses that
    search and models before it leave within MARGIN of the best one. The order of the search stays when there is no such
    model, only one hypothesis, or one that is too long for the models. Raises what Recogniser raises.
    """
    candidates = list(hypotheses[: recogniser.most_hypotheses])
    for role in recogniser.rescorers if roles is None else roles:
        candidates = _near_best(candidates)
        longest = max((len(hypothesis.tokens) for hypothesis in candidates), default=0)
        if len(candidates) < 2 or longest > recogniser.longest_hypothesis:  # noqa: PLR2004
            break
        tokens, lengths = pad_tokens([hypothesis.tokens for hypothesis in candidates], len(candidates), longest)
        scores = recogniser.score(role, encoded, tokens, lengths).tolist()
        weight = _weights(recogniser, candidates[0])[role]
        candidates = [
            replace(each, lm_score=each.lm_score + PHRASE_SHARE * each.phrase_score + weight * score)
            for each, score in zip(candidates, scores, strict=True)
        ]
    return tuple(sorted(candidates, key=lambda hypothesis: hypothesis.score, reverse=True)) or tuple(hypotheses)


def _near_best(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    best = max((hypothesis.score for hypothesis in hypotheses), default=0.0)
    return [hypothesis for hypothesis in hypotheses if hypothesis.score >= best - MARGIN]


def _weights(recogniser: Recogniser, hypothesis: Hypothesis) -> Mapping[str, float]:
    search = recogniser.search
    return search.rescorers if hypothesis.lm_log_prob is None else search.rescorers_with_ngram
