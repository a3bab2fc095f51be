"""python -m benchmarks.jobs: a folder of recordings one at a time against several at a time, with the real server.

The recordings are parts of the demonstration's dialogue, 3 to 11 s long, so that the pauses between them count. The
times of both are measured alternately, at the same server. Memory is the largest of the command, for a short and for a
long list.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import soundfile

from benchmarks.measuring import Comparison, alternate, seconds, show
from benchmarks.recordings import DIALOGUE
from benchmarks.server import ensure_bundle, served
from contract import command_line

COUNT, TIMES_LONGER, ROUNDS = 24, 8, 5


def write_recordings(folder: Path, count: int) -> None:
    """Write parts of the dialogue, of 3 to 11 s."""
    samples, rate_hz = soundfile.read(DIALOGUE)
    generator = np.random.default_rng(1)
    for number in range(count):
        length = generator.integers(3 * rate_hz, 11 * rate_hz)
        start = generator.integers(len(samples) - length)
        soundfile.write(folder / f"{number:04d}.wav", samples[start : start + length], rate_hz)


def transcribe(endpoint: str, calls: Path, jobs: int) -> None:
    """Run the command on a folder, with its results in another one."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "transcriber", str(calls), "--endpoint", endpoint, "--output", out]
        options = ["--operating-point", "standard", "--jobs", str(jobs)]
        subprocess.run([*command, *options], check=True, stderr=subprocess.DEVNULL)


def peak_mib(endpoint: str, calls: Path, jobs: int) -> float:
    """Return the largest memory of the command, which runs as a child of a process of its own."""
    program = (
        "import resource, sys; from pathlib import Path; from benchmarks import jobs; "
        "jobs.transcribe(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    command = [sys.executable, "-c", program, endpoint, str(calls), str(jobs)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(endpoint: str, folder: Path, jobs: int, rounds: int) -> list[Comparison]:
    """Compare times of one and of several at a time, and memory of a short and a long list."""
    short, long = folder / "short", folder / "long"
    for calls, count in ((short, COUNT), (long, COUNT * TIMES_LONGER)):
        calls.mkdir()
        write_recordings(calls, count)
    times = alternate(
        rounds,
        lambda: seconds(lambda: transcribe(endpoint, short, 1)),
        lambda: seconds(lambda: transcribe(endpoint, short, jobs)),
    )
    memory = [(peak_mib(endpoint, short, jobs), peak_mib(endpoint, long, jobs))]
    several = f"--jobs {jobs}"
    return [
        Comparison.of_pairs(
            times, title=f"{COUNT} short recordings", unit="seconds", first="one at a time", second=several
        ),
        Comparison.of_pairs(
            memory,
            title=f"largest memory with {several}",
            unit="MiB",
            first=f"{COUNT} recordings",
            second=f"{COUNT * TIMES_LONGER} recordings",
        ),
    ]


@click.command()
@click.option("--jobs", default=4, show_default=True, type=click.IntRange(2, 64), help="Recordings at a time.")
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1), help="Rounds of each measurement.")
@command_line.verbose_option()
def command(jobs: int, rounds: int) -> None:
    """Measure several recordings at a time."""
    ensure_bundle()
    folder = Path(tempfile.mkdtemp())
    try:
        with served() as endpoint:
            for comparison in measure(endpoint, folder, jobs, rounds):
                show(comparison)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    command_line.run(command)
