"""python -m benchmarks.memory: the resident memory of the client while it transcribes a recording of many hours.

The recording is the demonstration's dialogue, again and again, which a pipe brings as samples: no file of that size is
needed. The memory is read each time that another part of the recording has gone into the pipe.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import soundfile

from benchmarks.measuring import memory_mib, processor_seconds
from benchmarks.recordings import DIALOGUE
from benchmarks.server import ensure_bundle, served
from contract import command_line, files

FOLDER = Path("dist/benchmarks/memory")
HOURS, POINTS = 10.0, 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The memory of the client after some hours of audio."""

    hours: float
    resident_mib: float
    wall_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The readings of a recording, and the largest memory, which counts the end of the work too."""

    readings: tuple[Reading, ...]
    peak_mib: float
    processor_s: float
    words: int

    @property
    def growth_mib(self) -> float:
        """Return the growth from a tenth of the recording to its end."""
        return self.readings[-1].resident_mib - self.readings[len(self.readings) // 10].resident_mib


def measure(endpoint: str, hours: float, points: int, operating_point: str) -> Memory:
    """Transcribe a recording of so many hours, and read the memory at so many points of it."""
    samples, rate_hz = soundfile.read(DIALOGUE, dtype="int16")
    target = FOLDER / "long.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "transcriber", "-", "--raw", f"s16le:{rate_hz}", "--endpoint", endpoint]
    options = ["--operating-point", operating_point, "--format", "json-v2", "--output", str(target)]
    began, readings = time.monotonic(), list[Reading]()
    child = subprocess.Popen([*command, *options], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if child.stdin is None:
        raise ValueError("the client has no standard input")
    with child.stdin as pipe:
        for part in _parts(samples.astype("<i2").tobytes(), round(hours * 3_600 * rate_hz) * 2, points):
            for block in part:
                pipe.write(block)
            at_hours = hours * (len(readings) + 1) / points
            now = Reading(hours=at_hours, resident_mib=memory_mib(child.pid, "VmRSS"), wall_s=time.monotonic() - began)
            readings.append(now)
            print(f"{now.hours:6.2f} h  {now.resident_mib:7.1f} MiB  {now.wall_s:6.0f} s", flush=True)
    peak = processor_s = 0.0
    while child.poll() is None:
        peak, processor_s = max(peak, memory_mib(child.pid, "VmHWM")), max(processor_s, processor_seconds(child.pid))
        time.sleep(0.05)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    words = sum(result["type"] == "word" for result in json.loads(target.read_text())["results"])
    return Memory(readings=tuple(readings), peak_mib=peak, processor_s=processor_s, words=words)


def _parts(content: bytes, total: int, count: int) -> Iterator[Iterator[bytes]]:
    """Yield a stream of `total` bytes, which repeats the content, in `count` parts of blocks."""
    for number in range(count):
        yield _blocks(content, total * number // count, total * (number + 1) // count)


def _blocks(content: bytes, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        place = start % len(content)
        block = content[place : place + min(1 << 16, end - start)]
        yield block
        start += len(block)


@click.command()
@click.option("--hours", default=HOURS, show_default=True, type=click.FloatRange(min=0.1), help="Of the recording.")
@click.option("--points", default=POINTS, show_default=True, type=click.IntRange(2), help="How often memory is read.")
@click.option("--operating-point", default="standard", show_default=True)
@command_line.verbose_option()
def command(hours: float, points: int, operating_point: str) -> None:
    """Measure the client's memory on a long recording."""
    ensure_bundle()
    with served() as endpoint:
        found = measure(endpoint, hours, points, operating_point)
    print(f"growth {found.growth_mib:.1f} MiB, peak {found.peak_mib:.1f} MiB, {found.words} words")
    files.write(FOLDER / "results.json", json.dumps(asdict(found), indent=2) + "\n")


if __name__ == "__main__":
    command_line.run(command)
