"""Rescoring: what is sent, how it is weighed, and when it is left out."""

import numpy as np
import pytest

from tests.unit.transcriber.fakes import FakeRecogniser, sure
from transcriber.ctc import Floats, Hypothesis, Integers
from transcriber.recogniser import Heard
from transcriber.rescoring import WEIGHTS, rescore

HEARD = Heard(emissions=sure([0]), encoder_out=np.zeros((1, 4), np.float16), encoder_length=1)


class Scripted(FakeRecogniser):
    """Scores as told, and remembers what it was asked."""

    def __init__(self, scores: dict[str, list[float]]) -> None:
        super().__init__(rescorers=tuple(scores))
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
    assert best.log_prob == pytest.approx(-2.0 - 2.0 * WEIGHTS["decoder"] - 3.0 * WEIGHTS["lm"])


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
