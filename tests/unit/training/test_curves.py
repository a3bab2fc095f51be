from pathlib import Path

import pytest

from training import curves
from training.recipe import Recipe


def _add(recipe: Recipe, stage: str, *points: tuple[float, float]) -> None:
    for minutes, loss in points:
        curves.add(recipe, stage, minutes, {"loss": loss})


def test_reads_added_points(tmp_path: Path) -> None:
    recipe = Recipe(out=tmp_path)
    curves.add(recipe, "standard", 1.0, {"ctc": 3.14159, "decoder": 2.0})
    curves.add(recipe, "standard", 2.0, {"ctc": 1.0})
    _add(recipe, "language", (0.5, 5.0))
    assert curves.read(recipe) == {
        "standard": {"ctc": [(1.0, 3.1416), (2.0, 1.0)], "decoder": [(1.0, 2.0)]},
        "language": {"loss": [(0.5, 5.0)]},
    }


def test_drops_points_after_the_checkpoint_of_a_killed_run(tmp_path: Path) -> None:
    recipe = Recipe(out=tmp_path)
    _add(recipe, "standard", (1.0, 4.0), (2.0, 3.0), (3.0, 2.5))
    _add(recipe, "language", (5.0, 1.0))
    curves.add(recipe, "standard", 2.9, {"word error rate": 0.5})
    _add(recipe, "standard", (2.5, 2.8))
    assert curves.read(recipe) == {
        "standard": {"loss": [(1.0, 4.0), (2.0, 3.0), (2.5, 2.8)], "word error rate": []},
        "language": {"loss": [(5.0, 1.0)]},
    }


@pytest.mark.parametrize("points", [1, 100])
def test_plots_png(tmp_path: Path, points: int) -> None:
    recipe = Recipe(out=tmp_path)
    _add(recipe, "standard", *((float(minute), 1.0 / (minute + 1)) for minute in range(points)))
    _add(recipe, "enhanced", (1.0, 2.0))
    curves.plot(recipe)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_plots_nothing_without_points(tmp_path: Path) -> None:
    curves.plot(Recipe(out=tmp_path))
    assert not list(tmp_path.iterdir())
