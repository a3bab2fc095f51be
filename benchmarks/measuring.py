"""Comparisons of two implementations, measured alternately, so that load on the machine affects both alike."""

import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The rounds of two implementations; `ratio` is the second's median over the first's."""

    title: str
    unit: str
    first_name: str
    first: tuple[float, ...]
    second_name: str
    second: tuple[float, ...]

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[float, float]], *, title: str, unit: str, first: str, second: str) -> Self:
        """Return the comparison of pairs of rounds; `first` and `second` are the names of the implementations."""
        return cls(
            title=title,
            unit=unit,
            first_name=first,
            first=tuple(pair[0] for pair in pairs),
            second_name=second,
            second=tuple(pair[1] for pair in pairs),
        )

    @property
    def ratio(self) -> float:
        """Return the second's median over the first's."""
        return statistics.median(self.second) / statistics.median(self.first)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures for a JSON file."""
        return {**asdict(self), "ratio": round(self.ratio, 3)}


def seconds(work: Callable[[], object]) -> float:
    """Return the duration of one round of work, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def processor_seconds(pid: int) -> float:
    """Return the processor seconds of a process and of all processes below it, since they began."""
    ticks, children = dict[int, int](), dict[int, list[int]]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name of a process, which is in brackets, may contain blanks.
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        process = int(path.parent.name)
        ticks[process] = sum(map(int, fields[11:15]))
        children.setdefault(int(fields[1]), []).append(process)
    found, waiting = 0, [pid]
    while waiting:
        process = waiting.pop()
        found += ticks.get(process, 0)
        waiting += children.get(process, [])
    return found / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int, field: str) -> float:
    """Return a size of a process, 0 once it has ended: VmRSS is its resident memory, VmHWM the largest so far."""
    try:
        found = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    # A process that has just ended has no memory any more.
    return int(found[1]) / 1024 if found else 0.0


def alternate(rounds: int, first: Callable[[], T], second: Callable[[], T]) -> list[tuple[T, T]]:
    """Measure both alternately, after one warm-up round of each."""
    first(), second()
    return [(first(), second()) for _ in range(rounds)]


def show(comparison: Comparison) -> None:
    """Print one comparison: both medians with their spread, and the ratio of the medians."""
    print(f"\n{comparison.title} ({comparison.unit}, median and range of {len(comparison.first)} rounds)")
    for name, rounds in ((comparison.first_name, comparison.first), (comparison.second_name, comparison.second)):
        print(f"  {name:<44} {sorted(rounds)[len(rounds) // 2]:8.1f}   {min(rounds):8.1f} - {max(rounds):.1f}")
    print(f"  {'ratio':<44} {comparison.ratio:8.2f}")
