"""The calibration of confidences: it rises, stays within 0 and 1, and has an inverse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.client import Calibration
from transcriber.confidence import apply, calibrated, invert
from transcriber.transcript import Word

CALIBRATIONS = st.builds(Calibration, slope=st.floats(0.2, 3.0), offset=st.floats(-3.0, 3.0))


# A file of networks may state any of these.
EXTREME = st.builds(Calibration, slope=st.floats(1e-3, 1e4), offset=st.floats(-1e6, 1e6))


@given(calibration=CALIBRATIONS | EXTREME, both=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)))
def test_rises_within_its_bounds(calibration: Calibration, both: tuple[float, float]) -> None:
    lower, upper = (apply(each, calibration) for each in sorted(both))
    assert 0.0 <= lower <= upper <= 1.0


@given(calibration=CALIBRATIONS, probability=st.floats(0.01, 0.99))
def test_inverse_is_the_probability(calibration: Calibration, probability: float) -> None:
    confidence = apply(probability, calibration)
    if 1e-5 < confidence < 1 - 1e-5:
        assert invert(confidence, calibration) == pytest.approx(probability, rel=1e-6)


def test_is_platt_scaling() -> None:
    # Log-odds of 0.8 are ln 4; 2 ln 4 - ln 8 is ln 2, the log-odds of two thirds.
    found = apply(0.8, Calibration(slope=2.0, offset=-2.0794415416798357))
    assert found == pytest.approx(2 / 3)


def test_without_calibration_nothing_changes() -> None:
    words = [Word(content="a", start_s=0.0, end_s=1.0, confidence=1.0)]
    assert calibrated(words, None) == words
    assert invert(0.3, None) == 0.3
