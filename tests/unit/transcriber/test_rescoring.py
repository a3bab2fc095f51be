"""Rescoring: what is sent, how the scores are combined, and when it is skipped."""

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.transcriber.fakes import SEARCH, FakeRecogniser, confident
from tests.unit.transcriber.models import LEVELS, VOCABULARY, token_spec
from transcriber.ctc import Emissions, Floats, Hypothesis, Integers
from transcriber.ngram import Ngram
from transcriber.recogniser import EncoderOutput
from transcriber.rescoring import MARGIN, PHRASE_SHARE, rescore, search

ENCODED = EncoderOutput(emissions=confident([0]), encoder_out=np.zeros((1, 4), np.float16), encoder_length=1)


class ScriptedRecogniser(FakeRecogniser):
    """Return given scores, and record the requests."""

    def __init__(self, scores: dict[str, list[float]]) -> None:
        super().__init__(rescorers=tuple(scores))
        self.operating_point = "enhanced"
        self.scores = scores
        self.requests: list[tuple[Integers, Integers]] = []

    def score(self, role: str, encoded: EncoderOutput, hypotheses: Integers, lengths: Integers) -> Floats:
        self.requests.append((hypotheses, lengths))
        return np.array(self.scores[role], dtype=np.float32)


def hypotheses(*pairs: tuple[tuple[int, ...], float]) -> list[Hypothesis]:
    return [Hypothesis(tokens=tokens, log_prob=log_prob) for tokens, log_prob in pairs]


def test_combines_decoder_and_language_model() -> None:
    recogniser = ScriptedRecogniser({"rescorer": [-10.0, -2.0], "lm": [-1.0, -3.0]})
    best, second = rescore(recogniser, ENCODED, hypotheses(((3,), -1.0), ((4, 5), -2.0)))
    assert (best.tokens, second.tokens) == ((4, 5), (3,))
    assert best.score == pytest.approx(-2.0 - 2.0 * SEARCH.rescorers["rescorer"] - 3.0 * SEARCH.rescorers["lm"])
    assert (best.log_prob, second.log_prob) == (-2.0, -1.0)


def test_uses_other_weights_after_a_search_with_an_ngram_model() -> None:
    recogniser = ScriptedRecogniser({"rescorer": [-1.0, -2.0]})
    given = [
        Hypothesis(tokens=(3,), log_prob=-1.0, lm_log_prob=-4.0, lm_score=-3.0),
        Hypothesis(tokens=(4, 5), log_prob=-2.0, lm_log_prob=-9.0, lm_score=1.0),
    ]
    best, second = rescore(recogniser, ENCODED, given)
    assert (best.tokens, second.tokens) == ((4, 5), (3,))
    assert best.score == pytest.approx(-2.0 + 1.0 - 2.0 * SEARCH.rescorers_with_ngram["rescorer"])
    assert (best.log_prob, best.lm_log_prob) == (-2.0, -9.0)


def test_each_rescorer_leaves_phrases_their_score() -> None:
    """A name that the search found is improbable for both rescorers."""
    given = [
        Hypothesis(tokens=(4, 5), log_prob=-2.0, lm_score=6.0, phrase_score=6.0),
        Hypothesis(tokens=(3,), log_prob=-1.0),
    ]
    losses = {"rescorer": [-8.0, 0.0], "lm": [-3.0, 0.0]}
    best, second = rescore(ScriptedRecogniser(losses), ENCODED, given)
    assert (best.tokens, second.tokens) == ((4, 5), (3,))
    lost = sum(SEARCH.rescorers[role] * values[0] for role, values in losses.items())
    assert best.score == pytest.approx(-2.0 + 6.0 + 2 * PHRASE_SHARE * 6.0 + lost)
    without = [replace(given[0], phrase_score=0.0), given[1]]
    assert rescore(ScriptedRecogniser({"rescorer": [-20.0, 0.0]}), ENCODED, without)[0].tokens == (3,)


def test_scores_only_hypotheses_near_the_best() -> None:
    recogniser = ScriptedRecogniser({"rescorer": [0.0, -1.0], "lm": [0.0, -1.0]})
    far = hypotheses(((3,), -1.0), ((4, 5), -1.0 - MARGIN), ((5,), -1.1 - MARGIN))
    assert [each.tokens for each in rescore(recogniser, ENCODED, far)] == [(3,)]
    # The decoder leaves one hypothesis near the best, so that the language model has nothing to choose.
    ((tokens, lengths),) = recogniser.requests
    assert tokens.tolist() == [[3, 0], [4, 5]]
    assert lengths.tolist() == [1, 2]


