"""The second part of the recogniser's training: its upper layers learn how words are spelt.

After the joint training the lower layers know which sounds are heard, while most errors are words spelt as they sound.
So what the lower layers put out is computed once and kept, and the upper layers, head and decoder go over it many more
times, several times as fast as the whole would.
"""

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

from export.networks.body import subsampled
from export.networks.layers import valid_positions
from training import dataset, recogniser, reporting
from training.dataset import Example
from training.recipe import Recipe
from training.recogniser import Recogniser
from training.tokenizer import Tokenizer

# Blocks from this one on are trained; the phonemes were read from the block it opens.
FIRST_TRAINED_BLOCK = 4
ENCODER_FRAMES = 900
PEAK_LEARNING_RATE = 1.0e-3
WARM_UP_STEPS = 100
AVERAGE_DECAY = 0.998
PUBLISH_SECONDS = 150.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What the lower layers make of an utterance, FP16 [time, size], and its tokens."""

    values: Tensor
    tokens: tuple[int, ...]


def train(recipe: Recipe) -> None:
    """Go on from the checkpoint of the joint training for the recipe's minutes."""
    store = recipe.out / "rendezvous"
    store.unlink(missing_ok=True)
    spawn(_train_in_process, args=(recipe, store.resolve()), nprocs=recipe.processes)  # type: ignore[no-untyped-call]
    recogniser.evaluate(recipe)


def through(blocks: nn.ModuleList, values: Tensor, lengths: Tensor) -> Tensor:
    """Run some blocks of the body: [batch, time, size] and INT [batch] -> the same shape, zero where padded."""
    valid = valid_positions(lengths, values.shape[1])
    for block in blocks:
        values = block(values, valid, valid[:, None, None, :])
    return values * valid[..., None]


@torch.no_grad()
def lower_layers(network: Recogniser, examples: Sequence[Example], pieces: Tokenizer) -> list[Heard]:
    """Run the frozen blocks over all examples, batches of like length at a time."""
    heard: list[Heard | None] = [None] * len(examples)
    frames = [len(example.features) for example in examples]
    for group in dataset.buckets(frames, 8000, random.Random(0)):
        features, lengths = dataset.padded([examples[index].features for index in group])
        encoded_lengths = subsampled(torch.from_numpy(lengths)).clamp(min=1)
        values = network.body.subsampling(network.body.feature_norm(torch.from_numpy(features)))
        values = through(network.body.blocks[:FIRST_TRAINED_BLOCK], values, encoded_lengths)
        for index, row, length in zip(group, values.half(), encoded_lengths.tolist(), strict=True):
            heard[index] = Heard(values=row[:length].clone(), tokens=tuple(pieces.encode(examples[index].text)))
    return [each for each in heard if each is not None]


class SpellingTrainer:
    """One of the processes; each keeps and hears its own part of the utterances."""

    def __init__(self, recipe: Recipe, rank: int) -> None:
        self.recipe, self.rank, self.logger = recipe, rank, reporting.open_log(recipe)
        data = dataset.load(recipe)
        self.probe = data.part("grammar")[: recogniser.PROBE_SIZE]
        self.pieces = Tokenizer(recogniser.tokenizer_path(recipe))
        weights = recogniser.read_checkpoint(recipe)["average"]
        self.network = Recogniser(weights["phonemes.bias"].numel())
        self.network.load_state_dict(weights)
        started = time.monotonic()
        self.heard = lower_layers(self.network.eval(), data.part("train")[rank :: recipe.processes], self.pieces)
        self.logger.info("spelling: lower layers done in %.0f s", time.monotonic() - started)
        self.average = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        trained = (*self.network.body.blocks[FIRST_TRAINED_BLOCK:], self.network.acoustic, self.network.decoder)
        self.parameters = [parameter for module in trained for parameter in module.parameters()]
        self.optimiser = torch.optim.AdamW(self.parameters, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.step, self.seconds, self.audio_seconds = 0, 0.0, 0.0

    def run(self) -> dict[str, Any]:
        """Train until the time is used up and give what was done."""
        distributed.barrier()
        budget, start = self.recipe.spelling_minutes * 60, time.monotonic()
        published = reported = start
        for values, lengths, tokens, token_lengths in self._batches():
            losses = self._step(values, lengths, tokens, token_lengths, self.seconds / budget)
            now = time.monotonic()
            self.seconds = recogniser.agreed(now - start)
            if self.seconds >= budget:
                break
            if self.rank == 0 and now - reported > 10:
                reported = now
                text = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
                rate = self.audio_seconds / self.seconds
                self.logger.info(
                    "spelling: %.1f min, step %d, %.0f x real time: %s", self.seconds / 60, self.step, rate, text
                )
            if self.rank == 0 and now - published > PUBLISH_SECONDS:
                published = now
                self._publish()
        if self.rank == 0:
            self._publish()
            torch.save({"average": self.average, "network": self.network.state_dict()}, self.recipe.out / "spelling.pt")
        return {
            "spelling_minutes": round(self.seconds / 60, 1),
            "spelling_steps": self.step,
            "spelling_hours_trained": round(self.audio_seconds / 3600, 1),
        }

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        frames = [len(each.values) for each in self.heard]
        epoch = 0
        while True:
            source = random.Random(f"{self.recipe.seed} spelling {epoch} {self.rank}")
            for group in dataset.buckets(frames, ENCODER_FRAMES, source):
                chosen = [self.heard[index] for index in group]
                values = nn.utils.rnn.pad_sequence([each.values.float() for each in chosen], batch_first=True)
                tokens = nn.utils.rnn.pad_sequence(
                    [torch.tensor(each.tokens) for each in chosen], batch_first=True, padding_value=2
                )
                yield (
                    values,
                    torch.tensor([len(each.values) for each in chosen]),
                    tokens,
                    torch.tensor([len(each.tokens) for each in chosen]),
                )
            epoch += 1

    def _step(
        self, values: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor, share: float
    ) -> dict[str, float]:
        encoded = through(self.network.body.blocks[FIRST_TRAINED_BLOCK:], values, lengths)
        ctc, decoder = recogniser.token_losses(self.network, encoded, lengths, tokens, token_lengths)
        self.optimiser.zero_grad(set_to_none=False)
        torch.autograd.backward(recogniser.CTC_WEIGHT * ctc + recogniser.DECODER_WEIGHT * decoder)
        recogniser.share_gradients(self.parameters, self.recipe.processes)
        nn.utils.clip_grad_norm_(self.parameters, recogniser.LARGEST_GRADIENT)
        warm = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        for group in self.optimiser.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
        self.optimiser.step()
        self.step += 1
        self.audio_seconds += float(lengths.sum()) * 0.04 * self.recipe.processes
        if self.rank == 0:
            decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
            for name, tensor in self.network.state_dict().items():
                self.average[name].lerp_(tensor, 1.0 - decay)
        return {"ctc": float(ctc.detach()), "decoder": float(decoder.detach())}

    def _publish(self) -> None:
        recogniser.publish(self.recipe, self.average, self.pieces, self.probe)


def _train_in_process(rank: int, recipe: Recipe, store: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=recipe.processes)
    torch.manual_seed(recipe.seed)
    done = SpellingTrainer(recipe, rank).run()
    if rank == 0:
        reporting.record(recipe, "spelling", done)
    distributed.destroy_process_group()
