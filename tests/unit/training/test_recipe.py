import random
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from training import __main__ as command_line
from training import card, dataset, recogniser, scores, speakers, tokenizer
from training.dataset import Example
from training.errors import MissingDataError
from training.recipe import Recipe, smoke


def test_parse_shares_the_minutes_out() -> None:
    whole = Recipe(out=Path("x"))
    recipe = command_line.parse(out=Path("x"), minutes=8.0, smoke_test=False)
    minutes = (recipe.recogniser_minutes, recipe.spelling_minutes, recipe.speakers_minutes)
    assert sum(minutes) == pytest.approx(8.0)
    assert minutes[0] / minutes[1] == pytest.approx(whole.recogniser_minutes / whole.spelling_minutes)


def test_a_smoke_run_never_touches_the_reference_weights() -> None:
    assert smoke(Path("x")).weights == Path("x/weights")


def test_the_whole_recipe_fits_into_its_time() -> None:
    recipe = Recipe(out=Path("x"))
    assert recipe.recogniser_minutes + recipe.spelling_minutes + recipe.speakers_minutes <= 80


def test_run_does_every_stage_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Module:
        def __getattr__(self, name: str) -> object:
            return lambda recipe: done.append(name)

    monkeypatch.setattr(command_line, "import_module", lambda _: Module())
    command_line.run("all", Recipe(out=Path("x")))
    assert done == ["prepare", "train", "train", "train", "write", "write_samples", "write"]


def test_a_stage_without_its_input_says_which_stage_makes_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(command_line.main, ["speakers", "--smoke", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == f"Error: {tmp_path}/shards does not exist; make it with: python -m training data\n"


def test_help_needs_nothing() -> None:
    result = CliRunner().invoke(command_line.main, ["--help"])
    assert result.exit_code == 0
    assert "data|recogniser|spelling|speakers|dialogue|samples|card|all" in result.output


def test_batches_hold_every_example_once_and_no_more_than_their_frames() -> None:
    source = random.Random(0)
    lengths = [source.randint(50, 1500) for _ in range(300)]
    batches = dataset.buckets(lengths, 6000, source)
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    assert all(len(batch) * max(lengths[index] for index in batch) <= 6000 for batch in batches)


def test_padding_keeps_what_is_said() -> None:
    batch, lengths = dataset.padded([np.ones((3, 80), np.float16), np.ones((5, 80), np.float16)])
    assert batch.shape == (2, 5, 80)
    assert lengths.tolist() == [3, 5]
    assert batch[0, 3:].sum() == 0


@pytest.mark.parametrize(("frames", "tokens"), [([0, 5, 5, 0, 5, 7], [5, 5, 7]), ([0, 0], []), ([9, 9, 9], [9])])
def test_collapse(frames: list[int], tokens: list[int]) -> None:
    assert tokenizer.collapse(frames) == tokens


def test_word_error_rate_counts_words_of_all_texts_together() -> None:
    assert scores.word_error_rate(["a b c", "d"], ["a x c", "d"]) == 0.25


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    recipe = Recipe(out=Path("x"))
    assert recogniser.learning_rate(recipe, 0, 0.0) == pytest.approx(recipe.peak_learning_rate / recipe.warm_up_steps)
    assert recogniser.learning_rate(recipe, 5000, 0.5) == pytest.approx(recipe.peak_learning_rate / 2)
    assert recogniser.learning_rate(recipe, 5000, 1.0) == pytest.approx(0.0)


def test_masks_hide_a_part_behind_the_mean() -> None:
    features = torch.ones(4, 300, 80)
    recogniser.mask_features(features, torch.full((80,), 7.0), random.Random(1))
    hidden = (features == 7.0).float().mean()
    assert 0.0 < hidden < 0.5
    assert bool(((features == 7.0) | (features == 1.0)).all())


def test_margin_makes_the_right_speaker_harder() -> None:
    torch.manual_seed(0)
    margin = speakers.Margin(16, 5)
    embeddings = torch.nn.functional.normalize(torch.randn(8, 16), dim=-1)
    numbers = torch.arange(8) % 5
    assert margin(embeddings, numbers, 0.2) > margin(embeddings, numbers, 0.0)


def test_equal_error_of_separable_and_of_random_similarities() -> None:
    source = np.random.default_rng(0)
    apart = speakers.error_where_equal(
        np.linspace(0.6, 0.9, 50, dtype=np.float32), np.linspace(0, 0.4, 50, dtype=np.float32)
    )
    mixed = speakers.error_where_equal(source.random(4000, np.float32), source.random(4000, np.float32))
    assert apart == pytest.approx(0.0, abs=0.02)
    assert mixed == pytest.approx(0.5, abs=0.03)


def test_clusters_of_two_clear_voices() -> None:
    angles = np.asarray([0.0, 0.1, 1.5, 1.6, 0.05])
    embeddings = np.stack((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)
    clusters = speakers.cluster(embeddings, 0.5)
    assert speakers.clustering_accuracy(["a", "a", "b", "b", "a"], clusters) == 1.0
    assert len(set(speakers.cluster(embeddings, -0.5).tolist())) == 1


def test_crops_have_the_wanted_length_or_all_there_is() -> None:
    features = np.zeros((300, 80), np.float16)
    example = Example(part="train", text="", speaker="x", features=features, labels=np.zeros(300, np.uint8))
    source = random.Random(0)
    assert {len(speakers.crop(example, frames, source)) for frames in (100, 300, 400)} == {100, 300}


def test_the_card_needs_every_stage(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="make it with: python -m training recogniser"):
        card.write(smoke(tmp_path))
