"""Body, acoustic head and decoder, trained together.

CTC alone stays on its plateau of blanks for long. A phoneme loss on a middle layer, from the synthesiser's own phoneme
times, breaks it within minutes and is then faded out.
"""

import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

from export.checkpoints import reference
from export.networks.acoustic import Acoustic, AcousticConfig
from export.networks.body import Body, BodyConfig
from export.networks.decoder import Decoder, DecoderConfig
from training import dataset, reporting, tokenizer
from training.dataset import Example
from training.recipe import Recipe
from training.scores import greedy_texts, word_error_rate
from training.synthesis import EVALUATION_PARTS
from training.tokenizer import Tokenizer

PHONEME_LAYER = 4
# The centre of encoder frame t is feature frame 4t + 3.
SUBSAMPLING, FIRST_CENTRE = 4, 3
# Weight of the phoneme loss at the start; it falls to zero over this share of the training.
PHONEME_WEIGHT, PHONEME_SHARE = 1.0, 0.5
CTC_WEIGHT, DECODER_WEIGHT = 0.7, 0.3
LABEL_SMOOTHING = 0.1
AVERAGE_DECAY = 0.998
LARGEST_GRADIENT = 2.0
BANDS_MASKED, FRAMES_MASKED, FRAMES_PER_MASK = 15, 20, 250
CHECKPOINT_SECONDS = 60.0
PUBLISH_SECONDS = 300.0
PROBE_SIZE = 40
IGNORED = -100


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a run is; `seconds` counts training only, over all restarts."""

    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    audio_seconds: float = 0.0


class Recogniser(nn.Module):
    """The three networks and the phoneme head, which is thrown away."""

    def __init__(self, phonemes: int) -> None:
        super().__init__()
        self.body = Body(BodyConfig())
        self.acoustic = Acoustic(AcousticConfig())
        self.decoder = Decoder(DecoderConfig())
        self.phonemes = nn.Linear(self.body.config.size, phonemes)

    def losses(self, batch: "Batch") -> dict[str, Tensor]:
        """Give the mean loss of CTC and decoder per token and of phonemes per frame."""
        encoded, tapped, lengths = self.body.encode(batch.features, batch.lengths, tap=PHONEME_LAYER)
        ctc, decoder = token_losses(self, encoded, lengths, batch.tokens, batch.token_lengths)
        phonemes = functional.cross_entropy(
            self.phonemes(tapped).flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED
        )
        return {"ctc": ctc, "decoder": decoder, "phonemes": phonemes}


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Padded: features FP32 [batch, frames, 80], tokens [batch, L], labels [batch, time]."""

    features: Tensor
    lengths: Tensor
    tokens: Tensor
    token_lengths: Tensor
    labels: Tensor


def train(recipe: Recipe) -> None:
    """Train for the recipe's minutes, resuming where a killed run stopped, then save and evaluate."""
    data = dataset.load(recipe)
    tokenizer.make((example.text for example in data.part("train")), tokenizer_path(recipe), recipe.vocabulary)
    store = recipe.out / "rendezvous"
    store.unlink(missing_ok=True)
    spawn(_train_in_process, args=(recipe, store.resolve()), nprocs=recipe.processes)  # type: ignore[no-untyped-call]
    evaluate(recipe)


def tokenizer_path(recipe: Recipe) -> Path:
    """Say where the tokenizer lies."""
    return recipe.weights / "tokenizer.model"


