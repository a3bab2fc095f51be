"""The trainer on networks of a few thousand numbers and on noise: that it goes on, not what it learns."""

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
from tests.unit.training import tiny
from training import corpus, curves, dataset, language, recogniser, reporting, scores, speakers, tokenizer
from training.dataset import Example
from training.errors import MissingDataError
from training.recipe import Recipe
from training.recogniser import Recogniser
from training.tokenizer import BOUNDARY, Tokenizer

SECONDS = 1.0
FEATURES, LENGTHS = torch.randn(2, 131, 80), torch.tensor([131, 90])


def _network(recipe: Recipe, name: str) -> Recogniser:
    return Recogniser(recipe.point(name), tiny.VOCABULARY, 4).eval()


def _begun(tmp_path: Path) -> tuple[Recogniser, Recogniser]:
    torch.manual_seed(5)
    recipe = tiny.recipe(tmp_path)
    small, large = recipe.points
    large = dataclasses.replace(large, body=dataclasses.replace(large.body, layers=5))
    networks = [Recogniser(small, tiny.VOCABULARY, 4).eval(), Recogniser(large, tiny.VOCABULARY, 0, small).eval()]
    with torch.no_grad():
        # A training moves the gains of norms far from one, and their shifts from zero.
        for name, parameter in networks[0].named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    recogniser.begin_with(networks[1], networks[0].state_dict())
    return networks[0], networks[1]


def test_a_body_begins_with_the_answers_of_the_one_it_begins_with(tmp_path: Path) -> None:
    small, large = _begun(tmp_path)
    with torch.inference_mode():
        ours, _ = large.body(FEATURES, LENGTHS)
        theirs, _ = small.body(FEATURES, LENGTHS)
    # A norm after a norm divides by the root of 1 + 1e-5.
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_a_decoder_begins_with_the_answers_of_the_one_it_begins_with(tmp_path: Path) -> None:
    small, large = _begun(tmp_path)
    tokens = torch.randint(3, tiny.VOCABULARY, (2, 7))
    heard, lengths = torch.randn(2, 30, 16), torch.tensor([30, 20])
    with torch.inference_mode():
        assert torch.equal(
            large.decoder.log_probs(heard, lengths, tokens), small.decoder.log_probs(heard, lengths, tokens)
        )


def test_the_point_within_begins_with_the_answers_of_the_one_it_is(tmp_path: Path) -> None:
    small, large = _begun(tmp_path)
    _, body, acoustic, decoder = large.networks()["standard"]
    tokens = torch.randint(3, tiny.VOCABULARY, (2, 7))
    with torch.inference_mode():
        heard, lengths = small.body(FEATURES, LENGTHS)
        within, _ = body.eval()(FEATURES, LENGTHS)
        pairs = (
            (acoustic.log_probs(within), small.acoustic.log_probs(heard)),
            (decoder.log_probs(within, lengths, tokens), small.decoder.log_probs(heard, lengths, tokens)),
        )
        assert not torch.allclose(within, heard, atol=1e-3)
        for ours, theirs in pairs:
            valid = slice(0, int(lengths.min()))
            assert torch.allclose(ours[:, valid], theirs[:, valid], atol=1e-4)


def test_both_points_within_one_are_heard_by_its_losses(tmp_path: Path) -> None:
    small, large = _begun(tmp_path)
    batch = recogniser.Batch(
        features=FEATURES,
        lengths=LENGTHS,
        tokens=torch.randint(3, tiny.VOCABULARY, (2, 4)),
        token_lengths=torch.tensor([4, 2]),
        labels=torch.zeros((2, 32), dtype=torch.int64),
    )
    with torch.inference_mode():
        alone, within = small.losses(batch), large.losses(batch)
    for name in ("ctc", "decoder"):
        assert within[f"inner {name}"].item() == pytest.approx(alone[name].item(), rel=1e-4)
    assert set(within) == {"ctc", "decoder", "inner ctc", "inner decoder"}


