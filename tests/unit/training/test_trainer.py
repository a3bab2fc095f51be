"""The trainer on networks of a few thousand parameters and on noise: the mechanics of training, not its results."""

import dataclasses
import json
import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.multiprocessing.spawn import spawn

from export.checkpoints import reference
from export.networks.reserved_tokens import BOUNDARY
from tests.unit.training import tiny
from training import batch, corpus, curves, dataset, evaluation, language, reporting, speakers, tokenizer, trainer
from training.batch import Batch, make_batch
from training.checkpoints import read_checkpoint, weight_path
from training.dataset import Example
from training.errors import MissingDataError
from training.recipe import Recipe
from training.tokenizer import Tokenizer
from training.trainer import Trainer

SECONDS = 1.0


def _share(rank: int, store: Path, found: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    weights = [torch.nn.Parameter(torch.tensor([2.0, 4.0]) * rank), torch.nn.Parameter(torch.tensor([[8.0]]) * rank)]
    trainer.average_weights(weights, steps=1 + 2 * rank)
    found[rank] = [weight.tolist() for weight in weights]
    torch.distributed.destroy_process_group()


def test_processes_average_weights_by_steps(tmp_path: Path) -> None:
    """One step at zero and three at another value: three quarters of that value."""
    with multiprocessing.Manager() as manager:
        found = manager.dict()
        spawn(_share, args=(tmp_path / "store", found), nprocs=2)  # type: ignore[no-untyped-call]
        assert dict(found) == {rank: [[1.5, 3.0], [[6.0]]] for rank in range(2)}


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    for point in Recipe(out=Path("x")).points:
        peak = point.peak_learning_rate
        assert trainer.learning_rate(point, 0, 0.0) == pytest.approx(peak / point.warm_up_steps)
        assert trainer.learning_rate(point, point.warm_up_steps - 1, 0.0) == pytest.approx(peak)
        assert trainer.learning_rate(point, 5000, 0.5) == pytest.approx(peak / 2)
        assert trainer.learning_rate(point, 5000, 1.0) == trainer.learning_rate(point, 5000, 1.2) == 0.0
        rates = [trainer.learning_rate(point, 5000, share / 100) for share in range(101)]
        assert rates == sorted(rates, reverse=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Return a tiny recipe whose standard point is trained."""
    recipe = tiny.recipe(tmp_path_factory.mktemp("trained"), SECONDS)
    tiny.write_data(recipe)
    _train(recipe, "standard")
    return recipe


def _train(recipe: Recipe, name: str) -> None:
    # Like `trainer.train`, but in this process.
    data = dataset.load(recipe)
    if not recipe.tokenizer.is_file():
        tokenizer.train((example.text for example in data.examples), recipe.tokenizer, recipe.vocabulary)
    store = recipe.out / "rendezvous"
    store.unlink(missing_ok=True)
    trainer._train_in_process(0, recipe, recipe.point(name), store.resolve(), 1)
    evaluation.evaluate(recipe, recipe.point(name))


def test_training_saves_weights_and_figures(trained: Recipe) -> None:
    point = trained.point("standard")
    for family, network in (("body", "ConformerEncoder"), ("am_en", "CtcHead"), ("decoder", "Decoder")):
        loaded, parameters = reference.load(weight_path(trained, point, family))
        assert type(loaded).__name__ == network
        assert (family == "am_en") == ("tokens" in parameters)
    assert json.loads(parameters.get("tokens", "[]")) == []
    figures = reporting.read_figures(trained)["recogniser_standard"]
    assert figures["steps"] > 3
    assert figures["utterances"] == 6 * tiny.SPEAKERS
    assert figures["speakers"] == tiny.SPEAKERS
    rates = {f"wer_{part}" for part in ("grammar", "prose", "voices", "noisy", "grammar_640_ms", "grammar_320_ms")}
    assert rates == {name for name in figures if name.startswith("wer_")}


def test_training_adds_curves_and_log_lines(trained: Recipe) -> None:
    assert "word error rate" in curves.read(trained)["standard"]
    assert "standard: word error rate on" in trained.log.read_text()


def test_stopped_run_resumes(tmp_path: Path) -> None:
    """The second run has twice the time budget of the first, and takes the remaining half."""
    recipe = tiny.recipe(tmp_path, SECONDS)
    tiny.write_data(recipe)
    _train(recipe, "standard")
    first = read_checkpoint(recipe, "standard")["progress"]
    assert SECONDS <= first.seconds < 2 * SECONDS
    longer = recipe.with_minutes(2 * recipe.minutes)
    resumed = Trainer(longer, longer.point("standard"), 0, 1)
    assert resumed.progress == first
    assert _steps_of(resumed) == {first.step}
    _train(longer, "standard")
    second = read_checkpoint(longer, "standard")["progress"]
    assert second.step > first.step
    assert second.audio_seconds > first.audio_seconds
    assert 2 * SECONDS <= second.seconds < 2 * SECONDS + first.seconds


def _steps_of(made: Trainer) -> set[int]:
    states: list[dict[str, Any]] = list(made.optimiser.state_dict()["state"].values())
    return {int(state["step"]) for state in states}


def test_finished_run_does_nothing(trained: Recipe) -> None:
    before = read_checkpoint(trained, "standard")["progress"]
    began = time.monotonic()
    _train(trained, "standard")
    assert read_checkpoint(trained, "standard")["progress"] == before
    assert time.monotonic() - began < 60


def test_killed_run_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is interrupted after some steps can resume."""
    recipe = dataclasses.replace(tiny.recipe(tmp_path, 60.0), checkpoint_seconds=0.0)
    tiny.write_data(recipe)
    steps: list[int] = []
    step = Trainer._step

    def dying(self: Trainer, batch: Batch, progress: float) -> dict[str, float]:
        steps.append(self.progress.step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(self, batch, progress)

    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        _train(recipe, "standard")
    torch.distributed.destroy_process_group()
    state = read_checkpoint(recipe, "standard")
    assert steps == [0, 1, 2, 3]
    assert state["progress"].step == 3
    assert state["progress"].seconds > 0.0
    assert not list(recipe.out.glob("*.partial"))


def test_larger_point_needs_checkpoint_of_smaller_one(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path, SECONDS)
    tiny.write_data(recipe)
    tokenizer.train(
        (corpus.grammar_sentence(random.Random(seed)).text for seed in range(50)), recipe.tokenizer, tiny.VOCABULARY
    )
    with pytest.raises(MissingDataError, match=r"recogniser-standard\.pt does not exist; make it with: python -m"):
        Trainer(recipe, recipe.point("enhanced"), 0, 1)


def test_larger_point_starts_from_averaged_weights_of_smaller_one(trained: Recipe) -> None:
    made = Trainer(trained, trained.point("enhanced"), 0, 1)
    average = read_checkpoint(trained, "standard")["average"]
    own = made.network.state_dict()
    kept = {name: tensor for name, tensor in average.items() if not name.startswith("phonemes.")}
    assert set(kept) < set(own)
    assert all(torch.equal(own[name], tensor) for name, tensor in kept.items() if ".blocks.0.norm." not in name)
    assert torch.equal(own["inner_decoder.out.weight"], average["decoder.out.weight"])
    assert torch.equal(own["body.blocks.1.norm.weight"], average["body.blocks.0.norm.weight"])
    assert torch.equal(made.average["body.blocks.1.after.2.weight"], torch.zeros(16, 16))


def test_both_points_train_from_data_to_figures(trained: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speakers, "DIALOGUES", 4)
    monkeypatch.setattr(speakers, "BATCH_SIZE", 8)
    monkeypatch.setattr(language, "HELD_OUT_TEXTS", 4)
    monkeypatch.setattr(language, "REPORT_STEPS", 1)
    _train(trained, "enhanced")
    _assert_resumes_without_smaller_point(trained, monkeypatch)
    language.train(trained)
    speakers.train(trained)
    families = {
        "standard": ["am_en", "body", "decoder", "diar"],
        "enhanced": ["am_en", "body", "decoder", "diar", "lm"],
    }
    for name, wanted in families.items():
        assert sorted(path.stem for path in (trained.weights / name).iterdir()) == wanted
        for path in (trained.weights / name).iterdir():
            network, _ = reference.load(path)
            assert all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())
    figures = reporting.read_figures(trained)
    stages = {f"{stage}_{name}" for stage in ("recogniser", "speakers") for name in families}
    assert set(figures) == {*stages, "language"}
    assert figures["language"]["steps"] > 0
    assert 1.0 < figures["language"]["perplexity_grammar"] < 10 * tiny.VOCABULARY
    with safe_open(trained.weights / "enhanced" / "diar.safetensors", framework="np") as file:
        assert "same_speaker_similarity" in file.metadata()["parameters"]
    assert {"standard", "enhanced", "language"} <= set(curves.read(trained))
    assert (trained.out / "curves.png").is_file()


def _assert_resumes_without_smaller_point(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    state = read_checkpoint(recipe, "enhanced")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "start_from_smaller_point", lambda *_: pytest.fail("started again"))
        made = Trainer(recipe, recipe.point("enhanced"), 0, 1)
    assert made.progress == state["progress"]
    assert all(torch.equal(tensor, state["average"][name]) for name, tensor in made.average.items())


def test_batch_has_tokens_and_phonemes(trained: Recipe) -> None:
    frames = np.arange(43)
    example = Example(
        part="train",
        text="we meet",
        speaker="x",
        features=np.repeat(frames[:, None], 80, axis=1).astype(np.float16),
        labels=frames.astype(np.uint8),
    )
    shorter = dataclasses.replace(example, text="no", features=example.features[:20], labels=np.zeros(20, np.uint8))
    pieces = Tokenizer(trained.tokenizer)
    made = make_batch([example, shorter], pieces)
    assert (made.chunk, made.left) == (None, None)
    assert made.features.shape == (2, 43, 80)
    assert made.lengths.tolist() == [43, 20]
    # 43 feature frames make 10 encoder frames, centred on the feature frames 3, 7, 11 ...
    assert made.labels[0].tolist() == [3, 7, 11, 15, 19, 23, 27, 31, 35, 39]
    # Number 0 is an unknown phoneme; like padding, it has no target.
    assert made.labels[1].tolist() == [batch.IGNORED] * 10
    assert pieces.decode(made.tokens[0, : made.token_lengths[0]].tolist()) == "we meet"
    assert set(made.tokens[1, made.token_lengths[1] :].tolist()) <= {BOUNDARY}


def test_some_batches_have_limited_context(trained: Recipe) -> None:
    data, pieces = dataset.load(trained), Tokenizer(trained.tokenizer)
    source, fill = random.Random(0), torch.zeros(80)
    batches = [make_batch(data.examples[:1], pieces, source, fill) for _ in range(300)]
    seen = [(one.chunk, one.left) for one in batches if one.chunk is not None]
    assert 1.0 - len(seen) / len(batches) == pytest.approx(batch.FULL_CONTEXT_SHARE, abs=0.08)
    assert {chunk for chunk, _ in seen} == set(batch.CHUNKS)
    assert {left for _, left in seen} == set(batch.LEFT_CONTEXTS)
    assert all(one.left is None for one in batches if one.chunk is None)
    assert batches[0].to(torch.device("cpu")).chunk == batches[0].chunk
