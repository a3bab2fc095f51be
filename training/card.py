"""The model card, drawn from the figures that the stages recorded, so that the two cannot drift apart."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import torch

from training import reporting, voices
from training.errors import MissingDataError
from training.recipe import Recipe

TEMPLATE_PATH = Path(__file__).with_name("model_card.md")
STAGES = ("recogniser", "spelling", "speakers", "dialogue")


def write(recipe: Recipe) -> None:
    """Write MODEL_CARD.md beside the folder of the weights. Raises MissingDataError before every stage has run."""
    figures = reporting.read_figures(recipe)
    missing = [stage for stage in STAGES if stage not in figures]
    if missing:
        raise MissingDataError(f"the figures of {missing[0]} in {recipe.figures}", missing[0])
    if "machine" not in figures:
        reporting.record(recipe, "machine", machine())
        figures = reporting.read_figures(recipe)
    (recipe.weights.parent / "MODEL_CARD.md").write_text(render(recipe, figures), encoding="utf-8")


def render(recipe: Recipe, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Fill the card's template with figures and with what the recipe says."""
    values: dict[str, Any] = {
        f"{stage}_{name}": _text(name, each) for stage in figures for name, each in figures[stage].items()
    }
    values |= {
        "seed": recipe.seed,
        "variants": len(voices.VARIANTS),
        "accents": len(voices.ACCENTS),
        "held_out_variants": len(voices.HELD_OUT_VARIANTS),
        "evaluation_utterances": recipe.evaluation_utterances,
        "batch_seconds": recipe.batch_frames * recipe.processes // 100,
    }
    return Template(TEMPLATE_PATH.read_text(encoding="utf-8")).substitute(values)


def machine() -> dict[str, Any]:
    """Say on what this process runs."""
    return {"processor": _processor(), "cores": os.cpu_count(), "torch": torch.__version__.split("+")[0]}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _text(name: str, value: Any) -> str:
    if name.startswith(("wer_", "equal_error", "clustering", "right", "windows_right")):
        return f"{100 * value:.1f} %"
    return str(value)
