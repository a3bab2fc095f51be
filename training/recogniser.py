"""Body, acoustic head and decoder of an operating point, trained together.

CTC alone stays on its plateau of blanks for long. A phoneme loss on a middle layer, from the synthesiser's own phoneme
times, breaks it within minutes and is then faded out. The enhanced point begins with the blocks of the standard point
and new ones above them: what the small network has learnt need not be learnt again at the price of the large one. From
there on both go on together, the standard point being the first blocks of the enhanced one with a head and a decoder of
its own: a step costs an eighth more than one of the large network alone, and is a step for both.
"""

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

from export.checkpoints import reference
from export.networks.acoustic import Acoustic, AcousticConfig
from export.networks.body import Block, Body, BodyConfig, subsampled
from export.networks.decoder import Decoder
from training import curves, dataset, perturb, reporting, schedule, tokenizer
from training.dataset import TRAINING_PARTS, Example
from training.errors import MissingDataError
from training.recipe import Point, Recipe
from training.scores import greedy_texts, word_error_rate
from training.tokenizer import Tokenizer

# The centre of encoder frame t is feature frame 4t + 3.
SUBSAMPLING, FIRST_CENTRE = 4, 3
# Weight of the phoneme loss at the start; it falls to zero over this share of the training.
PHONEME_WEIGHT, PHONEME_SHARE = 1.0, 0.5
CTC_WEIGHT, DECODER_WEIGHT, GUESS_WEIGHT = 0.7, 0.3, 0.5
LABEL_SMOOTHING = 0.1
AVERAGE_DECAY, AVERAGE_EVERY = 0.998, 4
LARGEST_GRADIENT = 2.0
# How often an epoch holds each part: most of the library's sentences, and words in random order, are harder than what
# anyone says in a meeting.
REPEATED = MappingProxyType({"train": 1, "library": 1, "meetings": 3})
# Full context for a third of the batches; for the others a chunk and what is seen before it, in frames of 40 ms.
FULL_CONTEXT_SHARE = 0.35
CHUNKS, LEFT_CONTEXTS = (8, 8, 8, 8, 16), (None, 64, 128, 128)
# What is measured of it: milliseconds of a chunk to its frames, with what a stream would keep of the past.
STREAMING_CHUNKS, STREAMING_LEFT = {640: 16, 320: 8}, 128
# How often all processes go on from the mean of their weights (local SGD, arXiv:1805.09767).
SHARE_SECONDS = 20.0
PROBE_SECONDS = 300.0
REPORT_SECONDS = 10.0
PROBE_SIZE = 60
IGNORED = -100


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a run is; `seconds` counts training only, over all restarts."""

    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    audio_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Padded: features FP32 [batch, frames, 80], tokens [batch, L], labels [batch, time]; and what is seen of it."""

    features: Tensor
    lengths: Tensor
    tokens: Tensor
    token_lengths: Tensor
    labels: Tensor
    chunk: int | None = None
    left: int | None = None

    def to(self, device: torch.device) -> "Batch":
        """Bring the tensors to a device."""
        return replace(
            self,
            features=self.features.to(device),
            lengths=self.lengths.to(device),
            tokens=self.tokens.to(device),
            token_lengths=self.token_lengths.to(device),
            labels=self.labels.to(device),
        )


