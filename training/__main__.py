"""Command line of the training: `python -m training STAGE`, or `all` for every stage in order."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from training.errors import TrainingError

if TYPE_CHECKING:
    from training.recipe import Recipe

# Each stage is imported when it runs, so that `--help` needs neither torch nor a synthesiser.
STAGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "data": ("training.dataset", "prepare"),
        "standard": ("training.trainer", "train_standard"),
        "enhanced": ("training.trainer", "train_enhanced"),
        "language": ("training.language", "train"),
        "ngram": ("training.ngram", "build"),
        "speakers": ("training.speakers", "train"),
        "weighting": ("training.weighting", "tune"),
        "confidence": ("training.confidence", "fit"),
        "dialogue": ("training.dialogue", "write"),
        "evaluation": ("training.recordings", "write"),
        "card": ("training.card", "write"),
    }
)


def parse(*, out: Path, minutes: float | None, smoke_test: bool) -> "Recipe":
    """Return the recipe of the options; `minutes` is split between the networks in the recipe's proportions."""
    from training.recipe import Recipe, smoke  # noqa: PLC0415 - it imports the networks, which need torch

    recipe = smoke(out) if smoke_test else Recipe(out=out)
    return recipe if minutes is None else recipe.with_minutes(minutes)


def run(stage: str, recipe: "Recipe") -> None:
    """Run one stage, or all in order, after a check that the programs of the last stages are installed."""
    if stage == "all":
        import_module("training.synthesis").require_all_programs()
    for name in STAGES if stage == "all" else (stage,):
        module, function = STAGES[name]
        action: Callable[[Recipe], None] = getattr(import_module(module), function)
        action(recipe)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("stage", type=click.Choice([*STAGES, "all"]))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("work/training"),
    show_default=True,
    help="Folder of data and logs.",
)
@click.option("--minutes", type=click.FloatRange(min=0.1), help="Total training time, in place of the recipe's.")
@click.option("--smoke", "smoke_test", is_flag=True, help="Run within minutes, as a test of every stage.")
def main(*, stage: str, out: Path, minutes: float | None, smoke_test: bool) -> None:
    """Train the reference weights and write the demonstration's recording, from synthetic speech."""
    try:
        run(stage, parse(out=out, minutes=minutes, smoke_test=smoke_test))
    except TrainingError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
