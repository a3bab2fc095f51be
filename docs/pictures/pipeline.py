"""Draw docs/pictures/pipeline.png, the picture at the top of the README.

.venv/bin/python docs/pictures/pipeline.py
"""

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

TARGET = Path(__file__).with_suffix(".png")
INK, QUIET, PAPER = "#1b1f24", "#57606a", "#ffffff"
OFFLINE, ONLINE, FILES = "#dbeafe", "#dcfce7", "#f6f8fa"
# Left, bottom, width and height of a box, in units of the canvas: 16 wide, 6.6 high.
Box = tuple[float, float, float, float]


def box(axes: Axes, at: Box, title: str, text: str, colour: str) -> None:
    """Draw a box with a title and up to four lines of text."""
    left, bottom, width, height = at
    style = "round,pad=0,rounding_size=0.14"
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=style, facecolor=colour, edgecolor=INK))
    axes.text(left + width / 2, bottom + height - 0.32, title, ha="center", va="center", fontweight="bold", fontsize=12)
    axes.text(left + width / 2, bottom + (height - 0.5) / 2, text, ha="center", va="center", fontsize=9.5, color=INK)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow between two points."""
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    )


def draw() -> None:
    """Write the picture."""
    mpl.rcParams["font.family"] = "DejaVu Sans"
    figure = pyplot.figure(figsize=(12.8, 5.28), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 16)
    axes.set_ylim(0, 6.6)
    axes.axis("off")
    axes.text(0.3, 6.2, "Offline: on a build host", fontsize=11, color=QUIET, va="center")
    axes.text(0.3, 2.62, "Online: on the GPU host", fontsize=11, color=QUIET, va="center")
    top, height = 3.5, 2.3
    box(
        axes,
        (0.3, top, 2.4, height),
        "weights",
        "trained networks:\nencoder, CTC head,\ndecoder, language\nmodel, speakers",
        FILES,
    )
    box(
        axes,
        (3.4, top, 2.6, height),
        "export",
        "torch to ONNX,\nFP32 and FP16;\neach graph compared\nwith torch",
        OFFLINE,
    )
    box(axes, (6.7, top, 1.7, height), "ONNX", "one folder\na model", FILES)
    box(
        axes,
        (9.1, top, 2.6, height),
        "build",
        "TensorRT engines;\neach must pass the\naccuracy gate on\nreal speech",
        OFFLINE,
    )
    box(
        axes,
        (12.4, top, 3.3, height),
        "engine bundles",
        "sm75  T4      sm80  A100\nsm86  A10     sm89  L4\nsm90  H100     cpu\nwith manifest and signature",
        FILES,
    )
    low, flat = 0.35, 1.95
    box(
        axes,
        (12.4, low, 3.3, flat),
        "runtime",
        "detects the GPU, selects\nengines that fit, verifies\nthem, or refuses",
        ONLINE,
    )
    box(
        axes, (8.3, low, 3.3, flat), "Triton server", "batch and real time,\n11 models,\nports 8000, 8001, 8002", ONLINE
    )
    box(
        axes,
        (4.2, low, 3.3, flat),
        "transcriber",
        "search, words with times,\nspeakers; text, json-v2,\nsrt, vtt",
        ONLINE,
    )
    box(axes, (0.3, low, 3.1, flat), "audio", "recordings\nand live streams", FILES)
    middle, lower = top + height / 2, low + flat / 2
    for start, end in ((2.7, 3.4), (6.0, 6.7), (8.4, 9.1), (11.7, 12.4)):
        arrow(axes, (start, middle), (end, middle))
    arrow(axes, (14.05, top), (14.05, low + flat))
    arrow(axes, (12.4, lower), (11.6, lower))
    arrow(axes, (3.4, lower), (4.2, lower))
    arrow(axes, (7.5, lower + 0.12), (8.3, lower + 0.12))
    arrow(axes, (8.3, lower - 0.12), (7.5, lower - 0.12))
    # Without the version of matplotlib in it, the file changes only when the picture does.
    figure.savefig(TARGET, dpi=125, metadata={"Software": None})


if __name__ == "__main__":
    draw()
