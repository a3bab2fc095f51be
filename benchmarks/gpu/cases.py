"""The cases that are measured: every bucket and batch of an engine, and how much audio each stands for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu.device import Arrays
from contract import synthetic_inputs
from contract.catalogue import BATCH, ENCODER_FRAMES, SAMPLES, SPEAKER_WINDOWS, Family, Mode

# Seconds of audio of one step along an axis of the reference networks. The first of these axes that a mode has counts.
_AXIS_S = {SAMPLES: 1 / 16_000, ENCODER_FRAMES: 0.04}
# Several distinct inputs: with a single one, the caches of the GPU would flatter the engine.
DISTINCT_INPUTS = 4
_SEED = 23


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Sizes of one measurement: the batch, and every axis whose size changes."""

    sizes: dict[str, int]
    audio_s: float | None
    """Seconds of audio in the whole batch; None where the inputs are no audio."""
    is_optimum: bool
    """Whether it is the size that the engine is optimised for."""

    @property
    def name(self) -> str:
        """Name the case: `batch 8 samples 128000`."""
        return " ".join(f"{axis} {size}" for axis, size in self.sizes.items())

    def hours_an_hour(self, milliseconds: float) -> float | None:
        """Return the hours of audio that an hour holds, one batch after the other."""
        return None if self.audio_s is None or milliseconds <= 0 else self.audio_s / (milliseconds / 1000)


def cases(mode: Mode) -> list[Case]:
    """List every bucket of the axis of audio, or of the first axis that has some, at three batches.

    The other axes are at their optimum.
    """
    optimum = {axis: extent.opt for axis, extent in mode.axes.items()}
    if SAMPLES in optimum:
        # They follow from the samples.
        for axis in (ENCODER_FRAMES, SPEAKER_WINDOWS):
            optimum.pop(axis, None)
    batches = dict.fromkeys((mode.batch.min, mode.batch.opt, mode.batch.max))
    return [
        Case(
            sizes={BATCH: batch, **sizes},
            audio_s=_audio_s(mode, sizes, batch),
            is_optimum=batch == mode.batch.opt and sizes == optimum,
        )
        for sizes in _buckets(mode, optimum)
        for batch in batches
    ]


def feeds(family: Family, dims: dict[str, int], case: Case, count: int = DISTINCT_INPUTS) -> list[Arrays]:
    """Make distinct inputs for a case, the same at every call."""
    generator: Any = np.random.default_rng(_SEED)
    return [synthetic_inputs.make_inputs(family, {**dims, **case.sizes}, generator) for _ in range(count)]


def _buckets(mode: Mode, optimum: dict[str, int]) -> Iterator[dict[str, int]]:
    axis = next((name for name in (*_AXIS_S, *optimum) if name in optimum and mode.axes[name].buckets), None)
    if axis is None:
        yield optimum
        return
    for size in sorted({*mode.axes[axis].buckets, optimum[axis]}):
        yield {**optimum, axis: size}


def _audio_s(mode: Mode, sizes: dict[str, int], batch: int) -> float | None:
    axis = next((name for name in _AXIS_S if name in sizes), None)
    if axis is None:
        return None
    # Of a window of a stream, the end belongs to the next window as well.
    counted = sizes[axis] - (mode.overlap if axis == SAMPLES else 0)
    return batch * counted * _AXIS_S[axis]
