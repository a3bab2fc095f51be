"""Compute numbers and times of frames that windows and convolutions make of samples."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import mul


@dataclass(frozen=True, kw_only=True, slots=True)
class Stride:
    """One step of a network over time: a window of `kernel` values every `stride`, over values padded by `padding`.

    `padding` is the sum of both sides.
    """

    kernel: int
    stride: int
    padding: int = 0

    def count(self, size: int) -> int:
        """Return the number of windows in a number of values."""
        return max(0, (size + self.padding - self.kernel) // self.stride + 1)


@dataclass(frozen=True, slots=True)
class FrameRule:
    """How a network makes frames of samples: its steps over time, the first one over the samples."""

    steps: tuple[Stride, ...]

    @classmethod
    def of(cls, *steps: tuple[int, ...]) -> "FrameRule":
        """Return the rule of steps that are written as (kernel, stride) or (kernel, stride, padding)."""
        return cls(tuple(Stride(kernel=kernel, stride=stride, padding=sum(rest)) for kernel, stride, *rest in steps))

    def count(self, samples: int) -> int:
        """Return the number of frames of a number of samples."""
        for step in self.steps:
            samples = step.count(samples)
        return samples

    @property
    def hop(self) -> int:
        """Return the number of samples from one frame to the next."""
        return prod(step.stride for step in self.steps)

    @property
    def shortest(self) -> int:
        """Return the smallest number of samples that makes a frame."""
        size = 1
        for step in reversed(self.steps):
            size = max(1, (size - 1) * step.stride + step.kernel - step.padding)
        return size

    @property
    def first_centre(self) -> float:
        """Return the sample that the first frame is centred on; half of each padding is before the values."""
        hops: Iterable[int] = accumulate((step.stride for step in self.steps[:-1]), mul, initial=1)
        return 0.5 + sum(hop * (step.kernel - 1 - step.padding) / 2 for hop, step in zip(hops, self.steps, strict=True))
