import dataclasses
import random
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from contract.catalogue import read_catalogue
from demo.scores import equal_error_rate
from training import __main__ as command_line
from training import card, dataset, speakers, synthesis
from training.dataset import Example
from training.errors import MissingDataError, MissingProgramError
from training.recipe import POINTS, Recipe, smoke
from transcriber.speakers import cluster


def _minutes(recipe: Recipe) -> list[float]:
    points = [(point.recogniser_minutes, point.speakers_minutes) for point in recipe.points]
    return [*(each for pair in points for each in pair), recipe.language_minutes]


def test_parse_splits_the_minutes() -> None:
    whole = Recipe(out=Path("x"))
    recipe = command_line.parse(out=Path("x"), minutes=8.0, smoke_test=False)
    assert recipe.minutes == pytest.approx(8.0)
    assert sum(_minutes(recipe)) == pytest.approx(8.0)
    shares = [part / 8.0 for part in _minutes(recipe)]
    assert shares == pytest.approx([part / whole.minutes for part in _minutes(whole)])


def test_with_minutes_changes_only_times() -> None:
    whole = Recipe(out=Path("x"))
    again = whole.with_minutes(1.0).with_minutes(whole.minutes)
    assert _minutes(again) == pytest.approx(_minutes(whole))
    short = whole.with_minutes(1.0)
    same = {field.name for field in dataclasses.fields(Recipe)} - {"points", "language_minutes"}
    assert all(getattr(short, name) == getattr(whole, name) for name in same)
    assert [point.body for point in short.points] == [point.body for point in whole.points]


def test_recipe_has_every_operating_point() -> None:
    assert tuple(point.name for point in POINTS) == read_catalogue().operating_points
    recipe = Recipe(out=Path("x"))
    assert [recipe.point(name) for name in read_catalogue().operating_points] == list(POINTS)


def test_point_starts_from_a_smaller_one_that_is_trained_before() -> None:
    names = [point.name for point in POINTS]
    for index, point in enumerate(POINTS):
        if point.starts_from:
            smaller = POINTS[names[:index].index(point.starts_from)]
            assert smaller.body.layers < point.body.layers
            # The first of the new blocks are conditioned on the output of the smaller point.
            assert {*smaller.body.conditioned, smaller.body.layers} < set(point.body.conditioned)
            same = dataclasses.replace(smaller.body, layers=point.body.layers, conditioned=point.body.conditioned)
            assert same == point.body


def test_smoke_run_writes_into_its_own_folder_only() -> None:
    recipe, out = smoke(Path("x")), Path("x")
    values = [getattr(recipe, name) for name in dir(recipe) if not name.startswith("_")]
    paths = [value for value in values if isinstance(value, Path)]
    assert len(paths) >= 10
    assert all(path == out or out in path.parents for path in paths)


def test_recipe_takes_at_most_200_minutes() -> None:
    assert Recipe(out=Path("x")).minutes <= 200


def test_run_calls_every_stage_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Module:
        def __getattr__(self, name: str) -> object:
            return lambda *_: done.append(name)

    monkeypatch.setattr(command_line, "import_module", lambda _: Module())
    command_line.run("all", Recipe(out=Path("x")))
    assert done == ["require_all_programs", *(function for _, function in command_line.STAGES.values())]


def test_every_stage_exists() -> None:
    for module, function in command_line.STAGES.values():
        assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("program", [*synthesis.PROGRAMS, *synthesis.EVALUATION_PROGRAMS])
def test_reports_missing_program_first(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "which", lambda name: None if name == program else name)
    with pytest.raises(MissingProgramError, match=f"^{program} is not installed"):
        command_line.run("all", smoke(tmp_path))
    assert not list(tmp_path.iterdir())


def test_reports_missing_festival_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """festival itself exits with 0 when it does not know a voice, and writes nothing."""
    program = tmp_path / "festival"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(synthesis, "which", lambda name: name)
    with pytest.raises(MissingProgramError, match=r"^festvox-kdlpc16k is not installed"):
        synthesis.require_all_programs()


def test_missing_input_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(command_line.main, ["speakers", "--smoke", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == f"Error: {tmp_path}/shards does not exist; make it with: python -m training data\n"


def test_help_lists_every_stage() -> None:
    result = CliRunner().invoke(command_line.main, ["--help"])
    assert result.exit_code == 0
    shown = "".join(result.output.split())
    assert "{" + "|".join([*command_line.STAGES, "all"]) + "}" in shown


def test_batches_have_every_example_once_within_the_frame_limit() -> None:
    source = random.Random(0)
    lengths = [source.randint(50, 1500) for _ in range(300)]
    batches = dataset.buckets(lengths, 6000, source)
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    assert all(len(batch) * max(lengths[index] for index in batch) <= 6000 for batch in batches)


def test_pads_features_with_zeros() -> None:
    batch, lengths = dataset.pad([np.ones((3, 80), np.float16), np.ones((5, 80), np.float16)])
    assert batch.shape == (2, 5, 80)
    assert lengths.tolist() == [3, 5]
    assert batch[0, 3:].sum() == 0


def test_margin_increases_the_loss() -> None:
    torch.manual_seed(0)
    margin = speakers.Margin(16, 5)
    embeddings = torch.nn.functional.normalize(torch.randn(8, 16), dim=-1)
    numbers = torch.arange(8) % 5
    assert margin(embeddings, numbers, 0.2) > margin(embeddings, numbers, 0.0)


def test_equal_error_of_separable_and_of_random_similarities() -> None:
    source = np.random.default_rng(0)
    apart = equal_error_rate(np.linspace(0.6, 0.9, 50, dtype=np.float32), np.linspace(0, 0.4, 50, dtype=np.float32))
    mixed = equal_error_rate(source.random(4000, np.float32), source.random(4000, np.float32))
    assert apart == pytest.approx(0.0, abs=0.02)
    assert mixed == pytest.approx(0.5, abs=0.03)


def test_clusters_of_two_clear_voices() -> None:
    angles = np.asarray([0.0, 0.1, 1.5, 1.6, 0.05])
    embeddings = np.stack((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)
    clusters = cluster(embeddings, 0.5)
    assert speakers.clustering_accuracy(["a", "a", "b", "b", "a"], clusters) == 1.0
    assert len(set(cluster(embeddings, -0.5).tolist())) == 1


def test_crops_have_the_wanted_length_or_the_whole_example() -> None:
    features = np.zeros((300, 80), np.float16)
    example = Example(part="train", text="", speaker="x", features=features, labels=np.zeros(300, np.uint8))
    source = random.Random(0)
    assert {len(speakers.crop(example, frames, source)) for frames in (100, 300, 400)} == {100, 300}


def test_card_needs_every_stage(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="make it with: python -m training standard"):
        card.write(smoke(tmp_path))
    assert set(card.STAGES.values()) <= set(command_line.STAGES)
