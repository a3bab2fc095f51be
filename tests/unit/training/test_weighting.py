"""The tuning of rescorer weights: wrong words of the best hypothesis, and the weights of each point."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from tests.unit.training import tiny
from training import weighting
from training.errors import MissingDataError
from training.weighting import Candidates, EncodedUtterance


def candidates(search: list[float], decoder: list[float], lm: list[float] | None = None) -> Candidates:
    """Return three hypotheses, of which the second is right."""
    scores = {"search": np.array(search), "decoder": np.array(decoder)}
    return Candidates(
        words=5, wrong=np.array([2, 0, 4]), scores=scores if lm is None else {**scores, "lm": np.array(lm)}
    )


def test_best_weighted_score_wins() -> None:
    one = candidates([-1.0, -3.0, -9.0], [-4.0, -1.0, 0.0])
    assert one.wrong_words({}) == 2
    assert one.wrong_words({"decoder": 0.5}) == 2
    assert one.wrong_words({"decoder": 1.0}) == 0
    assert one.wrong_words({"decoder": 100.0}) == 4


def test_counts_wrong_words_of_all_parts() -> None:
    search = [-1.0, -3.0, -9.0]
    found = {
        "grammar": [candidates(search, [0.0, 0.0, 0.0], [-9.0, 0.0, -9.0])],
        "prose": [candidates(search, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0])],
    }
    assert weighting.total_wrong_words(found, {"decoder": 1.0, "lm": 0.0}) == 4
    assert weighting.total_wrong_words(found, {"decoder": 1.0, "lm": 1.0}) == 2


@pytest.mark.parametrize("lm", [None, [-9.0, -1.0, -9.0]])
def test_tunes_the_rescorers_of_a_point(lm: list[float] | None) -> None:
    one = candidates([-1.0, -3.0, -9.0], [-4.0, -1.0, -9.0], lm)
    utterance = SimpleNamespace(candidates=lambda _: one)
    best = weighting.tune_rescorers({"grammar": [cast("EncodedUtterance", utterance)]}, None)
    assert set(best.rescorers) == ({"decoder"} if lm is None else {"decoder", "lm"})
    # The smallest weights that are right and have neighbours that are right: two thirds of the decoder, or a quarter
    # of the language model.
    assert best.rescorers == ({"decoder": 1.0} if lm is None else {"decoder": 0.0, "lm": 0.4})
    assert best.wrong == 0


def test_needs_the_ngram_model(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path)
    with pytest.raises(MissingDataError, match=r"am_en\.ngram does not exist; make it with: python -m training ngram"):
        weighting.tune(recipe)
