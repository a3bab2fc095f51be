"""The log of a run, and the figures that the model card is rendered from."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from rich.logging import RichHandler

from contract import files
from training.recipe import Recipe


def open_log(recipe: Recipe) -> logging.Logger:
    """Return the logger that writes to the terminal and to the recipe's log file."""
    logger = logging.getLogger("training")
    if not logger.handlers:
        recipe.log.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(recipe.log)
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(file)
        logger.addHandler(RichHandler(show_path=False))
        logger.setLevel(logging.INFO)
    return logger


def record(recipe: Recipe, stage: str, figures: Mapping[str, Any]) -> None:
    """Replace the figures of one stage."""
    known = read_figures(recipe)
    known[stage] = dict(figures)
    files.write(recipe.figures, json.dumps(known, indent=2, sort_keys=True) + "\n")


def read_figures(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the figures of all stages that have run."""
    return json.loads(recipe.figures.read_text(encoding="utf-8")) if recipe.figures.is_file() else {}
