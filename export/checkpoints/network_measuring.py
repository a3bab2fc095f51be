"""Measure a recogniser that was imported as torch networks, as export.checkpoints.measuring measures a graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.checkpoints import measuring
from export.checkpoints.imported import Imported
from export.speech import Samples

LARGEST_FP16 = 65_504.0
# Recordings differ in loudness and in voice, so a network that comes this close to the limit may exceed it.
_HEADROOM = 4.0


def measured(found: Imported, subject: Path) -> Imported:
    """Return a network with what a measurement on real speech finds; raise CheckpointError for one that fails.

    Its padding becomes `exact` where padded items have other results than alone.
    """
    with _largest_values(found.encoder) as largest:
        result = measuring.measure(
            lambda audio, lengths: _log_probs(found, audio, lengths),
            subject,
            found.frames,
            found.tokens.blank,
            found.audio.sample_rate_hz,
        )
    remarks = (*found.remarks, *result.remarks(found.tokens.blank, found.tokens.pieces), result.figures())
    audio = replace(found.audio, padding=result.padding)
    return replace(found, audio=audio, remarks=(*remarks, *_headroom(max(largest, default=0.0))))


def _log_probs(found: Imported, audio: Samples, lengths: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    head: Any = found.head
    with torch.no_grad():
        encoded, frames = found.encoder(torch.from_numpy(audio), torch.from_numpy(lengths))
        return head.log_probs(encoded).numpy(), frames.numpy()


@contextmanager
def _largest_values(network: nn.Module) -> Iterator[list[float]]:
    """Collect the largest absolute value of every output of the layers with weights."""
    found: list[float] = []

    def note(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            found.append(float(output.abs().max()))

    layers = [each for each in network.modules() if not list(each.children()) and list(each.parameters())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _headroom(largest: float) -> Iterator[str]:
    yield f"The largest value that a layer returned is {largest:.3g}; FP16 ends at {LARGEST_FP16:,.0f}."
    if largest * _HEADROOM > LARGEST_FP16:
        yield (
            "This is close to the end of FP16, so louder speech may exceed it. Compare transcripts of FP16 and FP32 "
            "before you serve it on GPUs."
        )
