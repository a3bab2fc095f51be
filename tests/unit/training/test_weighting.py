"""The search for weights: what counts as wrong, and what each point has to choose by."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from tests.unit.training import tiny
from training import weighting
from training.errors import MissingDataError
from training.weighting import Candidates, Listener


def candidates(search: list[float], decoder: list[float], lm: list[float] | None = None) -> Candidates:
    """Make three hypotheses, of which the second is right."""
    scores = {"search": np.array(search), "decoder": np.array(decoder)}
    return Candidates(
        words=5, wrong=np.array([2, 0, 4]), scores=scores if lm is None else {**scores, "lm": np.array(lm)}
    )


def test_the_best_sum_is_chosen() -> None:
    one = candidates([-1.0, -3.0, -9.0], [-4.0, -1.0, 0.0])
    assert one.chosen({}) == 2
    assert one.chosen({"decoder": 0.5}) == 2
    assert one.chosen({"decoder": 1.0}) == 0
    assert one.chosen({"decoder": 100.0}) == 4


def test_wrong_words_of_all_parts_are_counted() -> None:
    heard = [-1.0, -3.0, -9.0]
    found = {
        "grammar": [candidates(heard, [0.0, 0.0, 0.0], [-9.0, 0.0, -9.0])],
        "prose": [candidates(heard, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0])],
    }
    assert weighting.all_wrong(found, {"decoder": 1.0, "lm": 0.0}) == 4
    assert weighting.all_wrong(found, {"decoder": 1.0, "lm": 1.0}) == 2


@pytest.mark.parametrize("lm", [None, [-9.0, -1.0, -9.0]])
def test_a_point_is_weighed_by_the_rescorers_that_it_has(lm: list[float] | None) -> None:
    one = candidates([-1.0, -3.0, -9.0], [-4.0, -1.0, -9.0], lm)
    listener = SimpleNamespace(candidates=lambda _: one)
    best = weighting.best_of({"grammar": [cast("Listener", listener)]}, None)
    assert set(best.rescorers) == ({"decoder"} if lm is None else {"decoder", "lm"})
    # The least that puts it right and has neighbours that do: two thirds of the decoder, or a quarter of the other.
    assert best.rescorers == ({"decoder": 1.0} if lm is None else {"decoder": 0.0, "lm": 0.4})
    assert best.wrong == 0


def test_the_ngram_model_comes_first(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path)
    with pytest.raises(MissingDataError, match=r"am_en\.ngram does not exist; make it with: python -m training ngram"):
        weighting.find(recipe)