def test_new_blocks_learn(tmp_path: Path) -> None:
    """What begins at zero gets a gradient all the same."""
    _, large = _begun(tmp_path)
    large.train()
    batch = recogniser.Batch(
        features=FEATURES,
        lengths=LENGTHS,
        tokens=torch.randint(3, tiny.VOCABULARY, (2, 4)),
        token_lengths=torch.tensor([4, 2]),
        labels=torch.randint(0, 4, (2, 32)),
    )
    losses = large.losses(batch)
    torch.autograd.backward(losses["ctc"] + losses["decoder"])
    silent: list[Any] = [*(block.after[2] for block in list(large.body.blocks)[1:]), large.decoder.blocks[1].feed[2]]  # type: ignore[index]
    assert all(float(layer.weight.grad.abs().sum()) > 0 for layer in silent)


def test_the_blocks_above_are_told_what_the_point_within_says(tmp_path: Path) -> None:
    """The guess is the inner head itself, and it counts from the first step on that moves it."""
    _, large = _begun(tmp_path)
    conditioning: Any = large.body.conditioning[0]
    assert conditioning.guess is large.inner_acoustic.out
    with torch.no_grad():
        before, *_ = large.body(FEATURES, LENGTHS)
        conditioning.tell.weight.add_(torch.randn_like(conditioning.tell.weight))
        after, *_ = large.body(FEATURES, LENGTHS)
    assert not torch.allclose(before, after, atol=1e-3)


