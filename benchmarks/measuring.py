"""Two ways of doing the same, measured in turns, so that a busy machine hits both alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Rounds of two ways; `ratio` is the second's median over the first's."""

    title: str
    unit: str
    first_name: str
    first: tuple[float, ...]
    second_name: str
    second: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Give the second's median over the first's."""
        return statistics.median(self.second) / statistics.median(self.first)

    def to_dict(self) -> dict[str, Any]:
        """Give all figures for a file."""
        return {**asdict(self), "ratio": round(self.ratio, 3)}


def seconds(work: Callable[[], object]) -> float:
    """Time one round of work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(rounds: int, first: Callable[[], T], second: Callable[[], T]) -> list[tuple[T, T]]:
    """Measure both ways in turns after one round of each that does not count."""
    first(), second()
    return [(first(), second()) for _ in range(rounds)]
