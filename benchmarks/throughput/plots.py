"""The plots of a measurement of throughput, as PNG files."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import drawing
from benchmarks.throughput import density
from benchmarks.throughput.results import Results

THROUGHPUT, SESSIONS = "throughput.png", "sessions.png"
_INCHES = (9.0, 4.2)
_OURS, _LIMIT, _PEER = "#2563eb", "#94a3b8", "#f59e0b"


def draw(results: Results, folder: Path, prefix: str = "") -> list[Path]:
    """Draw throughput and sessions, where they were measured; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [_throughput(results, folder / f"{prefix}{THROUGHPUT}")] if results.throughput else []
    return [*found, *([_sessions(results, folder / f"{prefix}{SESSIONS}")] if results.streams else [])]


def _throughput(results: Results, path: Path) -> Path:
    names = [f"{each.point}\n{each.kind.replace(' and ', chr(10) + 'and ')}" for each in results.throughput]
    places = np.arange(len(names))
    figure, axes = _figure()
    peers = {each.point: float(np.median(each.comparison.first)) for each in results.peers}
    series = (
        ("the networks alone (limit)", _LIMIT, [statistics.median(each.limit or [0.0]) for each in results.throughput]),
        ("transcribers and server", _OURS, [each.hours_an_hour for each in results.throughput]),
        ("sherpa-onnx", _PEER, [peers.pop(each.point, 0.0) for each in results.throughput]),
    )
    # A server that was running already is measured alone.
    shown = [each for each in series if any(each[2])]
    for number, (label, colour, values) in enumerate(shown):
        bars = axes.bar(places + 0.27 * (number - (len(shown) - 1) / 2), values, 0.27, label=label, color=colour)
        axes.bar_label(bars, [f"{value:.0f}" if value else "" for value in values], fontsize=8)
    axes.set_xticks(places, names, fontsize=8)
    axes.set(ylabel="hours of audio an hour", title=results.endpoint or results.machine["processor"])
    return _save(figure, axes, path)


def _sessions(results: Results, path: Path) -> Path:
    figure, axes = _figure()
    for (point, found), colour in zip(results.streams.items(), (_OURS, _PEER, _LIMIT), strict=False):
        streams = [each.streams for each in found]
        for kind, style in (("finals", "-"), ("partials", ":")):
            values = [float(np.quantile(getattr(each, kind), 0.95)) for each in found]
            axes.plot(streams, values, style, color=colour, marker="o", markersize=4, label=f"{point}, {kind}")
    axes.axhline(density.LIMIT_S, color="black", linewidth=0.8)
    axes.set(xlabel="streams at real speed", ylabel="seconds, 95th percentile")
    axes.set_title(results.endpoint or results.machine["processor"])
    axes.set_ylim(0, 4 * density.LIMIT_S)
    return _save(figure, axes, path)


def _figure() -> tuple[Any, Any]:
    found: tuple[Any, Any] = drawing.pyplot().subplots(figsize=_INCHES, layout="constrained")
    return found


def _save(figure: Any, axes: Any, path: Path) -> Path:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    drawing.save(figure, path)
    return path
