"""The trainer of body, acoustic head and decoder: processes that learn apart and average their weights.

`training.model` explains what is trained and why; `training.evaluation` measures the weights that are saved here.
"""

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from export.checkpoints import reference
from training import curves, dataset, reporting, schedule, tokenizer
from training.batch import Batch, make_batch
from training.checkpoints import Progress, checkpoint_path, read_checkpoint, save_checkpoint, weight_path
from training.dataset import TRAINING_PARTS
from training.evaluation import evaluate, greedy_texts, word_error_rate
from training.model import JointModel, start_from_smaller_point
from training.recipe import Point, Recipe
from training.tokenizer import Tokenizer

# Weight of the phoneme loss at the start; it falls to zero over this share of the training.
PHONEME_WEIGHT, PHONEME_SHARE = 1.0, 0.5
CTC_WEIGHT, DECODER_WEIGHT, INTERMEDIATE_CTC_WEIGHT = 0.7, 0.3, 0.5
# Of the moving average of the weights, which is what is saved.
AVERAGE_DECAY, AVERAGE_EVERY = 0.998, 4
LARGEST_GRADIENT = 2.0
# How often an epoch repeats each part: most of the library's sentences, and words in random order, are harder than
# sentences of a meeting.
REPEATED = MappingProxyType({"train": 1, "library": 1, "meetings": 3})
# How often all processes continue from the mean of their weights (local SGD, arXiv:1805.09767).
SYNCHRONISE_SECONDS = 20.0
# How often the word error rate on some development sentences is logged, and on how many.
DEVELOPMENT_SECONDS, DEVELOPMENT_SENTENCES = 300.0, 60
REPORT_SECONDS = 10.0


def train(recipe: Recipe, point: Point) -> None:
    """Train a point for its minutes, resuming where a killed run stopped, then save and evaluate."""
    data = dataset.load(recipe)
    if not recipe.tokenizer.is_file():
        texts = (example.text for part in TRAINING_PARTS for example in data.part(part))
        tokenizer.train(texts, recipe.tokenizer, recipe.vocabulary)
    store = recipe.out / "rendezvous"
    store.unlink(missing_ok=True)
    processes = 1 if torch.cuda.is_available() else recipe.processes
    arguments = (recipe, point, store.resolve(), processes)
    spawn(_train_in_process, args=arguments, nprocs=processes)  # type: ignore[no-untyped-call]
    evaluate(recipe, point)
    if point.starts_from:
        evaluate(recipe, recipe.point(point.starts_from))
    curves.plot(recipe)


def train_standard(recipe: Recipe) -> None:
    """Train the standard point."""
    train(recipe, recipe.point("standard"))


def train_enhanced(recipe: Recipe) -> None:
    """Train the enhanced point, which starts from the standard one, and the standard one within it."""
    train(recipe, recipe.point("enhanced"))


def learning_rate(point: Point, step: int, progress: float) -> float:
    """Return the learning rate of a point at a step, after a share `progress` of its time."""
    return schedule.learning_rate(point.peak_learning_rate, point.warm_up_steps, step, progress)


def _train_in_process(rank: int, recipe: Recipe, point: Point, store: Path, processes: int) -> None:
    # Two processes of one thread each are faster on two cores than one of two, the more so on a busy machine.
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    torch.manual_seed(recipe.seed)
    Trainer(recipe, point, rank, processes).run()
    distributed.destroy_process_group()


