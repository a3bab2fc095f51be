"""The fit of the calibration, and what counts as a right word."""

from pathlib import Path

import numpy as np
import pytest

from contract.client import Calibration
from tests.unit.training import tiny
from training import confidence
from training.errors import MissingDataError
from transcriber.confidence import apply


def test_finds_the_calibration_of_a_sample() -> None:
    source, made = np.random.default_rng(3), Calibration(slope=0.6, offset=1.5)
    probabilities = source.uniform(0.01, 0.999, 20_000)
    right = np.array([source.random() < apply(each, made) for each in probabilities], dtype=np.float64)
    found = confidence.fit_calibration(probabilities, right)
    assert (found.slope, found.offset) == pytest.approx((0.6, 1.5), abs=0.1)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_is_finite_when_all_words_are_alike(share: float) -> None:
    found = confidence.fit_calibration(np.linspace(0.1, 0.9, 50), np.full(50, share))
    assert found.slope > 0
    assert abs(apply(0.5, found) - share) < 0.1


@pytest.mark.parametrize(
    ("reference", "hypothesis", "right"),
    [
        ("we will meet", "we will meet", [True, True, True]),
        ("we will meet", "we well meet", [True, False, True]),
        ("we will meet", "we will all meet", [True, True, False, True]),
        ("we will meet", "we meet", [True, True]),
        ("we will meet", "", []),
        ("", "we", [False]),
    ],
)
def test_right_words(reference: str, hypothesis: str, right: list[bool]) -> None:
    assert confidence.right_words(reference, hypothesis.split()) == right


def test_needs_the_weights_of_the_search(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path)
    tiny.write_data(recipe)
    with pytest.raises(MissingDataError, match="make it with: python -m training weighting"):
        confidence.fit(recipe)
