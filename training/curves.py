"""Training curves: losses over minutes, appended to a file as they come, and their plot."""

import json
from collections import defaultdict
from collections.abc import Mapping
from operator import itemgetter

from matplotlib.figure import Figure

from training.recipe import Recipe

FEW_POINTS = 30


def add(recipe: Recipe, stage: str, minutes: float, values: Mapping[str, float]) -> None:
    """Append a point to the curves of a stage."""
    line = json.dumps({"stage": stage, "minutes": round(minutes, 2), **{key: round(x, 4) for key, x in values.items()}})
    with recipe.curves.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read(recipe: Recipe) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return the curves: stage, name of the value, points of (minutes, value); empty before the first point is added.

    A killed run resumes from its checkpoint: points after the checkpoint are dropped here as well.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    lines = recipe.curves.read_text(encoding="utf-8").splitlines() if recipe.curves.is_file() else []
    for line in lines:
        entry = json.loads(line)
        stage, minutes = entry.pop("stage"), entry.pop("minutes")
        for points in found[stage].values():
            while points and points[-1][0] > minutes:
                points.pop()
        for name, value in entry.items():
            found[stage][name].append((minutes, value))
    return found


def plot(recipe: Recipe) -> None:
    """Plot all curves, one panel for each stage, next to the file that stores them."""
    found = read(recipe)
    if not found:
        return
    figure = Figure(figsize=(9.0, 2.6 * len(found)), layout="constrained")
    for panel, (stage, values) in zip(figure.subplots(len(found), squeeze=False)[:, 0], found.items(), strict=True):
        for name, points in filter(itemgetter(1), values.items()):
            minutes, heights = zip(*points, strict=True)
            panel.plot(minutes, heights, linewidth=0.8, marker="." if len(points) <= FEW_POINTS else None, label=name)
        panel.set_title(stage, loc="left")
        panel.set_xlabel("minutes")
        panel.set_ylim(bottom=0.0)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.savefig(recipe.curves.with_suffix(".png"), dpi=110)