def _share(rank: int, store: Path, found: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    weights = [torch.nn.Parameter(torch.tensor([2.0, 4.0]) * rank), torch.nn.Parameter(torch.tensor([[8.0]]) * rank)]
    recogniser.share_weights(weights, steps=1 + 2 * rank)
    found[rank] = [weight.tolist() for weight in weights]
    torch.distributed.destroy_process_group()


def test_processes_share_their_weights_by_the_steps_they_made(tmp_path: Path) -> None:
    """One step from zero and three from elsewhere: three quarters of the way."""
    with multiprocessing.Manager() as manager:
        found = manager.dict()
        spawn(_share, args=(tmp_path / "store", found), nprocs=2)  # type: ignore[no-untyped-call]
        assert dict(found) == {rank: [[1.5, 3.0], [[6.0]]] for rank in range(2)}


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    for point in Recipe(out=Path("x")).points:
        peak = point.peak_learning_rate
        assert recogniser.learning_rate(point, 0, 0.0) == pytest.approx(peak / point.warm_up_steps)
        assert recogniser.learning_rate(point, point.warm_up_steps - 1, 0.0) == pytest.approx(peak)
        assert recogniser.learning_rate(point, 5000, 0.5) == pytest.approx(peak / 2)
        assert recogniser.learning_rate(point, 5000, 1.0) == recogniser.learning_rate(point, 5000, 1.2) == 0.0
        rates = [recogniser.learning_rate(point, 5000, share / 100) for share in range(101)]
        assert rates == sorted(rates, reverse=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny recipe whose standard point is trained."""
    recipe = tiny.recipe(tmp_path_factory.mktemp("trained"), SECONDS)
    tiny.write_data(recipe)
    _train(recipe, "standard")
    return recipe


def _train(recipe: Recipe, name: str) -> None:
    # As `recogniser.train` does, but in this process.
    data = dataset.load(recipe)
    if not recipe.tokenizer.is_file():
        tokenizer.make((example.text for example in data.examples), recipe.tokenizer, recipe.vocabulary)
    store = recipe.out / "rendezvous"
    store.unlink(missing_ok=True)
    recogniser._train_in_process(0, recipe, recipe.point(name), store.resolve(), 1)
    recogniser.evaluate(recipe, recipe.point(name))


def test_a_trained_point_leaves_its_weights_and_figures(trained: Recipe) -> None:
    point = trained.point("standard")
    for family, network in (("body", "Body"), ("am_en", "Acoustic"), ("decoder", "Decoder")):
        loaded, parameters = reference.load(recogniser.weight_path(trained, point, family))
        assert type(loaded).__name__ == network
        assert (family == "am_en") == ("tokens" in parameters)
    assert json.loads(parameters.get("tokens", "[]")) == []
    figures = reporting.read_figures(trained)["recogniser_standard"]
    assert figures["steps"] > 3
    assert figures["utterances"] == 6 * tiny.SPEAKERS
    assert figures["speakers"] == tiny.SPEAKERS
    rates = {f"wer_{part}" for part in ("grammar", "prose", "voices", "noisy", "grammar_640_ms", "grammar_320_ms")}
    assert rates == {name for name in figures if name.startswith("wer_")}


def test_the_losses_are_kept_as_a_curve(trained: Recipe) -> None:
    assert "word error rate" in curves.read(trained)["standard"]
    assert "standard: word error rate on" in trained.log.read_text()


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """The second run is told twice the time of the first, and takes once that time."""
    recipe = tiny.recipe(tmp_path, SECONDS)
    tiny.write_data(recipe)
    _train(recipe, "standard")
    first = recogniser.read_checkpoint(recipe, "standard")["progress"]
    assert SECONDS <= first.seconds < 2 * SECONDS
    longer = recipe.lasting(2 * recipe.minutes)
    began = recogniser.Trainer(longer, longer.point("standard"), 0, 1)
    assert began.progress == first
    assert _steps_of(began) == {first.step}
    _train(longer, "standard")
    second = recogniser.read_checkpoint(longer, "standard")["progress"]
    assert second.step > first.step
    assert second.audio_seconds > first.audio_seconds
    assert 2 * SECONDS <= second.seconds < 2 * SECONDS + first.seconds


def _steps_of(trainer: recogniser.Trainer) -> set[int]:
    states: list[dict[str, Any]] = list(trainer.optimiser.state_dict()["state"].values())
    return {int(state["step"]) for state in states}


def test_a_finished_run_has_nothing_left_to_do(trained: Recipe) -> None:
    before = recogniser.read_checkpoint(trained, "standard")["progress"]
    began = time.monotonic()
    _train(trained, "standard")
    assert recogniser.read_checkpoint(trained, "standard")["progress"] == before
    assert time.monotonic() - began < 60


def test_a_checkpoint_is_kept_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies after some steps left what it needs to go on."""
    recipe = dataclasses.replace(tiny.recipe(tmp_path, 60.0), checkpoint_seconds=0.0)
    tiny.write_data(recipe)
    steps: list[int] = []
    step = recogniser.Trainer._step

    def dying(self: recogniser.Trainer, batch: recogniser.Batch, progress: float) -> dict[str, float]:
        steps.append(self.progress.step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(self, batch, progress)

    monkeypatch.setattr(recogniser.Trainer, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        _train(recipe, "standard")
    torch.distributed.destroy_process_group()
    state = recogniser.read_checkpoint(recipe, "standard")
    assert steps == [0, 1, 2, 3]
    assert state["progress"].step == 3
    assert state["progress"].seconds > 0.0
    assert not list(recipe.out.glob("*.partial"))


def test_the_larger_point_needs_the_smaller_one(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path, SECONDS)
    tiny.write_data(recipe)
    tokenizer.make(
        (corpus.grammar_sentence(random.Random(seed)).text for seed in range(50)), recipe.tokenizer, tiny.VOCABULARY
    )
    with pytest.raises(MissingDataError, match=r"recogniser-standard\.pt does not exist; make it with: python -m"):
        recogniser.Trainer(recipe, recipe.point("enhanced"), 0, 1)


def test_the_larger_point_begins_with_the_averaged_weights_of_the_smaller(trained: Recipe) -> None:
    trainer = recogniser.Trainer(trained, trained.point("enhanced"), 0, 1)
    average = recogniser.read_checkpoint(trained, "standard")["average"]
    own = trainer.network.state_dict()
    kept = {name: tensor for name, tensor in average.items() if not name.startswith("phonemes.")}
    assert set(kept) < set(own)
    assert all(torch.equal(own[name], tensor) for name, tensor in kept.items() if ".blocks.0.norm." not in name)
    assert torch.equal(own["inner_decoder.out.weight"], average["decoder.out.weight"])
    assert torch.equal(own["body.blocks.1.norm.weight"], average["body.blocks.0.norm.weight"])
    assert torch.equal(trainer.average["body.blocks.1.after.2.weight"], torch.zeros(16, 16))


def test_both_points_are_trained_from_data_to_figures(trained: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speakers, "DIALOGUES", 4)
    monkeypatch.setattr(speakers, "BATCH_SIZE", 8)
    monkeypatch.setattr(language, "PROBES", 4)
    monkeypatch.setattr(language, "REPORT_STEPS", 1)
    _train(trained, "enhanced")
    _goes_on_without_the_point_it_began_with(trained, monkeypatch)
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


def _goes_on_without_the_point_it_began_with(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    state = recogniser.read_checkpoint(recipe, "enhanced")
    with monkeypatch.context() as patch:
        patch.setattr(recogniser, "begin_with", lambda *_: pytest.fail("began anew"))
        trainer = recogniser.Trainer(recipe, recipe.point("enhanced"), 0, 1)
    assert trainer.progress == state["progress"]
    assert all(torch.equal(tensor, state["average"][name]) for name, tensor in trainer.average.items())


def test_a_batch_holds_what_is_said_and_the_phonemes_of_its_frames(trained: Recipe) -> None:
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
    batch = recogniser.make_batch([example, shorter], pieces)
    assert (batch.chunk, batch.left) == (None, None)
    assert batch.features.shape == (2, 43, 80)
    assert batch.lengths.tolist() == [43, 20]
    # Of 43 frames come 10 of the encoder, which are centred on the feature frames 3, 7, 11 ...
    assert batch.labels[0].tolist() == [3, 7, 11, 15, 19, 23, 27, 31, 35, 39]
    # Number 0 is an unknown phoneme: nothing is learnt of it, nor of padding.
    assert batch.labels[1].tolist() == [recogniser.IGNORED] * 10
    assert pieces.decode(batch.tokens[0, : batch.token_lengths[0]].tolist()) == "we meet"
    assert set(batch.tokens[1, batch.token_lengths[1] :].tolist()) <= {BOUNDARY}


def test_some_batches_see_a_chunk_only(trained: Recipe) -> None:
    data, pieces = dataset.load(trained), Tokenizer(trained.tokenizer)
    source, fill = random.Random(0), torch.zeros(80)
    batches = [recogniser.make_batch(data.examples[:1], pieces, source, fill) for _ in range(300)]
    seen = [(batch.chunk, batch.left) for batch in batches if batch.chunk is not None]
    assert 1.0 - len(seen) / len(batches) == pytest.approx(recogniser.FULL_CONTEXT_SHARE, abs=0.08)
    assert {chunk for chunk, _ in seen} == set(recogniser.CHUNKS)
    assert {left for _, left in seen} == set(recogniser.LEFT_CONTEXTS)
    assert all(batch.left is None for batch in batches if batch.chunk is None)
    assert batches[0].to(torch.device("cpu")).chunk == batches[0].chunk


def test_scores_with_a_chunk_hear_no_further() -> None:
    """Greedy texts with a chunk as long as everything are those without; those of short chunks hear no future."""
    torch.manual_seed(1)
    recipe = tiny.recipe(Path("x"))
    network = _network(recipe, "standard")
    features = [torch.randn(frames, 80).numpy().astype(np.float16) for frames in (131, 90, 200)]
    asked: list[tuple[int | None, int | None]] = []

    class Body:
        def encode(self, *arguments: Any, chunk: int | None, left: int | None) -> Any:
            asked.append((chunk, left))
            return network.body.encode(*arguments, chunk=chunk, left=left)

    class Letters:
        def decode(self, tokens: list[int]) -> str:
            return " ".join(map(str, tokens))

    letters: Any = Letters()
    whole = scores.greedy_texts(Body(), network.acoustic, letters, features)
    assert scores.greedy_texts(Body(), network.acoustic, letters, features, chunk=1000) == whole
    assert scores.greedy_texts(Body(), network.acoustic, letters, features, chunk=2, left=0) != whole
    assert set(asked) == {(None, None), (1000, None), (2, 0)}
    alone = [scores.greedy_texts(Body(), network.acoustic, letters, [one], chunk=4, left=8)[0] for one in features]
    assert scores.greedy_texts(Body(), network.acoustic, letters, features, chunk=4, left=8) == alone
