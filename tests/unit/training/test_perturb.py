import random

import numpy as np
import pytest

from training import perturb
from training.perturb import Features

BANDS = 80


def _example(frames: int = 200) -> tuple[Features, np.ndarray]:  # type: ignore[type-arg]
    """Return features and labels that both contain the frame number."""
    numbers = np.arange(frames) % 250
    return np.repeat(numbers[:, None], BANDS, axis=1).astype(np.float32), numbers.astype(np.uint8)


@pytest.mark.parametrize("factor", [0.92, 1.0, 1.1])
def test_stretching_keeps_the_ends_and_has_the_wanted_length(factor: float) -> None:
    values, labels = _example()
    longer, moved = perturb.stretch(values, labels, factor)
    assert longer.shape == (round(200 * factor), BANDS)
    assert moved.shape == (round(200 * factor),)
    assert longer.dtype == np.float32
    assert (longer[0] == values[0]).all()
    assert (longer[-1] == values[-1]).all()


@pytest.mark.parametrize("factor", [0.92, 1.1])
def test_stretching_keeps_labels_aligned(factor: float) -> None:
    longer, moved = perturb.stretch(*_example(), factor)
    assert np.abs(longer[:, 0] - moved).max() <= 0.5 + 1e-3


def test_stretching_by_one_changes_nothing() -> None:
    values, labels = _example()
    longer, moved = perturb.stretch(values, labels, 1.0)
    assert np.allclose(longer, values)
    assert (moved == labels).all()


def test_stretches_a_single_frame() -> None:
    values, labels = _example(frames=1)
    assert perturb.stretch(values, labels, 0.4)[0].shape == (1, BANDS)


def test_warping_by_one_changes_nothing() -> None:
    assert (perturb.warping_matrix(BANDS, 1.0) == np.eye(BANDS)).all()


@pytest.mark.parametrize("step", sorted({*perturb.WARP_STEPS} - {0}))
def test_warped_band_is_a_mean_of_neighbours(step: int) -> None:
    """A column has the weights of a new band: at most two, with sum one, so that the level stays."""
    matrix = perturb.warping_matrix(BANDS, 1.0 + step / 100)
    assert matrix.shape == (BANDS, BANDS)
    assert (matrix >= 0).all()
    assert np.allclose(matrix.sum(axis=0), 1.0, atol=1e-6)
    assert ((matrix > 0).sum(axis=0) <= 2).all()
    used = np.flatnonzero(matrix.sum(axis=1))
    assert (np.diff(used) == 1).all()


@pytest.mark.parametrize("factor", [0.94, 1.06])
def test_warping_moves_a_band_by_its_factor(factor: float) -> None:
    # A linear ramp over the bands stays linear: band b has the value of b / factor.
    ramp = np.arange(BANDS, dtype=np.float32)
    warped = ramp @ perturb.warping_matrix(BANDS, factor)
    assert np.allclose(warped, np.minimum(ramp / factor, BANDS - 1.0), atol=1e-4)


def test_most_speech_is_unchanged() -> None:
    values, labels = _example()
    source = random.Random(0)
    perturbed = [perturb.perturb(values.astype(np.float16), labels, source)[0] for _ in range(400)]
    unchanged = sum(one.shape == values.shape and bool((one == values).all()) for one in perturbed) / len(perturbed)
    assert unchanged == pytest.approx(perturb.UNCHANGED_SHARE, abs=0.08)


def test_perturbed_speech_keeps_labels_and_about_its_length() -> None:
    values, labels = _example()
    source = random.Random(1)
    for _ in range(100):
        changed, numbers = perturb.perturb(values.astype(np.float16), labels, source)
        assert len(changed) == len(numbers)
        assert changed.dtype == np.float32
        assert 200 * perturb.STRETCH[0] - 1 <= len(changed) <= 200 * perturb.STRETCH[1] + 1


def test_level_changes_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perturb, "UNCHANGED_SHARE", 0.0)
    flat = np.zeros((50, BANDS), dtype=np.float16)
    source = random.Random(2)
    levels = [perturb.perturb(flat, np.zeros(50, np.uint8), source)[0] for _ in range(100)]
    # Log-mel features are natural logarithms of power: 6 dB are 1.38.
    assert all(np.ptp(level) < 1e-4 for level in levels)
    assert 1.0 < max(float(np.abs(level).max()) for level in levels) <= 1.382


@pytest.mark.parametrize("frames", [1, 3, 40, 299, 300, 1500])
def test_mask_stays_in_bounds_and_hides_a_part(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perturb, "MASKED_SHARE", 1.0)
    fill = np.arange(BANDS, dtype=np.float32) + 100.0
    source = random.Random(3)
    for _ in range(50):
        values = np.ones((frames, BANDS), dtype=np.float32)
        perturb.mask(values, fill, source)
        hidden = values == fill
        assert (hidden | (values == 1.0)).all()
        assert hidden.all(axis=0).sum() <= perturb.BANDS_MASKED
        assert hidden.all(axis=1).sum() <= (frames // perturb.FRAMES_PER_MASK + 1) * perturb.FRAMES_MASKED
        assert not hidden.all()


def test_masks_a_tenth() -> None:
    source, fill = random.Random(4), np.full(BANDS, 7.0, dtype=np.float32)
    touched = 0
    for _ in range(500):
        values = np.zeros((400, BANDS), dtype=np.float32)
        perturb.mask(values, fill, source)
        touched += bool(values.any())
    assert touched / 500 == pytest.approx(perturb.MASKED_SHARE, abs=0.04)
