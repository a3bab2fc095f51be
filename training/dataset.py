"""The data set of training: its shards, batching by length, and padding."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import corpus, synthesis
from training.errors import MissingDataError
from training.recipe import Recipe
from training.synthesis import Utterance

TRAINING_PARTS = ("train", "library", "meetings")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One utterance: log-mel FP16 [frames, 80], a phoneme number for each frame, transcript, and speaker or ""."""

    part: str
    text: str
    speaker: str
    features: NDArray[np.float16]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """All examples, and the phonemes by label number; number 0 is an unknown phoneme."""

    examples: tuple[Example, ...]
    phonemes: tuple[str, ...]

    @property
    def parts(self) -> set[str]:
        """Return the names of all parts."""
        return {example.part for example in self.examples}

    def part(self, name: str) -> tuple[Example, ...]:
        """Return the examples of a training set or of one part of the development set."""
        return tuple(example for example in self.examples if example.part == name)


def prepare(recipe: Recipe) -> None:
    """Synthesise the plans of a recipe into its folder of shards."""
    synthesis.require_programs()
    for name, utterances in plans(recipe).items():
        synthesis.write_shards(
            utterances, recipe.shards, shard_size=recipe.shard_size, processes=recipe.processes, name=name
        )


def plans(recipe: Recipe) -> dict[str, tuple[Utterance, ...]]:
    """Draw all utterances, by the name of their shards; the first set includes those of the development set."""
    library = corpus.library_prose(recipe.library)
    return {
        "shard": synthesis.plan(recipe.utterances, recipe.evaluation_utterances, recipe.seed),
        "library": synthesis.library_plan(library, recipe.library_utterances, recipe.seed),
        "meetings": synthesis.meetings_plan(recipe.meetings_utterances, recipe.seed),
    }


def load(recipe: Recipe) -> Dataset:
    """Map the shards into memory. Raises MissingDataError when there are none."""
    folders = sorted(path for path in recipe.shards.glob("*-*") if path.suffix != ".partial")
    if not folders:
        raise MissingDataError(recipe.shards, "data")
    phonemes: dict[str, int] = {synthesis.UNKNOWN_PHONEME: 0}
    examples = [example for folder in folders for example in _read_shard(folder, phonemes)]
    return Dataset(examples=tuple(examples), phonemes=tuple(phonemes))


def statistics(examples: Sequence[Example]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean and the standard deviation of each mel band, [80] each, over at most a thousand examples."""
    chosen = random.Random(0).sample(examples, min(1000, len(examples)))
    frames = np.concatenate([example.features for example in chosen]).astype(np.float32)
    return frames.mean(axis=0), frames.std(axis=0)


def buckets(lengths: Sequence[int], frames: int, source: random.Random) -> list[list[int]]:
    """Group examples of similar length into batches of at most `frames` padded frames, in random order.

    Lengths are randomised by a tenth, so that batches differ between epochs.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index] * source.uniform(0.95, 1.05))
    batches: list[list[int]] = [[]]
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        if batches[-1] and longest * (len(batches[-1]) + 1) > frames:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    source.shuffle(batches)
    return batches


def pad(features: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Stack features into FP32 [batch, frames, 80], padded with zeros, and return their lengths too."""
    lengths = np.asarray([len(one) for one in features], dtype=np.int64)
    batch = np.zeros((len(features), int(lengths.max()), features[0].shape[1]), dtype=np.float32)
    for row, one in zip(batch, features, strict=True):
        row[: len(one)] = one
    return batch, lengths


def _read_shard(folder: Path, phonemes: dict[str, int]) -> Iterator[Example]:
    index = json.loads((folder / "index.json").read_text())
    numbers = np.asarray([phonemes.setdefault(name, len(phonemes)) for name in index["phonemes"]], dtype=np.uint8)
    features = np.load(folder / "features.npy", mmap_mode="r")
    labels = numbers[np.load(folder / "labels.npy")]
    position = 0
    for one in index["utterances"]:
        span = slice(position, position := position + one["frames"])
        yield Example(
            part=one["part"], text=one["text"], speaker=one["speaker"], features=features[span], labels=labels[span]
        )