class Trainer:
    """One process of a training: all start from the same weights, and each draws its own batches."""

    def __init__(self, recipe: Recipe, point: Point, rank: int, processes: int) -> None:
        self.recipe, self.point, self.rank, self.processes = recipe, point, rank, processes
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        data = dataset.load(recipe)
        self.examples = [example for part, times in REPEATED.items() for example in data.part(part) * times]
        self.development = data.part("grammar")[:DEVELOPMENT_SENTENCES]
        self.pieces = Tokenizer(recipe.tokenizer)
        self.inner = recipe.point(point.starts_from) if point.starts_from else None
        self.network = JointModel(point, len(self.pieces.pieces()), len(data.phonemes), self.inner)
        mean, deviation = dataset.statistics(self.examples)
        self.network.body.feature_norm.mean.copy_(torch.from_numpy(mean))
        self.network.body.feature_norm.deviation.copy_(torch.from_numpy(deviation))
        self.fill = self.network.body.feature_norm.mean.clone()
        if point.starts_from and not checkpoint_path(recipe, point.name).is_file():
            start_from_smaller_point(self.network, read_checkpoint(recipe, point.starts_from)["average"])
        self.network.to(self.device)
        self.average = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.parameters = list(self.network.parameters())
        self.optimiser = torch.optim.AdamW(self.parameters, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.progress = Progress()
        if checkpoint_path(recipe, point.name).is_file():
            self._restore(read_checkpoint(recipe, point.name))
        self.synchronised = replace(self.progress)
        self.logger = reporting.open_log(recipe)

    def run(self) -> None:
        """Train until the time is used up; process 0 saves checkpoints on the way and the weights at the end."""
        budget = self.point.recogniser_minutes * 60
        saved = evaluated = reported = before = time.monotonic()
        for batch in self._batches():
            if self.progress.seconds >= budget:
                break
            losses = self._step(batch, self.progress.seconds / budget)
            now = time.monotonic()
            self.progress.seconds += now - before
            before = now
            if self.progress.seconds >= min(self.synchronised.seconds + SYNCHRONISE_SECONDS, budget):
                self._synchronise(before)
                # All clocks continue from the same moment: waiting for other processes is not training time.
                before = time.monotonic()
            if self.rank:
                continue
            if now - reported > REPORT_SECONDS:
                reported = now
                self._report(losses)
            if now - saved > self.recipe.checkpoint_seconds:
                saved = now
                self._save_checkpoint()
            if now - evaluated > DEVELOPMENT_SECONDS:
                evaluated = now
                self._log_word_error_rate()
        if self.rank == 0:
            self._save_checkpoint()
            self._save_weights()

    def _batches(self) -> Iterator[Batch]:
        lengths = [len(example.features) for example in self.examples]
        while True:
            seed = f"{self.recipe.seed} {self.point.name} {self.progress.epoch} {self.progress.step} {self.rank}"
            source = random.Random(seed)
            for group in dataset.buckets(lengths, self.recipe.batch_frames, source):
                yield make_batch([self.examples[index] for index in group], self.pieces, source, self.fill)
            self.progress.epoch += 1

    def _step(self, batch: Batch, progress: float) -> dict[str, float]:
        losses = self.network.losses(batch.to(self.device))
        total = CTC_WEIGHT * losses["ctc"] + DECODER_WEIGHT * losses["decoder"]
        if "intermediate ctc" in losses:
            total = total + INTERMEDIATE_CTC_WEIGHT * losses["intermediate ctc"]
        if self.inner is not None:
            total = total + CTC_WEIGHT * losses["inner ctc"] + DECODER_WEIGHT * losses["inner decoder"]
        elif progress < PHONEME_SHARE:
            total = total + PHONEME_WEIGHT * (1.0 - progress / PHONEME_SHARE) * losses["phonemes"]
        self.optimiser.zero_grad(set_to_none=False)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.parameters, LARGEST_GRADIENT)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.point, self.progress.step, progress)
        self.optimiser.step()
        self.progress.step += 1
        self.progress.audio_seconds += float(batch.lengths.sum()) / 100
        self._update_average()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _synchronise(self, before: float) -> None:
        """Continue from the mean of the weights of all processes, by the clock of process 0.

        `before` is the moment up to which `progress.seconds` counts.
        """
        steps = self.progress.step - self.synchronised.step
        if self.processes > 1:
            average_weights(self.parameters, steps)
            audio = torch.tensor([self.progress.audio_seconds - self.synchronised.audio_seconds], dtype=torch.float64)
            distributed.all_reduce(audio)
            now_s = self.progress.seconds + time.monotonic() - before
            clock = torch.tensor([now_s, self.progress.step], dtype=torch.float64)
            distributed.broadcast(clock, src=0)
            self.progress.audio_seconds = self.synchronised.audio_seconds + float(audio)
            self.progress.seconds, self.progress.step = float(clock[0]), int(clock[1])
        self.synchronised = replace(self.progress)

    def _update_average(self) -> None:
        if self.rank != 0 or self.progress.step % AVERAGE_EVERY:
            return
        decay = min(AVERAGE_DECAY, (1 + self.progress.step) / (10 + self.progress.step)) ** AVERAGE_EVERY
        for name, tensor in self.network.state_dict().items():
            self.average[name].lerp_(tensor, 1.0 - decay)

    def _report(self, losses: dict[str, float]) -> None:
        text = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        where = self.progress
        self.logger.info(
            "%s: %.1f min, step %d, epoch %d, %.0f x real time: %s",
            self.point.name, where.seconds / 60, where.step, where.epoch,
            where.audio_seconds / max(where.seconds, 1e-3), text,
        )  # fmt: skip
        curves.add(self.recipe, self.point.name, where.seconds / 60, losses)

    def _log_word_error_rate(self) -> None:
        features = [example.features for example in self.development]
        references = [example.text for example in self.development]
        for name, (_, body, acoustic, _) in self._averaged().networks().items():
            rate = word_error_rate(references, greedy_texts(body.eval(), acoustic.eval(), self.pieces, features))
            self.logger.info("%s: word error rate on %d held-out sentences %.1f %%", name, len(references), 100 * rate)
            if name == self.point.name:
                curves.add(self.recipe, name, self.progress.seconds / 60, {"word error rate": rate})

    def _averaged(self) -> JointModel:
        phonemes = self.average["phonemes.bias"].numel() if self.inner is None else 0
        network = JointModel(self.point, len(self.pieces.pieces()), phonemes, self.inner)
        network.load_state_dict(self.average)
        return network

    def _save_checkpoint(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "progress": self.progress,
        }
        save_checkpoint(self.recipe, self.point.name, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average = {name: tensor.to(self.device) for name, tensor in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = state["progress"]

    def _save_weights(self) -> None:
        self._log_word_error_rate()
        tokens = {"tokens": json.dumps(self.pieces.pieces())}
        within = None
        for point, body, acoustic, decoder in self._averaged().networks().values():
            path = weight_path(self.recipe, point, "body")
            reference.save(path, "body", body, {}, within=within)
            within = path
            reference.save(weight_path(self.recipe, point, "am_en"), "acoustic", acoustic, tokens)
            reference.save(weight_path(self.recipe, point, "decoder"), "decoder", decoder, {})


def average_weights(parameters: Sequence[nn.Parameter], steps: int) -> None:
    """Replace each weight by its mean over all processes, each weighted by the steps that it has made."""
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters]) * steps
    total = torch.tensor([float(steps)], device=flat.device)
    distributed.all_reduce(flat)
    distributed.all_reduce(total)
    with torch.no_grad():
        parts = torch.split(flat / total, [each.numel() for each in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))
