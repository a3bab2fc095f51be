"""python -m benchmarks.client: the processor seconds of the command line per hour of audio, and which part takes them.

The recording is the demonstration's dialogue, repeated for an hour. A command for a second of it shows what every
command costs: imports, the checks of the server, the n-gram model. With `--other` the client of another checkout
transcribes the same recording alternately, with the same server. Processor seconds are those of all threads of the
client, in user and kernel mode, and depend less on other load of the machine than durations.
"""

import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import soundfile

from benchmarks.measuring import Comparison, show
from benchmarks.recordings import DIALOGUE, repeat_dialogue
from benchmarks.server import ensure_bundle, served
from contract import command_line, files
from contract.catalogue import read_catalogue
from contract.errors import SettingError

RESULTS = Path("dist/benchmarks/client.json")
MINUTES, ROUNDS = 60, 3
HOUR_S = 3_600
SHORT_S = 1
THIS, OTHER = "this checkout", "the other one"


def write_recordings(folder: Path, minutes: float) -> tuple[Path, Path, float]:
    """Write a recording of a second, and one of at least `minutes`; return their paths, and the hours of the second."""
    samples, rate_hz = soundfile.read(DIALOGUE, dtype="int16")
    short, long = folder / "short.flac", folder / "long.flac"
    soundfile.write(short, samples[: SHORT_S * rate_hz], rate_hz)
    return short, long, repeat_dialogue(long, math.ceil(minutes * 60 * rate_hz / len(samples))) / HOUR_S


def processor_s(checkout: Path, endpoint: str, point: str, recording: Path) -> float:
    """Run the command line of a checkout, and return its processor seconds; raise SettingError when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "transcriber", str(recording), "--endpoint", endpoint]
        options = ["--operating-point", point, "--format", "json-v2", "--output", f"{folder}/"]
        before = _children_s()
        found = subprocess.run([*command, *options], check=False, cwd=checkout, stderr=subprocess.PIPE, text=True)
        if found.returncode:
            *_, message = ["without a message", *found.stderr.strip().splitlines()]
            cause = f"its client ended with exit code {found.returncode} ({message})"
            raise SettingError(f"checkout {checkout}", cause, "Use one whose client takes the models of this checkout")
        return _children_s() - before


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(
    checkouts: tuple[Path, Path], endpoint: str, point: str, recordings: tuple[Path, Path, float], rounds: int
) -> list[Comparison]:
    """Compare two checkouts: what a command costs at its start, and what an hour of audio costs after that."""
    short, long, hours = recordings
    starts, rest = [], []
    for _ in range(rounds):
        start = [processor_s(checkout, endpoint, point, short) for checkout in checkouts]
        whole = [processor_s(checkout, endpoint, point, long) for checkout in checkouts]
        starts.append((start[0], start[1]))
        rest.append(((whole[0] - start[0]) / hours, (whole[1] - start[1]) / hours))
    return [
        Comparison.of_pairs(pairs, title=f"{point}: {title}", unit="processor s", first=OTHER, second=THIS)
        for title, pairs in (("the start of a command", starts), ("an hour of audio, without the start", rest))
    ]


def parts(endpoint: str, point: str, recordings: tuple[Path, Path, float]) -> dict[str, float]:
    """Return the processor seconds of each part per hour of audio, measured in a process of its own."""
    _, long, hours = recordings
    command = [sys.executable, "-m", "benchmarks.client_parts", endpoint, point, str(long)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {part: seconds / hours for part, seconds in found.items()}


def show_parts(point: str, found: dict[str, float]) -> None:
    """Print a table of the parts."""
    print(f"\n{point}: processor s per hour of audio, by part")
    for part, seconds in sorted(found.items(), key=lambda pair: -pair[1]):
        print(f"  {part:<60} {seconds:8.2f}")
    print(f"  {'sum':<60} {sum(found.values()):8.2f}")


@click.command()
@click.option(
    "--minutes", default=MINUTES, show_default=True, type=click.FloatRange(min=1), help="Length of the audio."
)
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(0), help="Rounds of each comparison.")
@click.option("--other", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path(),
              help="Another checkout.  [default: this one again]")  # fmt: skip
@click.option("--operating-point", "points", multiple=True, help="Default: all.")
@command_line.verbose_option()
def command(minutes: float, rounds: int, other: Path, points: tuple[str, ...]) -> None:
    """Measure the client."""
    ensure_bundle()
    folder = Path(tempfile.mkdtemp())
    record: dict[str, Any] = {"minutes": minutes, "points": {}}
    try:
        recordings = write_recordings(folder, minutes)
        with served() as endpoint:
            for point in points or read_catalogue().operating_points:
                found = measure((other.absolute(), Path.cwd()), endpoint, point, recordings, rounds) if rounds else []
                for comparison in found:
                    show(comparison)
                by_part = parts(endpoint, point, recordings)
                show_parts(point, by_part)
                record["points"][point] = {"comparisons": [each.to_dict() for each in found], "parts": by_part}
    finally:
        shutil.rmtree(folder)
    files.write(RESULTS, json.dumps(record, indent=2) + "\n")
    print(f"\n{RESULTS}")


if __name__ == "__main__":
    command_line.run(command)
