"""How good a recogniser is: greedy transcripts and their word error rate."""

from collections.abc import Sequence
from typing import Any

import jiwer
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training import dataset
from training.tokenizer import Tokenizer, collapse

BATCH_FRAMES = 8000


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
    """Transcribe log-mel features by the best token of every frame, without search and without rescoring.

    With a chunk, as in real time: see Body.encode.
    """
    order = sorted(range(len(features)), key=lambda index: len(features[index]))
    texts = [""] * len(features)
    for group in _groups(order, features):
        batch, lengths = dataset.padded([features[index] for index in group])
        encoded, _, encoded_lengths = body.encode(
            torch.from_numpy(batch), torch.from_numpy(lengths), chunk=chunk, left=left
        )
        _, tokens = acoustic(encoded, encoded_lengths)
        for index, row, length in zip(group, tokens[..., 0].tolist(), encoded_lengths.tolist(), strict=True):
            texts[index] = pieces.decode(collapse(row[:length]))
    return texts


def word_error_rate(truth: Sequence[str], answers: Sequence[str]) -> float:
    """Give the word error rate over all texts together."""
    return float(jiwer.wer(list(truth), list(answers)))


def wrong_words(truth: str, answer: str) -> int:
    """Count the words substituted, deleted and inserted."""
    counted = jiwer.process_words(truth, answer)
    return int(counted.substitutions + counted.deletions + counted.insertions)


def _groups(order: Sequence[int], features: Sequence[NDArray[np.float16]]) -> list[list[int]]:
    groups: list[list[int]] = []
    for index in order:
        if groups and len(features[index]) * (len(groups[-1]) + 1) <= BATCH_FRAMES:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
