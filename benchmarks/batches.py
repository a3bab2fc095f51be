"""python -m benchmarks.batches: how many items a server that joins requests computes at a time, as on a GPU.

A server on a CPU has no batcher, so this one has a catalogue that keeps it: what counts is how full Triton's batches
are, by its own statistics, not the time that a CPU takes for them. Excerpts of the demonstration's dialogue, with
pauses where they meet, are transcribed with each request alone and with the requests that the client joins.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import soundfile
import tritonclient.grpc as triton
from numpy.typing import NDArray

from benchmarks.graphs import LANGUAGE
from benchmarks.recordings import DIALOGUE
from benchmarks.server import ensure_bundle, started
from contract import command_line, files
from contract.access import from_environment
from contract.catalogue import CATALOGUE_FOLDER, read_catalogue
from contract.errors import ServerContractError
from transcriber.audio import Recording
from transcriber.connection import Connection
from transcriber.pipeline import Plan, transcribe
from transcriber.transcript import Transcript
from transcriber.triton_recogniser import TritonRecogniser, connect

RESULTS = Path("dist/benchmarks/batches.json")
POINT, RECORDINGS, EXCERPTS = "standard", 4, 8
_BATCHER = "[triton.dynamic_batching]\n"
_QUEUE = "default_queue_policy = { max_queue_size = 100000 }\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """How full the batches of a run were: the items and the runs of each model."""

    way: str
    in_flight: int
    items: dict[str, int]
    runs: dict[str, int]
    client_s: float
    """Processor seconds of the client for an hour of audio."""
    waiting: float
    """The mean number of requests that waited in the server, as voxwright:requests_waiting:mean2m counts it."""

    def mean(self, model: str) -> float:
        """Return the mean number of items of a run."""
        return self.items[model] / self.runs[model]


def write_catalogue(folder: Path) -> Path:
    """Write the catalogue with a limit of the queue in every batcher, so that a server on a CPU keeps them."""
    shutil.copytree(CATALOGUE_FOLDER, folder)
    for path in folder.glob("*/model.toml"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(_BATCHER, _BATCHER + _QUEUE), encoding="utf-8")
    return folder


def write_recordings(folder: Path, count: int) -> list[Path]:
    """Write recordings of excerpts of 15 to 60 s of the dialogue, so that their segments have many lengths."""
    samples, rate_hz = soundfile.read(DIALOGUE, dtype="int16")
    generator, pause = np.random.default_rng(1), np.zeros(rate_hz, dtype=np.int16)
    paths = [folder / f"{number}.flac" for number in range(count)]
    for path in paths:
        parts = []
        for _ in range(EXCERPTS):
            length = int(generator.integers(15 * rate_hz, 60 * rate_hz))
            start = int(generator.integers(len(samples) - length))
            parts += [samples[start : start + length], pause]
        soundfile.write(path, np.concatenate(parts), rate_hz)
    return paths


def measure(endpoint: str, recordings: Sequence[Path]) -> tuple[list[Batches], list[list[Transcript]]]:
    """Transcribe the recordings, all at a time, in each way; return how full the batches were, and the transcripts."""
    connection = Connection(endpoint, access=from_environment())
    recogniser = connect(connection, read_catalogue(), LANGUAGE, POINT)
    joiners = recogniser.joiners.copy()
    if not joiners:
        cause = "it computes no batches, as on a CPU, so nothing is joined"
        raise ServerContractError(endpoint, cause, "Measure a server with a GPU, or leave out --endpoint")
    found, transcripts = [], []
    for way, are_joined, in_flight in (
        ("each request alone", False, 8),
        ("each request alone", False, recogniser.in_flight),
        ("joined by the client", True, 8),
        ("joined by the client", True, recogniser.in_flight),
    ):
        recogniser.joiners.clear()
        if are_joined:
            recogniser.joiners.update(joiners)
        before, began_s, began_client_s = _counters(endpoint), time.perf_counter(), time.process_time()
        transcripts.append(_transcribed(recogniser, recordings, in_flight))
        client_s, wall_s = time.process_time() - began_client_s, time.perf_counter() - began_s
        grown = {model: counters - before[model] for model, counters in _counters(endpoint).items()}
        found.append(
            Batches(
                way=way,
                in_flight=in_flight,
                items={model: int(items) for model, (items, _, _) in grown.items() if items},
                runs={model: int(runs) for model, (_, runs, _) in grown.items() if runs},
                client_s=client_s * 3600 / sum(each.duration_s for each in transcripts[-1]),
                waiting=sum(float(queue_s) for _, _, queue_s in grown.values()) / wall_s,
            )
        )
    return found, transcripts


def markdown(measured: Sequence[Batches]) -> str:
    """Return a table of the mean batches."""
    models = list(measured[0].items)
    head = ("requests", "in flight", *models, "waiting", "client s/h")
    rows = (
        (
            *(each.way, str(each.in_flight)),
            *(f"{number:.1f}" for number in (*map(each.mean, models), each.waiting, each.client_s)),
        )
        for each in measured
    )
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ("---",) * len(head), *rows))


@contextmanager
def _serving(endpoint: str | None, folder: Path) -> Iterator[str]:
    if endpoint is not None:
        yield endpoint
        return
    ensure_bundle()
    catalogue = write_catalogue(folder / "catalogue")
    with started(VOXWRIGHT_CATALOGUE=str(catalogue), SM_OPERATING_POINT=POINT) as server:
        yield server.endpoint


def _transcribed(recogniser: TritonRecogniser, recordings: Sequence[Path], in_flight: int) -> list[Transcript]:
    plan = Plan(in_flight=max(1, in_flight // len(recordings)))

    def work(path: Path) -> Transcript:
        return transcribe(Recording(path), recogniser, plan).transcript

    with ThreadPoolExecutor(len(recordings)) as pool:
        return list(pool.map(work, recordings))


def _counters(endpoint: str) -> Mapping[str, NDArray[np.float64]]:
    """Return the items, the runs and the seconds in the queue of each model since the start of the server."""
    with triton.InferenceServerClient(endpoint) as client:
        statistics = client.get_inference_statistics().model_stats
    # A step of an ensemble is counted for its own model.
    return {
        each.name: np.array([each.inference_count, each.execution_count, each.inference_stats.queue.ns / 1e9])
        for each in sorted(statistics, key=lambda each: each.name)
        if not each.name.startswith("ensemble_")
    }


@click.command()
@click.option("--endpoint", metavar="HOST:PORT", help="Measure a running server that computes batches, as on a GPU.")
@command_line.verbose_option()
def command(endpoint: str | None) -> None:
    """Measure how full the batches of a server are that joins requests: one on this CPU, or --endpoint."""
    folder = Path(tempfile.mkdtemp())
    try:
        recordings = write_recordings(folder, RECORDINGS)
        with _serving(endpoint, folder) as address:
            measured, transcripts = measure(address, recordings)
    finally:
        shutil.rmtree(folder)
    click.echo(markdown(measured))
    texts = [[turn.text for transcript in each for turn in transcript.turns] for each in transcripts]
    click.echo(f"transcripts equal: {'yes' if all(each == texts[0] for each in texts) else 'no'}")
    files.write(RESULTS, json.dumps([asdict(each) for each in measured], indent=2) + "\n")
    click.echo(str(RESULTS))


if __name__ == "__main__":
    command_line.run(command)
