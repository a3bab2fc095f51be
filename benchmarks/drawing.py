"""The plots of measurements as PNG files; matplotlib is imported only by those that draw."""

from pathlib import Path
from typing import Any

_DPI = 110


def pyplot() -> Any:
    """Return matplotlib's pyplot, which draws to files alone; raise ImportError where matplotlib is absent."""
    import matplotlib as mpl  # noqa: PLC0415 - the measurements do without it

    mpl.use("Agg")
    from matplotlib import pyplot as found  # noqa: PLC0415

    return found


def save(figure: Any, path: Path) -> None:
    """Write a figure and release it."""
    figure.savefig(path, dpi=_DPI)
    pyplot().close(figure)
