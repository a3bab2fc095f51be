"""python -m benchmarks.realtime: how far behind the voice a transcript is, with more and more streams at once.

Every stream is a client in a process of its own that hears the demonstration at the speed of sound. Where the machine
cannot keep up, delays grow with the length of the streams instead of staying what they are.
"""

import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.server import renew_bundle, served
from contract import files
from contract.catalogue import OPERATING_POINTS
from contract.errors import guard
from transcriber import realtime
from transcriber.audio import Recording, Samples
from transcriber.client import Connection, connect_streams
from transcriber.features import SAMPLE_RATE_HZ
from transcriber.pipeline import Plan
from transcriber.realtime import Final, Partial

RECORDING = Path("demo/dialogue.flac")
RESULTS = Path("dist/benchmarks/realtime.json")
STREAMS = (1, 2, 4, 8)
SECONDS = 40.0
STEP_SAMPLES = SAMPLE_RATE_HZ // 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Delays:
    """Seconds between a sound and what is told of it, over all streams that were heard at once.

    `partials` are behind the last sound that they tell of, `finals` behind the end of their segment, 0.2 s after the
    last voice.
    """

    streams: int
    operating_point: str
    partials: tuple[float, ...]
    finals: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give the quantiles and how many they are of."""
        return {
            "streams": self.streams,
            "operating_point": self.operating_point,
            "partials": _quantiles(self.partials),
            "finals": _quantiles(self.finals),
        }


class Spoken:
    """A source that gives a recording at the speed of sound."""

    was_ended = False

    def __init__(self, path: Path, seconds: float) -> None:
        """Prepare to speak the first seconds of a recording."""
        self._recording = Recording(path)
        self.began = time.monotonic()
        self._samples = np.concatenate(list(self._recording.blocks()))[: round(seconds * SAMPLE_RATE_HZ)]
        self.heard_s = 0.0

    def recording(self) -> Recording:
        """Give what it is spoken from."""
        return self._recording

    def blocks(self) -> Iterator[Samples]:
        """Give 0.1 s at a time, each when its last sample has been said."""
        self.began = time.monotonic()
        for start in range(0, self._samples.size, STEP_SAMPLES):
            block = self._samples[start : start + STEP_SAMPLES]
            self.heard_s = (start + block.size) / SAMPLE_RATE_HZ
            time.sleep(max(0.0, self.began + self.heard_s - time.monotonic()))
            yield block

    def end(self) -> None:
        """Do nothing: nobody interrupts it."""


@click.command()
@click.option("--streams", multiple=True, type=click.IntRange(1), default=STREAMS, show_default=True, help="How many.")
@click.option("--operating-point", "points", multiple=True, type=click.Choice(OPERATING_POINTS), help="[default: all]")
@click.option("--seconds", default=SECONDS, show_default=True, help="Of the demonstration, for every stream.")
def command(streams: tuple[int, ...], points: tuple[str, ...], seconds: float) -> None:
    """Serve the bundle of this machine in real-time mode, listen to it, and tell how late it is."""
    guard(lambda: _run(streams, points or OPERATING_POINTS, seconds))


def _run(streams: Sequence[int], points: Sequence[str], seconds: float) -> None:
    renew_bundle()
    found = []
    with served(SM_BATCH_MODE="false") as endpoint:
        for point in points:
            print(f"\n{point}: seconds behind the voice, median and 95th percentile")
            for count in streams:
                found.append(measure(endpoint, point, count, seconds))
                print(_line(found[-1]), flush=True)
    files.write(RESULTS, json.dumps([each.to_dict() for each in found], indent=2) + "\n")
    print(f"\n{RESULTS}")


def measure(endpoint: str, point: str, streams: int, seconds: float) -> Delays:
    """Listen to some streams at once, a client in a process each."""
    with multiprocessing.get_context("spawn").Pool(streams) as pool:
        parts = pool.starmap(_listen, [(endpoint, point, seconds)] * streams)
    return Delays(
        streams=streams,
        operating_point=point,
        partials=tuple(delay for partials, _ in parts for delay in partials),
        finals=tuple(delay for _, finals in parts for delay in finals),
    )


def _listen(endpoint: str, point: str, seconds: float) -> tuple[list[float], list[float]]:
    recogniser = connect_streams(Connection(endpoint, one_server=True), "en", point)
    source: Any = Spoken(RECORDING, seconds)
    partials, finals = list[float](), list[float]()

    def tell(said: Partial | Final) -> None:
        behind = time.monotonic() - source.began - said.end_s
        (finals if isinstance(said, Final) else partials).append(behind)

    realtime.transcribe(source, recogniser, Plan(), tell)
    return partials, finals


def _quantiles(delays: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(delays),
        "median": round(statistics.median(delays), 3),
        "p95": round(float(np.quantile(delays, 0.95)), 3),
    }


def _line(delays: Delays) -> str:
    found = delays.to_dict()
    told = ", ".join(f"{name} {found[name]['median']:.2f} {found[name]['p95']:.2f}" for name in ("partials", "finals"))
    return f"  {delays.streams:2d} streams: {told}"


if __name__ == "__main__":
    command()
