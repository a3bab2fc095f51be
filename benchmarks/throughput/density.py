"""The largest number of simultaneous streams at real speed whose finals come in time."""

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.realtime import Delays

LIMIT_S = 1.0
"""The 95th percentile of the delays of finals that is still in time."""
_GROWTH = 1.5


def is_in_time(delays: Delays) -> bool:
    """Return whether the finals of some streams came in time."""
    return bool(delays.finals) and float(np.quantile(delays.finals, 0.95)) < LIMIT_S


def search(probe: Callable[[int], Delays], first: int, resolution: float) -> list[Delays]:
    """Measure numbers of streams until the largest one in time is known to a share of `resolution`; all of them.

    From `first` on the number grows until the finals are late, or shrinks until they are in time. What lies between is
    halved.
    """
    found: list[Delays] = []
    good, late, streams = 0, None, first
    while late is None or late - good > max(1, resolution * good):
        found.append(probe(streams))
        if is_in_time(found[-1]):
            good = streams
        else:
            late = streams
        if late is None:
            streams = max(good + 1, round(good * _GROWTH))
        else:
            streams = (good + late) // 2 if good else max(1, round(late / _GROWTH))
            if late == 1:
                break
    return sorted(found, key=lambda each: each.streams)


def largest(found: Sequence[Delays]) -> Delays | None:
    """Return the largest number of streams whose finals came in time; None where one stream was late already."""
    return max((each for each in found if is_in_time(each)), key=lambda each: each.streams, default=None)
