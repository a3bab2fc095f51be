"""python -m benchmarks.realtime: the delay of live transcripts, by the number of simultaneous streams.

Every stream is a client in a process of its own that sends the demonstration's dialogue in real time. The streams begin
when all are connected, at different places of the dialogue and not at the same moment, as those of different callers.
When the machine cannot keep up, delays grow with the length of the streams instead of staying constant.
"""

import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import click
import numpy as np

from benchmarks.recordings import DIALOGUE
from benchmarks.server import Server, started, update_bundle
from contract import command_line, files
from contract.access import from_environment
from contract.catalogue import read_catalogue
from transcriber import realtime
from transcriber.audio import SAMPLE_RATE_HZ, Recording, Samples
from transcriber.connection import Connection
from transcriber.pipeline import Plan
from transcriber.session import Final, Partial
from transcriber.triton_recogniser import connect_streams

RESULTS = Path("dist/benchmarks/realtime.json")
STREAMS = (1, 2, 4, 8)
SECONDS = 40.0
STEP_SAMPLES = SAMPLE_RATE_HZ // 10
# The streams begin within this time.
STAGGER_S = 1.0
# Of this process: the barrier of all streams.
_BARRIER: list[Barrier] = []


@dataclass(frozen=True, kw_only=True, slots=True)
class Delays:
    """Delays of transcripts in seconds, over all simultaneous streams.

    `partials` count from the last sample that they cover, `finals` from the end of their segment, 0.2 s after the last
    voice.
    """

    streams: int
    operating_point: str
    partials: tuple[float, ...]
    finals: tuple[float, ...]
    client_cores: float = 0.0
    """The cores that the clients kept busy."""
    server_cores: float = 0.0
    """The cores that the server kept busy, also while the clients connected."""

    def to_dict(self) -> dict[str, Any]:
        """Return the quantiles and the number of delays, for a JSON file."""
        return {
            "streams": self.streams,
            "operating_point": self.operating_point,
            "partials": _quantiles(self.partials),
            "finals": _quantiles(self.finals),
            "client_cores": round(self.client_cores, 2),
            "server_cores": round(self.server_cores, 2),
        }


class PacedRecording:
    """A source that yields a recording in real time."""

    was_stopped = False

    def __init__(self, path: Path, seconds: float, begin: float = 0.0) -> None:
        """Read some seconds of a recording, which begins again at its end; `begin` is the share that comes last."""
        self._recording = Recording(path)
        self.began = time.monotonic()
        samples = np.concatenate(list(self._recording.blocks()))
        samples = np.roll(samples, -round(begin * samples.size))
        self._samples = np.resize(samples, round(seconds * SAMPLE_RATE_HZ))
        self.read_s = 0.0

    def recording(self) -> Recording:
        """Return the recording."""
        return self._recording

    def blocks(self) -> Iterator[Samples]:
        """Yield blocks of 0.1 s, each at the time of its last sample."""
        self.began = time.monotonic()
        for start in range(0, self._samples.size, STEP_SAMPLES):
            block = self._samples[start : start + STEP_SAMPLES]
            self.read_s = (start + block.size) / SAMPLE_RATE_HZ
            time.sleep(max(0.0, self.began + self.read_s - time.monotonic()))
            yield block

    def stop(self) -> None:
        """Do nothing: the benchmark is never interrupted."""


@click.command()
@click.option(
    "--streams",
    multiple=True,
    type=click.IntRange(1),
    default=STREAMS,
    show_default=True,
    help="Number of simultaneous streams; may be repeated.",
)
@click.option("--operating-point", "points", multiple=True, help="[default: all]")
@click.option("--seconds", default=SECONDS, show_default=True, help="Length of every stream.")
@command_line.verbose_option()
def command(streams: tuple[int, ...], points: tuple[str, ...], seconds: float) -> None:
    """Serve the bundle of this machine in real-time mode and measure the delays of its transcripts."""
    _run(streams, points or read_catalogue().operating_points, seconds)


def _run(streams: Sequence[int], points: Sequence[str], seconds: float) -> None:
    update_bundle()
    found = []
    with started(SM_BATCH_MODE="false") as server:
        for point in points:
            print(f"\n{point}: delay in seconds, median, 95th and 99th percentile; cores of clients and server")
            for count in streams:
                found.append(measure(server, point, count, seconds))
                print(line(found[-1]), flush=True)
    files.write(RESULTS, json.dumps([each.to_dict() for each in found], indent=2) + "\n")
    print(f"\n{RESULTS}")


def measure(server: Server, point: str, streams: int, seconds: float) -> Delays:
    """Measure some simultaneous streams, each with a client in a process of its own."""
    # One process imports everything, and the others are copies of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.realtime"])
    before_s = server.processor_s()
    with context.Pool(streams, _set_barrier, (context.Barrier(streams),)) as pool:
        tasks = [(server.endpoint, point, seconds, number / streams) for number in range(streams)]
        parts = pool.starmap(_transcribe_stream, tasks, 1)
    server_s = server.processor_s() - before_s
    return Delays(
        streams=streams,
        operating_point=point,
        partials=tuple(delay for part in parts for delay in part.partials),
        finals=tuple(delay for part in parts for delay in part.finals),
        client_cores=sum(part.processor_s for part in parts) / max(part.wall_s for part in parts),
        server_cores=server_s / max(part.wall_s for part in parts),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stream:
    partials: list[float]
    finals: list[float]
    processor_s: float
    wall_s: float


def _set_barrier(barrier: Barrier) -> None:
    _BARRIER.append(barrier)


def _transcribe_stream(endpoint: str, point: str, seconds: float, place: float) -> _Stream:
    connection = Connection(endpoint, access=from_environment(), one_server=True)
    recogniser = connect_streams(connection, read_catalogue(), "en", point)
    source: Any = PacedRecording(DIALOGUE, seconds, place)
    partials, finals = list[float](), list[float]()

    def record(event: Partial | Final) -> None:
        delay = time.monotonic() - source.began - event.end_s
        (finals if isinstance(event, Final) else partials).append(delay)

    _BARRIER[0].wait()
    time.sleep(place * STAGGER_S)
    began_s, spent_s = time.monotonic(), time.process_time()
    realtime.transcribe(source, recogniser, Plan(), record)
    return _Stream(
        partials=partials,
        finals=finals,
        processor_s=time.process_time() - spent_s,
        wall_s=time.monotonic() - began_s,
    )


def _quantiles(delays: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(delays),
        "median": round(statistics.median(delays), 3),
        "p95": round(float(np.quantile(delays, 0.95)), 3),
        "p99": round(float(np.quantile(delays, 0.99)), 3),
    }


def line(delays: Delays) -> str:
    """Return the figures of some streams as a line of text."""
    found = delays.to_dict()
    parts = [
        f"{name} {found[name]['median']:.2f} {found[name]['p95']:.2f} {found[name]['p99']:.2f}"
        for name in ("partials", "finals")
    ]
    cores = f"cores {found['client_cores']:.2f} {found['server_cores']:.2f}"
    return f"  {delays.streams:2d} streams: {', '.join([*parts, cores])}"


if __name__ == "__main__":
    command_line.run(command)
