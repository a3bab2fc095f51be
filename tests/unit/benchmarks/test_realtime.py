"""Delays of live transcripts: the pace of the source, and the quantiles."""

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.realtime import Delays, PacedRecording
from tests.unit.transcriber.sounds import burst, wav


def test_yields_a_recording_in_real_time(tmp_path: Path) -> None:
    samples = burst(1.0)
    source = PacedRecording(wav(tmp_path / "talk.wav", samples), 0.45)
    times, blocks = list[float](), list[np.ndarray[tuple[int], np.dtype[np.float32]]]()
    for block in source.blocks():
        times.append(time.monotonic() - source.began)
        blocks.append(block)
    assert [block.size for block in blocks] == [1600] * 4 + [800]
    assert all(after >= due for after, due in zip(times, (0.1, 0.2, 0.3, 0.4, 0.45), strict=True))
    assert np.abs(np.concatenate(blocks) - samples[:7200]).max() < 1e-3


def test_streams_begin_at_different_places_and_go_round(tmp_path: Path) -> None:
    samples = burst(0.4)
    source = PacedRecording(wav(tmp_path / "talk.wav", samples), 0.6, 0.25)
    found = np.concatenate(list(source.blocks()))
    assert found.size == 9_600
    assert np.abs(found - np.resize(np.roll(samples, -1_600), 9_600)).max() < 1e-3


def test_quantiles_of_delays() -> None:
    delays = Delays(streams=2, operating_point="standard", partials=tuple(np.arange(101) / 100), finals=(0.5,))
    found = delays.to_dict()
    assert found["partials"] == {"count": 101, "median": 0.5, "p95": pytest.approx(0.95), "p99": pytest.approx(0.99)}
    assert found["finals"] == {"count": 1, "median": 0.5, "p95": 0.5, "p99": 0.5}