class Recogniser(nn.Module):
    """The three networks of a point, and what is thrown away or belongs to the point within it.

    A point that begins with another holds it: the first blocks of its body are the other's body, and `inner_acoustic`
    and `inner_decoder` the other's head and decoder. A point that begins with none has a phoneme head on a middle
    block.
    """

    def __init__(self, point: Point, vocabulary: int, phonemes: int, inner: Point | None = None) -> None:
        super().__init__()
        self.point, self.inner = point, inner
        self.body = Body(conditioned(point.body, vocabulary))
        self.acoustic = Acoustic(AcousticConfig(size=point.body.size, vocabulary=vocabulary))
        self.decoder = Decoder(point.decoder)
        if inner is None:
            self.phonemes = nn.Linear(point.body.size, phonemes)
            self.tap = point.body.layers // 2
        else:
            self.inner_acoustic = Acoustic(AcousticConfig(size=inner.body.size, vocabulary=vocabulary))
            self.inner_decoder = Decoder(inner.decoder)
            self.tap = inner.body.layers - 1
        self.guesses: dict[int, nn.Linear] = {}
        conditioning: Any
        for layers, conditioning in zip(point.body.conditioned, self.body.conditioning, strict=True):
            if inner is not None and layers == inner.body.layers:
                # What the blocks above are told is what the inner point says.
                self.inner_acoustic.out = conditioning.guess
            else:
                self.guesses[layers - 1] = conditioning.guess

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Give the mean loss of CTC and decoder per token, and of phonemes per frame or of the inner point's two.

        `guesses` is the mean CTC loss of what the blocks are told that no point ends with.
        """
        encoded, tapped, lengths = self.body.encode(
            batch.features, batch.lengths, chunk=batch.chunk, left=batch.left, taps=(self.tap, *self.guesses)
        )
        ctc, decoder = token_losses(self.acoustic, self.decoder, encoded, lengths, batch)
        found = {"ctc": ctc, "decoder": decoder}
        if self.guesses:
            guessed = [
                ctc_loss(torch.log_softmax(guess(tapped[index]), dim=-1), lengths, batch)
                for index, guess in self.guesses.items()
            ]
            found["guesses"] = torch.stack(guessed).mean()
        if self.inner is None:
            phonemes = functional.cross_entropy(
                self.phonemes(tapped[self.tap]).flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED
            )
            return {**found, "phonemes": phonemes}
        inner = token_losses(self.inner_acoustic, self.inner_decoder, tapped[self.tap], lengths, batch)
        return {**found, "inner ctc": inner[0], "inner decoder": inner[1]}

    def networks(self) -> dict[str, tuple[Point, Body, Acoustic, Decoder]]:
        """Give the networks of each point that is in here, by its name."""
        found = {self.point.name: (self.point, self.body, self.acoustic, self.decoder)}
        if self.inner is not None:
            body = Body(conditioned(self.inner.body, self.acoustic.config.vocabulary))
            known = self.body.state_dict()
            body.load_state_dict({name: known[name] for name in body.state_dict()})
            found[self.inner.name] = (self.inner, body, self.inner_acoustic, self.inner_decoder)
        return found


def token_losses(
    acoustic: Acoustic, decoder: Decoder, encoded: Tensor, lengths: Tensor, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Give the mean CTC loss and the decoder's mean cross-entropy a token."""
    ctc = ctc_loss(acoustic.log_probs(encoded), lengths, batch)
    said = decoder.log_probs(encoded, lengths, batch.tokens)
    targets = next_tokens(batch.tokens, batch.token_lengths)
    cross_entropy = functional.cross_entropy(
        said.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=LABEL_SMOOTHING
    )
    return ctc, cross_entropy


