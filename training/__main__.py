"""Command line of the recipe: `python -m training data|recogniser|spelling|speakers|dialogue|samples|card|all`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

import click

from training.errors import TrainingError
from training.recipe import Recipe, smoke

# Each stage is imported when it runs, so that `--help` needs neither torch nor a synthesiser.
STAGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "data": ("training.dataset", "prepare"),
        "recogniser": ("training.recogniser", "train"),
        "spelling": ("training.spelling", "train"),
        "speakers": ("training.speakers", "train"),
        "dialogue": ("training.dialogue", "write"),
        "samples": ("training.dialogue", "write_samples"),
        "card": ("training.card", "write"),
    }
)


def parse(*, out: Path, minutes: float | None, smoke_test: bool) -> Recipe:
    """Turn options into a recipe; `minutes` is shared out between the trainings as the recipe shares its own."""
    recipe = smoke(out) if smoke_test else Recipe(out=out)
    if minutes is None:
        return recipe
    factor = minutes / (recipe.recogniser_minutes + recipe.spelling_minutes + recipe.speakers_minutes)
    return replace(
        recipe,
        recogniser_minutes=recipe.recogniser_minutes * factor,
        spelling_minutes=recipe.spelling_minutes * factor,
        speakers_minutes=recipe.speakers_minutes * factor,
    )


def run(stage: str, recipe: Recipe) -> None:
    """Run one stage, or all of them in their order."""
    for name in STAGES if stage == "all" else (stage,):
        module, function = STAGES[name]
        action: Callable[[Recipe], None] = getattr(import_module(module), function)
        action(recipe)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("stage", type=click.Choice([*STAGES, "all"]))
@click.option("--out", type=click.Path(path_type=Path), default=Path("work/training"), show_default=True, help="Data.")
@click.option("--minutes", type=click.FloatRange(min=0.1), help="Training time of all networks. [default: 74]")
@click.option("--smoke", "smoke_test", is_flag=True, help="A minute that proves the path, not the weights.")
def main(*, stage: str, out: Path, minutes: float | None, smoke_test: bool) -> None:
    """Make the reference weights and the demonstration from synthetic speech."""
    try:
        run(stage, parse(out=out, minutes=minutes, smoke_test=smoke_test))
    except TrainingError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
