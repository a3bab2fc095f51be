"""The search for weights: what counts as wrong, and what each point has to choose by."""

from pathlib import Path

import numpy as np
import pytest

from tests.unit.training import tiny
from training import weighting
from training.errors import MissingDataError
from training.weighting import Candidates


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


def test_only_the_enhanced_point_has_a_language_model() -> None:
    heard = [-1.0, -3.0, -9.0]
    found = {
        "standard": {"grammar": [candidates(heard, [0.0, 0.0, 0.0])]},
        "enhanced": {"grammar": [candidates(heard, [0.0, 0.0, 0.0], [-9.0, 0.0, -9.0])]},
    }
    assert weighting.all_wrong(found, 0.0, 0.0) == 4
    assert weighting.all_wrong(found, 0.0, 1.0) == 2


def test_the_ngram_model_comes_first(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path)
    with pytest.raises(MissingDataError, match=r"am_en\.ngram does not exist; make it with: python -m training ngram"):
        weighting.find(recipe)
