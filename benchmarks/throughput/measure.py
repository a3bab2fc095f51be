"""The measurement of throughput: product, raw networks and sherpa-onnx in turn, in every round of one run."""

import json
import multiprocessing
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import soundfile

from benchmarks import realtime
from benchmarks.accuracy.measure import of_stream, score_diarization
from benchmarks.graphs import LANGUAGE, ExportedPoint, exported_points
from benchmarks.measuring import Comparison
from benchmarks.recordings import DIALOGUE, Dialogue, Turn, repeat_dialogue
from benchmarks.server import Server, started
from benchmarks.throughput import density, peer
from benchmarks.throughput.limit import Limit
from benchmarks.throughput.results import Accuracy, Peer, Results, Throughput
from benchmarks.throughput.transcribers import Transcribers
from contract.access import from_environment
from contract.catalogue import model_name, read_catalogue
from contract.errors import ServerContractError
from demo.scores import word_errors
from transcriber.connection import Connection
from transcriber.parameters import SERVE_REMEDY
from transcriber.pipeline import Plan
from transcriber.transcript import Transcript
from transcriber.triton_recogniser import connect_streams

FOLDER = Path("dist/benchmarks/throughput")
ONNX = Path("dist/onnx")
GREEDY, WORDS, SPEAKERS = "greedy", "best search", "best search and speakers"
PLANS: Mapping[str, Plan] = MappingProxyType(
    {GREEDY: Plan(search="greedy", speakers=False), WORDS: Plan(speakers=False), SPEAKERS: Plan()}
)
PARALLEL = 4
_LONG_REPEATS = 30
# Of an hour of the machine, in any currency.
PRICE = 0.10


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """How much is measured."""

    rounds: int
    repeats: int
    """How often the dialogue is repeated in the recording."""
    transcribers: tuple[int, ...]
    stream_s: float
    first_streams: int
    resolution: float
    """The share to which the largest number of streams is known."""


def of_servers(extent: Extent, transcribers: Sequence[int] = ()) -> Extent:
    """Return the extent for running servers: longer recordings, and up to a transcriber a core.

    A server with a GPU takes the usual recording in less than a second.
    """
    cores = max(peer.CORES, 2)
    counts = tuple(transcribers) or (*(2**power for power in range(cores.bit_length()) if 2**power < cores), cores)
    return replace(extent, repeats=_LONG_REPEATS, transcribers=counts)


SHORT = Extent(rounds=3, repeats=4, transcribers=(1, 2, 4), stream_s=20.0, first_streams=24, resolution=0.15)
LONG = Extent(rounds=7, repeats=8, transcribers=(1, 2, 3, 4, 6, 8), stream_s=60.0, first_streams=24, resolution=0.05)


def measure(points: Sequence[str], extent: Extent, price: float, *, streams: bool = True) -> Results:
    """Measure operating points of the bundle that `benchmarks.server.update_bundle` made."""
    recording = FOLDER / f"dialogue-{extent.repeats}.flac"
    results = Results(price=price, machine=machine(), audio_s=repeat_dialogue(recording, extent.repeats))
    exported = [each for each in exported_points(ONNX) if each.operating_point in points]
    with started() as server:
        for each in exported:
            with Transcribers(server, each.operating_point, max(extent.transcribers)) as transcribers:
                _measure_point(results, each, transcribers, recording, extent)
    if streams:
        with started(SM_BATCH_MODE="false") as server:
            _measure_streams(results, server, [each.operating_point for each in exported], extent)
    return results


def measure_servers(
    recordings: str | None, streams: str | None, points: Sequence[str], extent: Extent, price: float
) -> Results:
    """Measure running servers at their endpoints: one for recordings, one for streams; None leaves it out.

    `points` are those to measure where they are served. There is no limit and no peer beside them: these need the
    networks on this machine.
    """
    recording = FOLDER / f"dialogue-{extent.repeats}.flac"
    results = Results(
        price=price,
        machine=machine(),
        audio_s=repeat_dialogue(recording, extent.repeats),
        endpoint=" and ".join(each for each in (recordings, streams) if each is not None),
    )
    if recordings is not None:
        for point in _served(recordings, points):
            with Transcribers(Server(endpoint=recordings), point, max(extent.transcribers)) as transcribers:
                _measure_product(results, point, transcribers, recording, extent)
    if streams is not None:
        _measure_streams(results, Server(endpoint=streams), _served(streams, points), extent)
    return results


def _served(endpoint: str, points: Sequence[str]) -> list[str]:
    """Return the operating points that a server has; raise ServerContractError where it has none of them."""
    connection, catalogue = Connection(endpoint, access=from_environment()), read_catalogue()
    families = {point: catalogue.recogniser(LANGUAGE, point) for point in points}
    models = {point: model_name(family.name, point) for point, family in families.items() if family is not None}
    found = [point for point, model in models.items() if connection.serves(model)]
    if not found:
        raise ServerContractError(endpoint, f"it serves none of {', '.join(models.values())}", SERVE_REMEDY)
    return found


def _measure_streams(results: Results, server: Server, points: Sequence[str], extent: Extent) -> None:
    for point in points:
        results.stream_accuracy[point] = accuracy(_streamed(server, point), 1)

        def probe(count: int, point: str = point) -> realtime.Delays:
            found = realtime.measure(server, point, count, extent.stream_s)
            print(point, realtime.line(found), flush=True)
            return found

        results.streams[point] = density.search(probe, extent.first_streams, extent.resolution)


