"""What the measurement of throughput measures: the same transcripts, the same weights, with the real server."""

import multiprocessing
from pathlib import Path

import pytest

from benchmarks import memory
from benchmarks.graphs import OpenGraph, exported_points
from benchmarks.recogniser import GraphRecogniser
from benchmarks.server import Server
from benchmarks.throughput import measure, peer
from benchmarks.throughput.transcribers import Transcribers
from contract.errors import ServerContractError
from demo.scores import word_errors
from tests.integration.reference import ROOT
from tests.integration.serving import Running
from transcriber import pipeline
from transcriber.audio import Recording
from transcriber.connection import Connection
from transcriber.pipeline import Plan

pytestmark = pytest.mark.integration
DIALOGUE = ROOT / "demo" / "dialogue.flac"
GREEDY = Plan(search="greedy", speakers=False)


@pytest.fixture(scope="module")
def expected(reference_graphs: Path) -> list[str]:
    """Return the words of the greedy search with the graphs in this process."""
    point = next(each for each in exported_points(reference_graphs) if each.operating_point == "standard")
    networks = {role: OpenGraph(point.path(role, "fp32")) for role in ("encoder", "ctc")}
    return _words(pipeline.transcribe(Recording(DIALOGUE), GraphRecogniser(point, networks), GREEDY))


def test_memory_is_read_along_a_recording_from_a_pipe(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "FOLDER", tmp_path)
    monkeypatch.chdir(ROOT)
    found = memory.measure(f"127.0.0.1:{server.grpc}", 0.02, 3, "standard")
    assert [reading.hours for reading in found.readings] == pytest.approx([0.02 / 3, 0.04 / 3, 0.02])
    assert all(0 < reading.resident_mib <= found.peak_mib for reading in found.readings)
    # The dialogue has 226 words in 69 s; the recording has 72 s.
    assert 226 <= found.words <= 250
    assert found.processor_s > 0


def _words(found: pipeline.TranscriptionResult) -> list[str]:
    return [word.content for turn in found.transcript.turns for word in turn.words]


def test_transcribers_begin_together_and_have_the_same_words(server: Running, expected: list[str]) -> None:
    running = Server(endpoint=f"127.0.0.1:{server.grpc}", pid=server.process.pid)
    with Transcribers(running, "standard", 2) as transcribers:
        one, two = (transcribers.run(DIALOGUE, GREEDY, count) for count in (1, 2))
    for found in (one, two):
        assert [word.content for turn in found.transcript.turns for word in turn.words] == expected
        assert found.client_s > 0
        assert found.server_s > 0
    assert two.audio_s == 2 * one.audio_s


@pytest.mark.parametrize("way", peer.WAYS)
def test_sherpa_onnx_finds_the_words_of_the_same_weights(
    way: str, reference_graphs: Path, expected: list[str], tmp_path: Path
) -> None:
    """Kaldi's own filter bank in place of that of the graph may change one word in a hundred."""
    point = next(each for each in exported_points(reference_graphs) if each.operating_point == "standard")
    peer.write_model(point, tmp_path)
    with multiprocessing.get_context("spawn").Pool(1, peer.open_ways, (tmp_path, DIALOGUE)) as pool:
        seconds, text = pool.apply(peer.run, (way,))
    assert seconds > 0
    assert word_errors(" ".join(expected), text) <= 0.01 * len(expected)


def test_measures_running_servers(
    server: Running, streams: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "FOLDER", tmp_path)
    monkeypatch.chdir(ROOT)
    extent = measure.Extent(rounds=1, repeats=1, transcribers=(1, 2), stream_s=5.0, first_streams=1, resolution=1_000.0)
    endpoints = (f"127.0.0.1:{server.grpc}", f"127.0.0.1:{streams.grpc}")
    found = measure.measure_servers(*endpoints, ["standard"], extent, 1.0)
    assert [(each.point, each.kind) for each in found.throughput] == [("standard", kind) for kind in measure.PLANS]
    for each in found.throughput:
        assert each.hours_an_hour > 1
        assert each.accuracy is not None
        assert each.accuracy.words < 0.1
    assert found.streams["standard"][0].streams == 1
    assert found.endpoint == " and ".join(endpoints)
    monkeypatch.setattr(Connection, "serves", lambda *_: False)
    with pytest.raises(ServerContractError, match="it serves none of ensemble_en_standard"):
        measure.measure_servers(endpoints[0], None, ["standard"], extent, 1.0)
