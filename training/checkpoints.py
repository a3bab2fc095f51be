"""Files of a training run: the checkpoint from which it resumes, and the weights that it saves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from export.checkpoints.weight_keys import with_current_keys
from training.errors import MissingDataError
from training.recipe import Point, Recipe


@dataclass(kw_only=True, slots=True)
class Progress:
    """The position of a run; `seconds` counts training time only, over all restarts."""

    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    audio_seconds: float = 0.0


def weight_path(recipe: Recipe, point: Point, family: str) -> Path:
    """Return the path of the weights of a model."""
    return recipe.weights / point.name / f"{family}.safetensors"


def checkpoint_path(recipe: Recipe, point: str) -> Path:
    """Return the path of the checkpoint of a point."""
    return recipe.out / f"recogniser-{point}.pt"


def save_checkpoint(recipe: Recipe, point: str, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a kill leaves the previous one."""
    path = checkpoint_path(recipe, point)
    torch.save(state, path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)


def read_checkpoint(recipe: Recipe, point: str) -> dict[str, Any]:
    """Read the last checkpoint of a point: "network", "average", "optimiser" and "progress".

    Raises MissingDataError where there is none.
    """
    path = checkpoint_path(recipe, point)
    if not path.is_file():
        raise MissingDataError(path, point)
    state: dict[str, Any] = torch.load(path, weights_only=False, map_location="cpu")
    return {**state, **{key: with_current_keys(state[key]) for key in ("network", "average")}}
