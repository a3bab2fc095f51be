"""Throughput: the search for the largest number of streams, the figures, the limit, the page and its plots."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import graphs, memory, page, recordings
from benchmarks.graphs import exported_points
from benchmarks.measuring import Comparison, processor_seconds
from benchmarks.realtime import Delays
from benchmarks.throughput import density, limit, measure, peer, plots
from benchmarks.throughput import page as throughput_page
from benchmarks.throughput.results import Accuracy, Peer, Results, Throughput
from benchmarks.throughput.transcribers import Run
from tests.unit.engines.exported import export
from tests.unit.transcriber.sounds import RATE_HZ, burst, silence
from transcriber.pipeline import Plan
from transcriber.transcript import Transcript, Turn, Word

PROGRAM = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
EMPTY = Transcript(source="a", duration_s=100.0, language="en", operating_point="standard", turns=(), losses=())


def delays(streams: int, late_s: float) -> Delays:
    finals = tuple(np.linspace(0.1, late_s, 50))
    return Delays(
        streams=streams, operating_point="standard", partials=(0.1, 0.2), finals=finals, client_cores=1, server_cores=1
    )


def probe(holds: int, counts: list[int]) -> Callable[[int], Delays]:
    def measured(streams: int) -> Delays:
        counts.append(streams)
        return delays(streams, 0.5 if streams <= holds else 5.0)

    return measured


@pytest.mark.parametrize("holds", [1, 2, 7, 16, 23, 24, 25, 100])
@pytest.mark.parametrize("resolution", [0.0, 0.1])
def test_finds_the_largest_number_of_streams_in_time(holds: int, resolution: float) -> None:
    counts = list[int]()
    found = density.search(probe(holds, counts), 16, resolution)
    best = density.largest(found)
    assert best is not None
    assert best.streams <= holds <= best.streams + max(0, resolution * best.streams)
    assert len(counts) == len(set(counts)) == len(found) <= 12
    assert [each.streams for each in found] == sorted(counts)


def test_a_machine_that_is_too_slow_for_one_stream_has_no_largest_number() -> None:
    counts = list[int]()
    assert density.largest(density.search(probe(0, counts), 4, 0.1)) is None
    assert counts[-1] == 1


def test_no_finals_are_not_in_time() -> None:
    assert not density.is_in_time(replace(delays(1, 0.5), finals=()))


def run(count: int, hours: float, transcript: Transcript = EMPTY) -> Run:
    audio_s = 100.0 * count
    return Run(
        transcribers=count,
        audio_s=audio_s,
        wall_s=audio_s / hours,
        client_s=0.2 * count,
        server_s=1.0 * count,
        transcript=transcript,
    )


@pytest.fixture
def throughput() -> Throughput:
    runs = {
        count: [run(count, hours + shift) for shift in (-10, 0, 10)] for count, hours in ((1, 80), (2, 97), (4, 100))
    }
    return Throughput(
        point="standard",
        kind=measure.SPEAKERS,
        runs=runs,
        parallel=[run(1, 50.0)],
        limit=[180.0, 125.0, 110.0],
        accuracy=Accuracy(words=0.022, diarization=0.051),
    )


def test_figures_of_a_throughput(throughput: Throughput) -> None:
    assert (throughput.best, throughput.hours_an_hour) == (4, 100.0)
    # 97 is more than 95 % of 100.
    assert throughput.saturation == 2
    assert throughput.real_time_factor == 0.02
    # Round by round: 90 of 180, 100 of 125, 110 of 110.
    assert throughput.share_of_limit == pytest.approx(0.8)
    assert throughput.client_s() == pytest.approx(7.2)
    assert throughput.server_s() == pytest.approx(36.0)


@pytest.fixture
def results(throughput: Throughput) -> Results:
    pairs = Comparison.of_pairs([(150.0, 330.0)], title="t", unit="u", first="sherpa-onnx 2.0.1", second="ours")
    peer = Peer(point="standard", comparison=pairs, way="one at a time", peer_words=0.03, words=0.02)
    return Results(
        price=0.5,
        machine={"processor": "2 cores of a test"},
        audio_s=207.0,
        throughput=[throughput],
        peers=[peer],
        streams={"standard": [delays(16, 0.5), delays(24, 5.0)]},
        stream_accuracy={"standard": Accuracy(words=0.031, diarization=0.042)},
    )


def test_page_of_running_servers_has_no_limit_and_no_peer(results: Results, tmp_path: Path) -> None:
    results.endpoint, results.peers = "gpu.example:8001", []
    results.throughput[0].limit = []
    lines = "\n".join(throughput_page.sections(results))
    assert "run on this machine, the server is gpu.example:8001." in lines
    assert "| standard | best search and speakers | 100 | 2 | 0.0200 | 0.00500 | 7.2 |  | 2.2 % | 5.1 % |" in lines
    assert "networks alone" not in lines
    assert "Against sherpa-onnx" not in lines
    assert results.to_dict()["throughput"][0]["share_of_limit"] is None
    assert [path.name for path in plots.draw(results, tmp_path)] == ["throughput.png", "sessions.png"]


@pytest.mark.parametrize(("cores", "counts"), [(1, (1, 2)), (2, (1, 2)), (6, (1, 2, 4, 6)), (16, (1, 2, 4, 8, 16))])
def test_running_servers_get_a_transcriber_a_core(
    monkeypatch: pytest.MonkeyPatch, cores: int, counts: tuple[int, ...]
) -> None:
    monkeypatch.setattr(peer, "CORES", cores)
    assert measure.of_servers(measure.SHORT).transcribers == counts
    assert measure.of_servers(measure.SHORT, [3]).transcribers == (3,)


def test_page_has_errors_beside_every_throughput(results: Results) -> None:
    comparison = Comparison.of_pairs([(1.0, 3.0)], title="hashing", unit="GB a second", first="one", second="other")
    text = page.page(results, [comparison], ["pictures/performance-throughput.png"], minutes=9.4, is_long=False)
    assert "generated by `make bench`" in text
    assert "| standard | best search and speakers | 100 | 2 | 0.0200 | 0.00500 | 7.2 | 36.0 | 2.2 % | 5.1 % |" in text
    assert "| standard | best search and speakers | 100 | 125 | 0.80 | 2.2 % | 5.1 % |" in text
    assert "| standard | 150 | one at a time | 330 | 2.20 | 3.0 % | 2.0 % |" in text
    assert "**16 of standard**" in text
    assert "| standard | 24 | 0.15 | 0.20 | 0.20 | 2.55 | 4.75 | 4.95 | 1.00 | 1.00 | 3.1 % | 4.2 % |" in text
    assert "| hashing | GB a second | one: 1 | other: 3 | 3.00 |" in text
    assert "![throughput](pictures/performance-throughput.png)" in text
    # The figures of another machine are labelled wherever they are.
    for line in text.splitlines():
        assert not ("170" in line or "140 of standard" in line) or "(another machine)" in line


def test_results_are_json_with_every_round(results: Results) -> None:
    found = results.to_dict()
    assert found["throughput"][0]["hours_an_hour"][4] == [pytest.approx(90), pytest.approx(100), pytest.approx(110)]
    assert found["sessions"] == {"standard": 16}
    assert found["peers"][0]["ratio"] == 2.2


def test_draws_what_was_measured(results: Results, tmp_path: Path) -> None:
    assert [path.name for path in plots.draw(results, tmp_path, "a-")] == ["a-throughput.png", "a-sessions.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("a-throughput.png", "a-sessions.png"))
    results.streams = {}
    assert [path.name for path in plots.draw(results, tmp_path)] == ["throughput.png"]


def test_counts_errors_of_the_repeated_dialogue() -> None:
    length_s = soundfile.info(recordings.DIALOGUE).duration
    turns = tuple(
        Turn(
            words=(
                *(
                    Word(content=word, start_s=turn["start"] + number * length_s, end_s=turn["end"] + number * length_s,
                         confidence=1.0)
                    for word in turn["text"].split()
                ),
            ),
            speaker=turn["speaker"],
        )
        for number in range(2)
        for turn in measure._turns()
    )  # fmt: skip
    found = measure.accuracy(replace(EMPTY, turns=turns), 2)
    assert found.words == 0.0
    assert found.diarization == pytest.approx(0.0, abs=1e-6)
    half = measure.accuracy(replace(EMPTY, turns=turns[: len(turns) // 2]), 2)
    assert half.words == 0.5
    assert half.diarization == pytest.approx(0.5, abs=0.01)
    assert measure.accuracy(replace(EMPTY, turns=(replace(turns[0], speaker=None),)), 2).diarization is None


def test_limit_runs_all_networks_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("body", "am_en", "decoder", "lm", "diar"):
        export(tmp_path, f"{family}_enhanced")
    point = next(each for each in exported_points(tmp_path) if each.operating_point == "enhanced")
    monkeypatch.setattr(graphs, "engine", lambda model: tmp_path / model / "fp32.onnx")
    soundfile.write(tmp_path / "a.wav", np.concatenate([silence(0.5), burst(1.5), silence(0.5)]), RATE_HZ)
    networks = limit.Limit(point)
    greedy = networks.requests(tmp_path / "a.wav", Plan(search="greedy", speakers=False))
    assert [role for role, _ in greedy] == ["encoder", "ctc"]
    # A segment has its own length: no padding.
    assert greedy[0][1]["audio"].shape[1] == greedy[0][1]["audio_lengths"][0] < 2 * RATE_HZ
    full = networks.requests(tmp_path / "a.wav", Plan())
    assert {role for role, _ in full} >= {"encoder", "ctc", "speaker"}
    assert networks.seconds(full) > 0


def test_processor_time_counts_the_processes_below() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PROGRAM!r}])"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    assert processor_seconds(child.pid) >= 0.29
    child.communicate(b"\n")


def test_long_recording_repeats_the_dialogue() -> None:
    content = bytes(range(250)) * 1_000
    parts = [b"".join(part) for part in memory._parts(content, 600_000, 3)]
    assert [len(part) for part in parts] == [200_000] * 3
    assert b"".join(parts) == (content * 3)[:600_000]
