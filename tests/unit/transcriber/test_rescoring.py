"""Rescoring: what is sent, how it is weighed, and when it is left out."""

import numpy as np
import pytest

from contract.catalogue import OPERATING_POINTS, catalogue
from tests.unit.transcriber.fakes import FakeRecogniser, sure
from tests.unit.transcriber.models import LEVELS, VOCABULARY
from transcriber.ctc import Emissions, Floats, Hypothesis, Integers
from transcriber.ngram import Ngram
from transcriber.recogniser import Heard
from transcriber.rescoring import WEIGHTS, rescore, search

ENHANCED = WEIGHTS["enhanced"]
HEARD = Heard(emissions=sure([0]), encoder_out=np.zeros((1, 4), np.float16), encoder_length=1)


class Scripted(FakeRecogniser):
    """Scores as told, and remembers what it was asked."""

    def __init__(self, scores: dict[str, list[float]]) -> None:
        super().__init__(rescorers=tuple(scores))
        self.operating_point = "enhanced"
        self.scores = scores
        self.asked: list[tuple[Integers, Integers]] = []

    def score(self, family: str, heard: Heard, hypotheses: Integers, lengths: Integers) -> Floats:
        self.asked.append((hypotheses, lengths))
        return np.array(self.scores[family], dtype=np.float32)


def hypotheses(*pairs: tuple[tuple[int, ...], float]) -> list[Hypothesis]:
    return [Hypothesis(tokens=tokens, log_prob=log_prob) for tokens, log_prob in pairs]


def test_weighs_the_decoder_and_the_language_model() -> None:
    recogniser = Scripted({"decoder": [-10.0, -2.0], "lm": [-1.0, -3.0]})
    best, second = rescore(recogniser, HEARD, hypotheses(((3,), -1.0), ((4, 5), -2.0)))
    assert (best.tokens, second.tokens) == ((4, 5), (3,))
    assert best.score == pytest.approx(-2.0 - 2.0 * ENHANCED.rescorers["decoder"] - 3.0 * ENHANCED.rescorers["lm"])
    assert (best.log_prob, second.log_prob) == (-2.0, -1.0)


def test_rescorers_count_otherwise_after_a_search_with_an_ngram_model() -> None:
    recogniser = Scripted({"decoder": [-1.0, -2.0]})
    given = [
        Hypothesis(tokens=(3,), log_prob=-1.0, ngram=-4.0, added=-3.0),
        Hypothesis(tokens=(4, 5), log_prob=-2.0, ngram=-9.0, added=1.0),
    ]
    best, second = rescore(recogniser, HEARD, given)
    assert (best.tokens, second.tokens) == ((4, 5), (3,))
    assert best.score == pytest.approx(-2.0 + 1.0 - 2.0 * ENHANCED.rescorers_with_ngram["decoder"])
    assert (best.log_prob, best.ngram) == (-2.0, -9.0)


@pytest.mark.parametrize("point", OPERATING_POINTS)
def test_whatever_is_served_at_a_point_has_a_weight(point: str) -> None:
    served = {family for family in ("decoder", "lm") if point in catalogue()[family].operating_points}
    assert set(WEIGHTS[point].rescorers) == set(WEIGHTS[point].rescorers_with_ngram) == served


def test_the_search_weighs_what_the_ngram_model_says() -> None:
    """Both spellings sound alike; the model of the tests knows that 5 follows 4."""
    sounds = Emissions(
        log_probs=np.log(np.array([[0.9, 0.1], [0.5, 0.45], [0.9, 0.1]], dtype=np.float32)),
        tokens=np.array([[4, 0], [3, 5], [0, 3]], dtype=np.int32),
    )
    model = Ngram(LEVELS, VOCABULARY)
    assert search(FakeRecogniser(), sounds)[0].tokens == (4, 3)
    recogniser = FakeRecogniser(ngram=model)
    assert search(recogniser, sounds, ngram=False)[0].tokens == (4, 3)
    for recogniser.operating_point, weights in WEIGHTS.items():
        best = search(recogniser, sounds)[0]
        assert best.tokens == (4, 5)
        assert best.ngram == pytest.approx(model.log_prob((4, 5)))
        assert best.added == pytest.approx(weights.ngram * model.log_prob((4, 5)) + 2 * weights.bonus)


def test_pads_with_zeros_and_sends_lengths() -> None:
    recogniser = Scripted({"decoder": [0.0, 0.0, 0.0]})
    rescore(recogniser, HEARD, hypotheses(((3, 4), -1.0), ((), -2.0), ((5,), -3.0)))
    ((tokens, lengths),) = recogniser.asked
    assert tokens.tolist() == [[3, 4], [0, 0], [5, 0]]
    assert lengths.tolist() == [2, 0, 1]
    assert tokens.dtype == lengths.dtype == np.int32


def test_equal_scores_keep_the_order_of_the_search() -> None:
    recogniser = Scripted({"decoder": [0.0, 0.0]})
    assert rescore(recogniser, HEARD, hypotheses(((3,), -1.0), ((4,), -1.0)))[0].tokens == (3,)


@pytest.mark.parametrize(
    "given", [hypotheses(((3,), -1.0)), hypotheses(((3,) * 257, -1.0), ((4,), -2.0)), hypotheses()]
)
def test_nothing_to_choose_or_too_long(given: list[Hypothesis]) -> None:
    recogniser = Scripted({"decoder": [0.0, 100.0]})
    assert rescore(recogniser, HEARD, given) == tuple(given)
    assert recogniser.asked == []