def _measure_product(results: Results, point: str, transcribers: Transcribers, recording: Path, extent: Extent) -> None:
    """Measure the transcripts of a server alone."""
    kinds = [Throughput(point=point, kind=kind) for kind in PLANS]
    for kind in kinds:
        transcribers.run(recording, PLANS[kind.kind], max(extent.transcribers))
    for number in range(extent.rounds):
        for kind in kinds:
            _measure_round(kind, transcribers, recording, extent)
        print(f"{point}: round {number + 1} of {extent.rounds}", flush=True)
    for kind in kinds:
        kind.accuracy = accuracy(kind.runs[kind.best][0].transcript, extent.repeats)
    results.throughput += kinds


def _measure_round(kind: Throughput, transcribers: Transcribers, recording: Path, extent: Extent) -> None:
    plan = PLANS[kind.kind]
    kind.parallel.append(transcribers.run(recording, replace(plan, in_flight=PARALLEL), 1))
    for count in extent.transcribers:
        kind.runs.setdefault(count, []).append(transcribers.run(recording, plan, count))


def _streamed(server: Server, point: str) -> Transcript:
    """Return the transcript of the dialogue as one stream, sent as fast as the server takes it."""
    connection = Connection(server.endpoint, access=from_environment(), one_server=True)
    return of_stream(connect_streams(connection, read_catalogue(), LANGUAGE, point))(DIALOGUE)


def _measure_point(
    results: Results, exported: ExportedPoint, transcribers: Transcribers, recording: Path, extent: Extent
) -> None:
    point, limit = exported.operating_point, Limit(exported)
    folder = FOLDER / point
    peer.write_model(exported, folder)
    kinds = [Throughput(point=point, kind=kind) for kind in PLANS]
    requests = {kind: limit.requests(recording, plan) for kind, plan in PLANS.items()}
    peer_times: dict[str, list[float]] = {way: [] for way in peer.WAYS}
    peer_text = ""
    with multiprocessing.get_context("spawn").Pool(1, peer.open_ways, (folder, recording)) as pool:
        for kind in kinds:
            # This warms every process up.
            limit.seconds(requests[kind.kind])
            transcribers.run(recording, PLANS[kind.kind], max(extent.transcribers))
        for way in peer.WAYS:
            pool.apply(peer.run, (way,))
        for number in range(extent.rounds):
            for way, times in peer_times.items():
                seconds, peer_text = pool.apply(peer.run, (way,))
                times.append(results.audio_s / seconds)
            for kind in kinds:
                kind.limit.append(results.audio_s / limit.seconds(requests[kind.kind]))
                _measure_round(kind, transcribers, recording, extent)
            print(f"{point}: round {number + 1} of {extent.rounds}", flush=True)
    for kind in kinds:
        kind.accuracy = accuracy(kind.runs[kind.best][0].transcript, extent.repeats)
    results.throughput += kinds
    results.peers.append(_against_peer(kinds[0], peer_times, peer_text, extent.repeats))


def _against_peer(greedy: Throughput, times: Mapping[str, list[float]], text: str, repeats: int) -> Peer:
    way = max(times, key=lambda each: statistics.median(times[each]))
    ours = [run.hours_an_hour for run in greedy.runs[greedy.best]]
    comparison = Comparison.of_pairs(
        list(zip(times[way], ours, strict=True)),
        title=f"{greedy.point}: greedy search",
        unit="seconds of audio a second",
        first=f"sherpa-onnx {peer.version()}",
        second="transcriber and server",
    )
    words = accuracy(greedy.runs[greedy.best][0].transcript, repeats).words
    return Peer(point=greedy.point, comparison=comparison, way=way, peer_words=_word_rate(text, repeats), words=words)


def accuracy(transcript: Transcript, repeats: int) -> Accuracy:
    """Return the errors in a transcript of the repeated dialogue."""
    has_speakers = any(turn.speaker for turn in transcript.turns)
    words = [word.content for turn in transcript.turns for word in turn.words]
    return Accuracy(
        words=_word_rate(" ".join(words), repeats),
        diarization=_diarization_rate(transcript, repeats) if has_speakers else None,
    )


def _word_rate(text: str, repeats: int) -> float:
    reference = " ".join([turn["text"] for turn in _turns()] * repeats)
    return word_errors(reference, text) / len(reference.split())


def _diarization_rate(transcript: Transcript, repeats: int) -> float:
    length_s = soundfile.info(DIALOGUE).duration
    turns = tuple(
        Turn(speaker=turn["speaker"], start=turn["start"] + number * length_s, end=turn["end"] + number * length_s)
        for number in range(repeats)
        for turn in _turns()
    )
    dialogue = Dialogue(path=DIALOGUE, turns=turns)
    return score_diarization("diarization errors", [dialogue], lambda _: transcript).error_with_collar


def _turns() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DIALOGUE.with_suffix(".json").read_text())["turns"]
    return found


def machine() -> dict[str, str]:
    """Return what the figures depend on: processor, memory and versions."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    packages = ("onnxruntime", "nvidia-pytriton", "tritonclient", peer.PACKAGE)
    return {
        "processor": f"{peer.CORES} cores of {model or platform.machine()}",
        "memory": f"{memory_gib:.0f} GiB",
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }
