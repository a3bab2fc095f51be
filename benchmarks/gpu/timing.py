"""Times on the device: warm-up, then medians over rotating inputs, alone and back to back."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.gpu.device import Device

# Of the time of a case, in addition to it.
_WARM_UP_SHARE = 0.2
_LEAST_ROUNDS, _MOST_ROUNDS, _BURST = 8, 200, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Milliseconds of one run: alone (the median, the 90th percentile, the least), and within a full queue."""

    median_ms: float
    p90_ms: float
    least_ms: float
    queued_ms: float
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for a file."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


def measure(device: Device, enqueue: Callable[[int], None], count: int, seconds: float) -> Timing:
    """Time runs for about so many seconds, turning through `count` distinct inputs."""
    once_ms = max(_warm_up(device, enqueue, count, seconds), 1e-3)
    rounds = min(max(int(500 * seconds / once_ms), _LEAST_ROUNDS), _MOST_ROUNDS)
    alone = sorted(device.elapsed_ms(lambda number=index % count: enqueue(number)) for index in range(rounds))  # type: ignore[misc]
    queued = [device.elapsed_ms(lambda: _burst(enqueue, count)) / _BURST for _ in range(max(3, rounds // _BURST))]
    return Timing(
        median_ms=statistics.median(alone),
        p90_ms=alone[min(rounds - 1, int(0.9 * rounds))],
        least_ms=alone[0],
        queued_ms=statistics.median(queued),
        rounds=rounds,
    )


def _warm_up(device: Device, enqueue: Callable[[int], None], count: int, seconds: float) -> float:
    """Run every input, and go on until the clocks are up; return the time of the last run."""
    spent = last = 0.0
    for index in range(_MOST_ROUNDS):
        number = index % count
        last = device.elapsed_ms(lambda: enqueue(number))  # noqa: B023 - it is called at once
        spent += last
        if index + 1 >= count and spent >= 1000 * _WARM_UP_SHARE * seconds:
            break
    return last


def _burst(enqueue: Callable[[int], None], count: int) -> None:
    for index in range(_BURST):
        enqueue(index % count)