def ctc_loss(log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """Give the mean CTC loss a token of log-probabilities [batch, time, vocabulary]."""
    total = functional.ctc_loss(
        log_probs.transpose(0, 1), batch.tokens, lengths, batch.token_lengths, reduction="sum", zero_infinity=True
    )
    return total / batch.token_lengths.sum()


def conditioned(body: BodyConfig, vocabulary: int) -> BodyConfig:
    """Give the configuration of a body whose blocks are told of a vocabulary's tokens, if they are told of any."""
    return replace(body, vocabulary=vocabulary if body.conditioned else 0)


def next_tokens(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Say what follows the boundary and each token: [rows, L] -> [rows, L + 1], ignored behind the closing boundary."""
    position = torch.arange(tokens.shape[1] + 1, device=tokens.device)[None, :]
    targets = functional.pad(tokens, (0, 1), value=tokenizer.BOUNDARY)
    targets = torch.where(position == lengths[:, None], tokenizer.BOUNDARY, targets)
    return torch.where(position > lengths[:, None], IGNORED, targets)


def train(recipe: Recipe, point: Point) -> None:
    """Train a point for its minutes, resuming where a killed run stopped, then save and evaluate."""
    data = dataset.load(recipe)
    if not recipe.tokenizer.is_file():
        texts = (example.text for part in TRAINING_PARTS for example in data.part(part))
        tokenizer.make(texts, recipe.tokenizer, recipe.vocabulary)
    store = recipe.out / "rendezvous"
    store.unlink(missing_ok=True)
    processes = 1 if torch.cuda.is_available() else recipe.processes
    arguments = (recipe, point, store.resolve(), processes)
    spawn(_train_in_process, args=arguments, nprocs=processes)  # type: ignore[no-untyped-call]
    evaluate(recipe, point)
    if point.begins_with:
        evaluate(recipe, recipe.point(point.begins_with))
    curves.plot(recipe)


def train_standard(recipe: Recipe) -> None:
    """Train the standard point."""
    train(recipe, recipe.point("standard"))


def train_enhanced(recipe: Recipe) -> None:
    """Train the enhanced point, which begins with the standard one, and the standard one within it."""
    train(recipe, recipe.point("enhanced"))


def make_batch(
    examples: Sequence[Example], pieces: Tokenizer, source: random.Random | None = None, fill: Tensor | None = None
) -> Batch:
    """Pad examples into one batch; with a source, perturb them and choose what is seen, `fill` behind the masks."""
    chunk = left = None
    if source is None or fill is None:
        heard = [(example.features.astype("float32"), example.labels) for example in examples]
    else:
        heard = [perturb.perturb(example.features, example.labels, source) for example in examples]
        for values, _ in heard:
            perturb.mask(values, fill.numpy(), source)
        if source.random() >= FULL_CONTEXT_SHARE:
            chunk, left = source.choice(CHUNKS), source.choice(LEFT_CONTEXTS)
    features, lengths = dataset.padded([values for values, _ in heard])
    texts = [pieces.encode(example.text) for example in examples]
    longest = max(map(len, texts))
    frames = subsampled(features.shape[1])
    tokens = torch.full((len(texts), longest), tokenizer.BOUNDARY)
    labels = torch.full((len(texts), frames), IGNORED)
    for row, (text, (_, each)) in enumerate(zip(texts, heard, strict=True)):
        tokens[row, : len(text)] = torch.tensor(text)
        centres = torch.from_numpy(each[FIRST_CENTRE::SUBSAMPLING].astype("int64"))[:frames]
        labels[row, : len(centres)] = torch.where(centres == 0, IGNORED, centres)
    return Batch(
        features=torch.from_numpy(features),
        lengths=torch.from_numpy(lengths),
        tokens=tokens,
        token_lengths=torch.tensor([len(text) for text in texts]),
        labels=labels,
        chunk=chunk,
        left=left,
    )


def learning_rate(point: Point, step: int, progress: float) -> float:
    """Give the rate of a point at a step, when a share of its time has gone."""
    return schedule.learning_rate(point.peak_learning_rate, point.warm_up_steps, step, progress)


def begin_with(network: Recogniser, weights: dict[str, Tensor]) -> None:
    """Take over every weight of a smaller point; blocks above its last one pass on what they are given.

    So the answers of both points are at first those of the smaller one. A norm after a norm changes nothing as long as
    its gains are one: those of the last known block move to the last new one, and into the layers of the inner point
    that hear the last known block.
    """
    own = network.state_dict()
    inner = {f"inner_{name}": tensor for name, tensor in weights.items() if f"inner_{name}" in own}
    weights = {**weights, **inner}
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    network.load_state_dict(fitting, strict=False)
    known = 1 + max(int(name.split(".")[2]) for name in fitting if name.startswith("body.blocks."))
    blocks: Any = network.body.blocks
    for block in blocks[known:]:
        _pass_on(block)
    conditioning: Any
    for number, conditioning in enumerate(network.body.conditioning):
        if f"body.conditioning.{number}.tell.weight" not in fitting:
            _silence(conditioning.tell)
    norm = blocks[known - 1].norm
    for layer in (network.inner_acoustic.out, network.inner_decoder.bridge):
        _absorb(layer, norm.weight, norm.bias)
    blocks[-1].norm, blocks[known - 1].norm = norm, blocks[-1].norm
    heard = 1 + max(int(name.split(".")[2]) for name in fitting if name.startswith("decoder.blocks."))
    for index in range(heard, len(network.decoder.blocks)):
        above: Any = network.decoder.blocks[index]
        _silence(above.self_attention.out, above.cross_attention.out, above.feed[2])


def _pass_on(block: Block) -> None:
    _silence(block.before[2], block.attention.out, block.convolution.out, block.after[2])


@torch.no_grad()
def _absorb(layer: nn.Linear, gains: Tensor, offsets: Tensor) -> None:
    # W (g * x + b) + c = (W * g) x + (W b + c)
    layer.bias.add_(layer.weight @ offsets)
    layer.weight.mul_(gains)


def _silence(*layers: Any) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def evaluate(recipe: Recipe, point: Point) -> None:
    """Measure the saved FP16 weights on the development parts and record it."""
    logger = reporting.open_log(recipe)
    torch.set_num_threads(recipe.processes)
    data = dataset.load(recipe)
    body, _ = reference.load(weight_path(recipe, point, "body"))
    acoustic, parameters = reference.load(weight_path(recipe, point, "am_en"))
    pieces = Tokenizer(recipe.tokenizer)
    progress = read_checkpoint(recipe, point.name)["progress"]
    training = [example for part in TRAINING_PARTS for example in data.part(part)]
    figures: dict[str, Any] = {
        "minutes": round(progress.seconds / 60, 1),
        "steps": progress.step,
        "hours_trained": round(progress.audio_seconds / 3600, 1),
        "vocabulary": len(json.loads(parameters["tokens"])),
        "hours_of_audio": round(sum(len(example.features) for example in training) / 360_000, 1),
        "utterances": len(training),
        "speakers": len({example.speaker for example in training} - {""}),
    }
    for part in sorted(data.parts - set(TRAINING_PARTS)):
        examples = data.part(part)
        texts = greedy_texts(body, acoustic, pieces, [example.features for example in examples])
        figures[f"wer_{part}"] = word_error_rate([example.text for example in examples], texts)
        logger.info("%s, %s: word error rate %.2f %%", point.name, part, 100 * figures[f"wer_{part}"])
    examples = data.part("grammar")
    features = [example.features for example in examples]
    for milliseconds, chunk in STREAMING_CHUNKS.items():
        texts = greedy_texts(body, acoustic, pieces, features, chunk=chunk, left=STREAMING_LEFT)
        rate = word_error_rate([example.text for example in examples], texts)
        figures[f"wer_grammar_{milliseconds}_ms"] = rate
        logger.info("%s, grammar, chunks of %d ms: word error rate %.2f %%", point.name, milliseconds, 100 * rate)
    reporting.record(recipe, f"recogniser_{point.name}", figures)


def weight_path(recipe: Recipe, point: Point, family: str) -> Path:
    """Say where the weights of a model lie."""
    return recipe.weights / point.name / f"{family}.safetensors"


def _train_in_process(rank: int, recipe: Recipe, point: Point, store: Path, processes: int) -> None:
    # Two processes of one thread each are faster on two cores than one of two, the more so on a busy machine.
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    torch.manual_seed(recipe.seed)
    Trainer(recipe, point, rank, processes).run()
    distributed.destroy_process_group()


class Trainer:
    """One of the processes: all hold the same weights, each sees its own batches."""

    def __init__(self, recipe: Recipe, point: Point, rank: int, processes: int) -> None:
        self.recipe, self.point, self.rank, self.processes = recipe, point, rank, processes
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        data = dataset.load(recipe)
        self.examples = [example for part, times in REPEATED.items() for example in data.part(part) * times]
        self.probe = data.part("grammar")[:PROBE_SIZE]
        self.pieces = Tokenizer(recipe.tokenizer)
        self.inner = recipe.point(point.begins_with) if point.begins_with else None
        self.network = Recogniser(point, len(self.pieces.pieces()), len(data.phonemes), self.inner)
        mean, deviation = dataset.statistics(self.examples)
        self.network.body.feature_norm.mean.copy_(torch.from_numpy(mean))
        self.network.body.feature_norm.deviation.copy_(torch.from_numpy(deviation))
        self.fill = self.network.body.feature_norm.mean.clone()
        if point.begins_with and not checkpoint_path(recipe, point.name).is_file():
            begin_with(self.network, read_checkpoint(recipe, point.begins_with)["average"])
        self.network.to(self.device)
        self.average = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.parameters = list(self.network.parameters())
        self.optimiser = torch.optim.AdamW(self.parameters, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.progress = Progress()
        if checkpoint_path(recipe, point.name).is_file():
            self._restore(read_checkpoint(recipe, point.name))
        self.shared = replace(self.progress)
        self.logger = reporting.open_log(recipe)

    def run(self) -> None:
        """Train until the time is used up; process 0 saves on the way and at the end."""
        budget = self.point.recogniser_minutes * 60
        saved = probed = reported = before = time.monotonic()
        for batch in self._batches():
            if self.progress.seconds >= budget:
                break
            losses = self._step(batch, self.progress.seconds / budget)
            now = time.monotonic()
            self.progress.seconds += now - before
            before = now
            if self.progress.seconds >= min(self.shared.seconds + SHARE_SECONDS, budget):
                self._share(before)
                # From the same moment on for all: what one has waited for the others is no time of its own.
                before = time.monotonic()
            if self.rank:
                continue
            if now - reported > REPORT_SECONDS:
                reported = now
                self._report(losses)
            if now - saved > self.recipe.checkpoint_seconds:
                saved = now
                self._save_checkpoint()
            if now - probed > PROBE_SECONDS:
                probed = now
                self._probe()
        if self.rank == 0:
            self._save_checkpoint()
            self._publish()

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
        if "guesses" in losses:
            total = total + GUESS_WEIGHT * losses["guesses"]
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
        self._average_weights()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _share(self, before: float) -> None:
        """Go on from the mean of what all processes have learnt since the last time, by the clock of process 0.

        `before` is the moment up to which its clock is right.
        """
        steps = self.progress.step - self.shared.step
        if self.processes > 1:
            share_weights(self.parameters, steps)
            heard = torch.tensor([self.progress.audio_seconds - self.shared.audio_seconds], dtype=torch.float64)
            distributed.all_reduce(heard)
            now_s = self.progress.seconds + time.monotonic() - before
            clock = torch.tensor([now_s, self.progress.step], dtype=torch.float64)
            distributed.broadcast(clock, src=0)
            self.progress.audio_seconds = self.shared.audio_seconds + float(heard)
            self.progress.seconds, self.progress.step = float(clock[0]), int(clock[1])
        self.shared = replace(self.progress)

    def _average_weights(self) -> None:
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

    def _probe(self) -> None:
        features = [example.features for example in self.probe]
        truth = [example.text for example in self.probe]
        for name, (_, body, acoustic, _) in self._averaged().networks().items():
            rate = word_error_rate(truth, greedy_texts(body.eval(), acoustic.eval(), self.pieces, features))
            self.logger.info("%s: word error rate on %d held-out sentences %.1f %%", name, len(truth), 100 * rate)
            if name == self.point.name:
                curves.add(self.recipe, name, self.progress.seconds / 60, {"word error rate": rate})

    def _averaged(self) -> Recogniser:
        phonemes = self.average["phonemes.bias"].numel() if self.inner is None else 0
        network = Recogniser(self.point, len(self.pieces.pieces()), phonemes, self.inner)
        network.load_state_dict(self.average)
        return network

    def _save_checkpoint(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "progress": self.progress,
        }
        path = checkpoint_path(self.recipe, self.point.name)
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average = {name: tensor.to(self.device) for name, tensor in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = state["progress"]

    def _publish(self) -> None:
        self._probe()
        tokens = {"tokens": json.dumps(self.pieces.pieces())}
        within = None
        for point, body, acoustic, decoder in self._averaged().networks().values():
            path = weight_path(self.recipe, point, "body")
            reference.save(path, "body", body, {}, within=within)
            within = path
            reference.save(weight_path(self.recipe, point, "am_en"), "acoustic", acoustic, tokens)
            reference.save(weight_path(self.recipe, point, "decoder"), "decoder", decoder, {})


def share_weights(parameters: Sequence[nn.Parameter], steps: int) -> None:
    """Put in place of each weight its mean over all processes, each counting by the steps that it has made."""
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters]) * steps
    total = torch.tensor([float(steps)], device=flat.device)
    distributed.all_reduce(flat)
    distributed.all_reduce(total)
    with torch.no_grad():
        parts = torch.split(flat / total, [each.numel() for each in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))


def checkpoint_path(recipe: Recipe, point: str) -> Path:
    """Say where a run keeps what it needs to go on."""
    return recipe.out / f"recogniser-{point}.pt"


def read_checkpoint(recipe: Recipe, point: str) -> dict[str, Any]:
    """Give what the training of a point saved last. Raises MissingDataError before it."""
    path = checkpoint_path(recipe, point)
    if not path.is_file():
        raise MissingDataError(path, point)
    return torch.load(path, weights_only=False, map_location="cpu")  # type: ignore[no-any-return]