def token_losses(
    network: Recogniser, encoded: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Give the mean losses per token of CTC and of the decoder; tokens [batch, L] may be padded with anything."""
    log_probs = network.acoustic.log_probs(encoded).transpose(0, 1)
    ctc = functional.ctc_loss(log_probs, tokens, lengths, token_lengths, reduction="sum", zero_infinity=True)
    position = torch.arange(tokens.shape[1] + 1)[None, :]
    targets = functional.pad(tokens, (0, 1), value=tokenizer.BOUNDARY)
    targets = torch.where(position == token_lengths[:, None], tokenizer.BOUNDARY, targets)
    targets = torch.where(position > token_lengths[:, None], IGNORED, targets)
    said = network.decoder.log_probs(encoded, lengths, tokens)
    decoder = functional.cross_entropy(
        said.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=LABEL_SMOOTHING
    )
    return ctc / token_lengths.sum(), decoder


def make_batch(examples: Sequence[Example], pieces: Tokenizer) -> Batch:
    """Pad examples into one batch."""
    features, lengths = dataset.padded([example.features for example in examples])
    texts = [pieces.encode(example.text) for example in examples]
    longest = max(map(len, texts))
    frames = ((features.shape[1] - 1) // 2 - 1) // 2
    tokens = torch.full((len(texts), longest), tokenizer.BOUNDARY)
    labels = torch.full((len(texts), frames), IGNORED)
    for row, (text, example) in enumerate(zip(texts, examples, strict=True)):
        tokens[row, : len(text)] = torch.tensor(text)
        centres = torch.from_numpy(example.labels[FIRST_CENTRE::SUBSAMPLING].astype("int64"))[:frames]
        labels[row, : len(centres)] = torch.where(centres == 0, IGNORED, centres)
    return Batch(
        features=torch.from_numpy(features),
        lengths=torch.from_numpy(lengths),
        tokens=tokens,
        token_lengths=torch.tensor([len(text) for text in texts]),
        labels=labels,
    )


def mask_features(features: Tensor, fill: Tensor, source: random.Random) -> None:
    """Hide random bands and stretches behind the mean, in place (SpecAugment, arXiv:1904.08779)."""
    frames, bands = features.shape[1:]
    for row in features:
        for _ in range(2):
            width = source.randint(0, BANDS_MASKED)
            first = source.randint(0, bands - width)
            row[:, first : first + width] = fill[first : first + width]
        for _ in range(frames // FRAMES_PER_MASK + 1):
            width = source.randint(0, min(FRAMES_MASKED, frames // 4))
            first = source.randint(0, frames - width)
            row[first : first + width] = fill


def learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    """Warm up over steps, then fall with a cosine over the share of the time that has gone, to zero at its end."""
    warm = min(1.0, (step + 1) / recipe.warm_up_steps)
    return recipe.peak_learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def evaluate(recipe: Recipe) -> None:
    """Measure the saved FP16 weights on every part of the evaluation and record it."""
    logger = reporting.open_log(recipe)
    torch.set_num_threads(recipe.processes)
    data = dataset.load(recipe)
    body, _ = reference.load(recipe.weights / "body.safetensors")
    acoustic, parameters = reference.load(recipe.weights / "am_en.safetensors")
    pieces = Tokenizer(tokenizer_path(recipe))
    progress = read_checkpoint(recipe)["progress"]
    figures: dict[str, Any] = {"minutes": round(progress.seconds / 60, 1), "steps": progress.step}
    figures["hours_trained"] = round(progress.audio_seconds / 3600, 1)
    figures["vocabulary"] = len(json.loads(parameters["tokens"]))
    for part in EVALUATION_PARTS:
        examples = data.part(part)
        texts = greedy_texts(body, acoustic, pieces, [example.features for example in examples])
        figures[f"wer_{part}"] = word_error_rate([example.text for example in examples], texts)
        logger.info("%s: word error rate %.2f %%", part, 100 * figures[f"wer_{part}"])
    training = data.part("train")
    figures["hours_of_audio"] = round(sum(len(example.features) for example in training) / 360_000, 1)
    figures["utterances"] = len(training)
    figures["speakers"] = len({example.speaker for example in training} - {""})
    reporting.record(recipe, "recogniser", figures)


def _train_in_process(rank: int, recipe: Recipe, store: Path) -> None:
    # Two processes of one thread each are faster on two cores than one of two, the more so on a busy machine.
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=recipe.processes)
    torch.manual_seed(recipe.seed)
    Trainer(recipe, rank).run()
    distributed.destroy_process_group()


def share_gradients(parameters: Sequence[nn.Parameter], processes: int) -> None:
    """Put the mean over all processes in place of each gradient."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= processes
    for gradient, part in zip(gradients, torch.split(flat, [each.numel() for each in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def agreed(seconds: float) -> float:
    """Give the clock of process 0 to all, so that every process leaves its loop after the same step."""
    clock = torch.tensor([seconds], dtype=torch.float64)
    distributed.broadcast(clock, src=0)
    return float(clock)


def publish(recipe: Recipe, weights: dict[str, Tensor], pieces: Tokenizer, probe: Sequence[Example]) -> None:
    """Save the three networks, and report how well they do on a few held-out sentences."""
    network = Recogniser(weights["phonemes.bias"].numel())
    network.load_state_dict(weights)
    folder = recipe.weights
    reference.save(folder / "body.safetensors", "body", network.body, {})
    reference.save(folder / "am_en.safetensors", "acoustic", network.acoustic, {"tokens": json.dumps(pieces.pieces())})
    reference.save(folder / "decoder.safetensors", "decoder", network.decoder, {})
    texts = greedy_texts(network.body.eval(), network.acoustic, pieces, [example.features for example in probe])
    rate = word_error_rate([example.text for example in probe], texts)
    reporting.open_log(recipe).info("saved; word error rate on %d held-out sentences %.1f %%", len(texts), 100 * rate)


class Trainer:
    """One of the processes: all hold the same weights, each sees its own batches."""

    def __init__(self, recipe: Recipe, rank: int) -> None:
        self.recipe, self.rank = recipe, rank
        data = dataset.load(recipe)
        self.examples, self.probe = data.part("train"), data.part("grammar")[:PROBE_SIZE]
        self.pieces = Tokenizer(tokenizer_path(recipe))
        self.network = Recogniser(len(data.phonemes))
        # An eighth faster on a CPU; the numbers are the same.
        self.network.body.subsampling.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        mean, deviation = dataset.statistics(self.examples)
        self.network.body.feature_norm.mean.copy_(torch.from_numpy(mean))
        self.network.body.feature_norm.deviation.copy_(torch.from_numpy(deviation))
        self.average = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.parameters = list(self.network.parameters())
        self.optimiser = torch.optim.AdamW(self.parameters, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.progress = Progress()
        if checkpoint_path(recipe).is_file():
            self._restore(read_checkpoint(recipe))
        self.logger = reporting.open_log(recipe)

    def run(self) -> None:
        """Train until the time is used up; process 0 saves on the way and at the end."""
        budget = self.recipe.recogniser_minutes * 60
        saved = published = reported = time.monotonic()
        before = time.monotonic()
        for batch in self._batches():
            losses = self._step(batch, self.progress.seconds / budget)
            now = time.monotonic()
            self.progress.seconds = agreed(self.progress.seconds + now - before)
            before = now
            if self.progress.seconds >= budget:
                break
            if self.rank == 0 and now - reported > 10:
                reported = now
                self._report(losses)
            if self.rank == 0 and now - saved > CHECKPOINT_SECONDS:
                saved = now
                self._save_checkpoint()
            if self.rank == 0 and now - published > PUBLISH_SECONDS:
                published = now
                self._publish()
        if self.rank == 0:
            self._save_checkpoint()
            self._publish()

    def _batches(self) -> Iterator[Batch]:
        lengths = [len(example.features) for example in self.examples]
        while True:
            source = random.Random(f"{self.recipe.seed} {self.progress.epoch} {self.progress.step}")
            groups = dataset.buckets(lengths, self.recipe.batch_frames, source)
            count = len(groups) // self.recipe.processes * self.recipe.processes
            for group in groups[self.rank : count : self.recipe.processes]:
                batch = make_batch([self.examples[index] for index in group], self.pieces)
                mask_features(batch.features, self.network.body.feature_norm.mean, source)
                yield batch
            self.progress.epoch += 1

    def _step(self, batch: Batch, progress: float) -> dict[str, float]:
        losses = self.network.losses(batch)
        phoneme_weight = PHONEME_WEIGHT * max(0.0, 1.0 - progress / PHONEME_SHARE)
        total = CTC_WEIGHT * losses["ctc"] + DECODER_WEIGHT * losses["decoder"] + phoneme_weight * losses["phonemes"]
        self.optimiser.zero_grad(set_to_none=False)
        torch.autograd.backward(total)
        share_gradients(self.parameters, self.recipe.processes)
        nn.utils.clip_grad_norm_(self.parameters, LARGEST_GRADIENT)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, self.progress.step, progress)
        self.optimiser.step()
        self.progress.step += 1
        self.progress.audio_seconds += float(batch.lengths.sum()) / 100 * self.recipe.processes
        self._average_weights()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _average_weights(self) -> None:
        if self.rank != 0:
            return
        decay = min(AVERAGE_DECAY, (1 + self.progress.step) / (10 + self.progress.step))
        for name, tensor in self.network.state_dict().items():
            self.average[name].lerp_(tensor, 1.0 - decay)

    def _report(self, losses: dict[str, float]) -> None:
        text = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        where = self.progress
        self.logger.info(
            "%.1f min, step %d, epoch %d, %.0f x real time: %s",
            where.seconds / 60, where.step, where.epoch, where.audio_seconds / max(where.seconds, 1e-3), text,
        )  # fmt: skip

    def _save_checkpoint(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "progress": self.progress,
        }
        path = checkpoint_path(self.recipe)
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = state["progress"]

    def _publish(self) -> None:
        publish(self.recipe, self.average, self.pieces, self.probe)


def checkpoint_path(recipe: Recipe) -> Path:
    """Say where a run keeps what it needs to go on."""
    return recipe.out / "recogniser.pt"


def read_checkpoint(recipe: Recipe) -> dict[str, Any]:
    """Give what the joint training saved last."""
    return torch.load(checkpoint_path(recipe), weights_only=False)  # type: ignore[no-any-return]
