"""Greedy transcripts of the development sets, and the word error rates of saved weights."""

import json
from collections.abc import Sequence
from typing import Any

import jiwer
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.checkpoints import reference
from training import dataset, reporting
from training.checkpoints import read_checkpoint, weight_path
from training.dataset import TRAINING_PARTS
from training.recipe import Point, Recipe
from training.tokenizer import Tokenizer
from transcriber.ctc import Emissions, greedy

BATCH_FRAMES = 8000
# Chunks that are evaluated: milliseconds to encoder frames, with the past that a stream would keep.
STREAMING_CHUNKS, STREAMING_LEFT = {640: 16, 320: 8}, 128


def evaluate(recipe: Recipe, point: Point) -> None:
    """Measure the saved FP16 weights of a point on the development parts, and record the figures."""
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


@torch.inference_mode()
def greedy_texts(
    body: Any,
    acoustic: nn.Module,
    pieces: Tokenizer,
    features: Sequence[NDArray[np.float16]],
    *,
    chunk: int | None = None,
    left: int | None = None,
) -> list[str]:
    """Transcribe log-mel features [frames, 80] by the best token of every frame, without search or rescoring.

    `chunk` and `left` limit the visible context as in real time; the body's `encode` explains them.
    """
    order = sorted(range(len(features)), key=lambda index: len(features[index]))
    texts, spec = [""] * len(features), pieces.spec()
    for group in _groups(order, features):
        batch, lengths = dataset.pad([features[index] for index in group])
        encoded, _, encoded_lengths = body.encode(
            torch.from_numpy(batch), torch.from_numpy(lengths), chunk=chunk, left=left
        )
        log_probs, tokens = (output.numpy() for output in acoustic(encoded, encoded_lengths))
        for row, (index, length) in enumerate(zip(group, encoded_lengths.tolist(), strict=True)):
            emissions = Emissions(log_probs=log_probs[row, :length], tokens=tokens[row, :length])
            texts[index] = pieces.decode(greedy(emissions, spec).tokens)
    return texts


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the word error rate over all texts together."""
    return float(jiwer.wer(list(references), list(hypotheses)))


def _groups(order: Sequence[int], features: Sequence[NDArray[np.float16]]) -> list[list[int]]:
    groups: list[list[int]] = []
    for index in order:
        if groups and len(features[index]) * (len(groups[-1]) + 1) <= BATCH_FRAMES:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