def test_a_hypothesis_far_ahead_needs_no_rescorer() -> None:
    recogniser = ScriptedRecogniser({"rescorer": [0.0]})
    assert rescore(recogniser, ENCODED, hypotheses(((3,), -1.0), ((4,), -1.1 - MARGIN)))[0].tokens == (3,)
    assert recogniser.requests == []


def test_phrases_are_compared_before_their_share_is_added() -> None:
    """Before a rescorer takes from a phrase, its share is not added either: the other hypothesis stays near."""
    given = [
        Hypothesis(tokens=(4, 5), log_prob=-2.0, lm_score=MARGIN, phrase_score=MARGIN),
        Hypothesis(tokens=(3,), log_prob=-1.5),
    ]
    assert rescore(ScriptedRecogniser({"rescorer": [-40.0, 0.0]}), ENCODED, given)[0].tokens == (3,)


@pytest.mark.parametrize(
    ("left", "best"),
    [(("rescorer",), (4, 5)), (("lm",), (3,)), ((), (3,))],
)
def test_rescorers_are_optional(left: tuple[str, ...], best: tuple[int, ...]) -> None:
    """Without rescorers the order of the search stays."""
    scores = {"rescorer": [-10.0, -2.0], "lm": [-1.0, -3.0]}
    recogniser = ScriptedRecogniser({role: scores[role] for role in left})
    found = rescore(recogniser, ENCODED, hypotheses(((3,), -1.0), ((4, 5), -2.0)))
    assert found[0].tokens == best
    assert len(recogniser.requests) == len(left)


def test_search_uses_the_ngram_model() -> None:
    """Both spellings sound alike; in the model of the tests 5 is likely after 4."""
    sounds = Emissions(
        log_probs=np.log(np.array([[0.9, 0.1], [0.5, 0.45], [0.9, 0.1]], dtype=np.float32)),
        tokens=np.array([[4, 0], [3, 5], [0, 3]], dtype=np.int32),
    )
    model = Ngram(LEVELS, VOCABULARY, 2)
    assert search(FakeRecogniser(), sounds)[0].tokens == (4, 3)
    recogniser = FakeRecogniser(ngram=model)
    recogniser.tokens = token_spec()
    assert search(recogniser, sounds, ngram=False)[0].tokens == (4, 3)
    for bonus in (2.0, 2.5):
        recogniser.search = replace(SEARCH, token_bonus=bonus)
        best = search(recogniser, sounds)[0]
        assert best.tokens == (4, 5)
        assert best.lm_log_prob == pytest.approx(model.log_prob((4, 5)))
        assert best.lm_score == pytest.approx(SEARCH.ngram_weight * model.log_prob((4, 5)) + 2 * bonus)


def test_pads_with_zeros_and_sends_lengths() -> None:
    recogniser = ScriptedRecogniser({"rescorer": [0.0, 0.0, 0.0]})
    rescore(recogniser, ENCODED, hypotheses(((3, 4), -1.0), ((), -2.0), ((5,), -3.0)))
    ((tokens, lengths),) = recogniser.requests
    assert tokens.tolist() == [[3, 4], [0, 0], [5, 0]]
    assert lengths.tolist() == [2, 0, 1]
    assert tokens.dtype == lengths.dtype == np.int32


def test_equal_scores_keep_the_order_of_the_search() -> None:
    recogniser = ScriptedRecogniser({"rescorer": [0.0, 0.0]})
    assert rescore(recogniser, ENCODED, hypotheses(((3,), -1.0), ((4,), -1.0)))[0].tokens == (3,)


@pytest.mark.parametrize(
    "given", [hypotheses(((3,), -1.0)), hypotheses(((3,) * 257, -1.0), ((4,), -2.0)), hypotheses()]
)
def test_skips_single_and_too_long_hypotheses(given: list[Hypothesis]) -> None:
    recogniser = ScriptedRecogniser({"rescorer": [0.0, 100.0]})
    assert rescore(recogniser, ENCODED, given) == tuple(given)
    assert recogniser.requests == []
