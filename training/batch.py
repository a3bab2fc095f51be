"""Batches of training: padded features and tokens, the phonemes of encoder frames, and the context that is visible."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from export.networks.conformer_encoder import subsampled
from export.networks.reserved_tokens import BOUNDARY
from training import dataset, perturb
from training.dataset import Example
from training.tokenizer import Tokenizer

# The centre of encoder frame t is feature frame 4t + 3.
SUBSAMPLING, FIRST_CENTRE = 4, 3
# A third of the batches have full context; the others a chunk and a limited past, in encoder frames of 40 ms.
FULL_CONTEXT_SHARE = 0.35
CHUNKS, LEFT_CONTEXTS = (8, 8, 8, 8, 16), (None, 64, 128, 128)
IGNORED = -100
"""The target that PyTorch's cross-entropy leaves out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Padded features FP32 [batch, frames, 80], tokens [batch, L] and phoneme labels [batch, time].

    `chunk` and `left` limit the visible context, in encoder frames; None means full context.
    """

    features: Tensor
    lengths: Tensor
    tokens: Tensor
    token_lengths: Tensor
    labels: Tensor
    chunk: int | None = None
    left: int | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on a device."""
        return replace(
            self,
            features=self.features.to(device),
            lengths=self.lengths.to(device),
            tokens=self.tokens.to(device),
            token_lengths=self.token_lengths.to(device),
            labels=self.labels.to(device),
        )


def make_batch(
    examples: Sequence[Example], pieces: Tokenizer, source: random.Random | None = None, fill: Tensor | None = None
) -> Batch:
    """Pad examples into one batch.

    With a random source, also perturb them, mask parts with `fill` [80] and choose the visible context.
    """
    chunk = left = None
    if source is None or fill is None:
        perturbed = [(example.features.astype("float32"), example.labels) for example in examples]
    else:
        perturbed = [perturb.perturb(example.features, example.labels, source) for example in examples]
        for values, _ in perturbed:
            perturb.mask(values, fill.numpy(), source)
        if source.random() >= FULL_CONTEXT_SHARE:
            chunk, left = source.choice(CHUNKS), source.choice(LEFT_CONTEXTS)
    features, lengths = dataset.pad([values for values, _ in perturbed])
    texts = [pieces.encode(example.text) for example in examples]
    longest = max(map(len, texts))
    frames = subsampled(features.shape[1])
    tokens = torch.full((len(texts), longest), BOUNDARY)
    labels = torch.full((len(texts), frames), IGNORED)
    for row, (text, (_, each)) in enumerate(zip(texts, perturbed, strict=True)):
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


def next_tokens(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return the token that follows the opening boundary and each token: [rows, L] -> [rows, L + 1].

    Positions after the closing boundary are IGNORED.
    """
    position = torch.arange(tokens.shape[1] + 1, device=tokens.device)[None, :]
    targets = functional.pad(tokens, (0, 1), value=BOUNDARY)
    targets = torch.where(position == lengths[:, None], BOUNDARY, targets)
    return torch.where(position > lengths[:, None], IGNORED, targets)
