"""The plots of a proof as PNG files."""

from pathlib import Path
from typing import Any

from benchmarks import drawing

Values = dict[str, Any]
_INCHES = (9.0, 5.0)


def draw(values: Values, folder: Path) -> list[str]:
    """Draw what was measured; return the files' names. Raises ImportError where matplotlib is absent."""
    drawing.pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    made = [_latency(values, folder), _ratios(values, folder), _ceiling(values, folder), _floors(values, folder)]
    return [name for name in made if name]


def _latency(values: Values, folder: Path) -> str | None:
    lines = {}
    for name, engine in values["latency"].get("engines", {}).items():
        rows = engine.get("cases", ())
        batch = next((row["sizes"]["batch"] for row in rows if row["is_optimum"]), None)
        mine = [row for row in rows if row["audio_s"] and row["sizes"]["batch"] == batch]
        if len(mine) > 1:
            lines[f"{name}, batch {batch}"] = [(row["audio_s"] / batch, row["median_ms"]) for row in mine]
    return _plot(folder / "latency.png", "Latency of TensorRT engines", "seconds of audio in an item", "ms", lines)


def _ceiling(values: Values, folder: Path) -> str | None:
    lines = {}
    for point, found in values["ceiling"].items():
        for key, label in (("hours_an_hour", "stream"), ("hours_an_hour_graph", "CUDA graph")):
            rows = [(row["audio_s"], row[key]) for row in found.get("cases", ()) if row[key]]
            if rows:
                lines[f"{point}, {label}"] = rows
    title = "Ceiling: body, head and speaker network"
    return _plot(folder / "ceiling.png", title, "seconds of audio in a batch", "hours of audio an hour", lines)


def _floors(values: Values, folder: Path) -> str | None:
    rows = values["production"].get("floors", {}).get("cases", [])
    lines = {"measured over floor": [(row["operations"] / 1e9, row["times_floor"]) for row in rows]} if rows else {}
    return _plot(folder / "floor.png", "Body of production size", "10^9 operations", "times the floor", lines)


def _ratios(values: Values, folder: Path) -> str | None:
    ratios = values["latency"].get("ratios", {})
    if not ratios:
        return None
    figure, axes = drawing.pyplot().subplots(figsize=_INCHES, layout="constrained")
    for shift, way in ((-0.2, "eager"), (0.2, "compile")):
        places = [place + shift for place, _ in enumerate(ratios)]
        axes.bar(places, [each.get(way, {}).get("ratio", 0.0) for each in ratios.values()], width=0.4, label=way)
    axes.set_xticks(range(len(ratios)), list(ratios), rotation=60, ha="right", fontsize=8)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(title="How many times TensorRT is as fast as PyTorch", ylabel="ratio of medians")
    axes.legend()
    drawing.save(figure, folder / "ratios.png")
    return "ratios.png"


def _plot(
    path: Path, title: str, horizontal: str, vertical: str, lines: dict[str, list[tuple[float, float]]]
) -> str | None:
    if not lines:
        return None
    figure, axes = drawing.pyplot().subplots(figsize=_INCHES, layout="constrained")
    for name, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, label=name)
    axes.set(title=title, xlabel=horizontal, ylabel=vertical, xscale="log", yscale="log")
    axes.legend(fontsize=7)
    drawing.save(figure, path)
    return path.name
