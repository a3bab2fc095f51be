"""Transcribe streams from end to end, with a recogniser that needs no server."""

import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from contract.errors import SegmentError, ServerUnreachableError
from tests.unit.transcriber.fakes import LOUD, confident
from tests.unit.transcriber.sounds import burst, silence, wav
from tests.unit.transcriber.streams import OVERLAP, WINDOW, FakeStreams
from transcriber import pipeline, realtime, segments
from transcriber.audio import Recording, Samples
from transcriber.clustering import SpeakerLimits
from transcriber.pipeline import Plan, TranscriptionResult
from transcriber.realtime import Source
from transcriber.recogniser import EncoderOutput, RequestError
from transcriber.session import Final, Partial


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_PAUSE_S", 0.0)


def follow(
    path: Path, recogniser: FakeStreams, plan: Plan | None = None
) -> tuple[TranscriptionResult, list[Partial | Final]]:
    events: list[Partial | Final] = []
    return transcribed(Source(path), recogniser, plan or Plan(), events.append), events


def transcribed(
    source: Source, recogniser: FakeStreams, plan: Plan, on_event: Callable[[Partial | Final], object]
) -> TranscriptionResult:
    found = realtime.transcribe(source, recogniser, plan, on_event)
    assert found is not None
    return found


def spoken_turns(found: TranscriptionResult) -> list[tuple[str | None, str]]:
    return [(turn.speaker, turn.text) for turn in found.transcript.turns]


def test_words_times_and_speakers(talk: Path) -> None:
    found, events = follow(talk, FakeStreams())
    assert spoken_turns(found) == [("S1", "loud"), ("S2", "soft"), ("S1", "loud")]
    assert [turn.start_s for turn in found.transcript.turns] == pytest.approx([1.3, 4.3, 7.3], abs=0.3)
    assert found.transcript.duration_s == pytest.approx(10.0)
    assert (found.notes, found.errors, found.transcript.losses) == ((), (), ())
    assert [type(each) for each in events] == [Partial, Final] * 3
    partials = [each for each in events if isinstance(each, Partial)]
    assert [partial.text for partial in partials] == ["loud", "soft", "loud"]
    # Two windows of 0.32 s, and steps of 0.1 s in which the stream is processed.
    assert all(partial.end_s - partial.start_s < 0.9 for partial in partials)
    assert [turn for each in events if isinstance(each, Final) for turn in each.turns] == list(found.transcript.turns)


def test_every_segment_is_a_stream_that_ends(talk: Path) -> None:
    recogniser = FakeStreams()
    follow(talk, recogniser)
    assert len(recogniser.streams) == 3
    assert recogniser.ended == set(recogniser.streams)


def test_windows_cover_the_segment(talk: Path) -> None:
    """Windows overlap as in the catalogue, and together they are the samples of the segment."""
    recogniser = FakeStreams()
    follow(talk, recogniser)
    segment = next(speech.segment for speech in segments.follow(Recording(talk).blocks()) if speech.ended)
    windows = next(iter(recogniser.streams.values()))
    assert {len(window) for window in windows[:-1]} == {WINDOW}
    joined = np.concatenate([windows[0], *(window[OVERLAP:] for window in windows[1:])])
    expected = segment.samples
    assert np.array_equal(joined[: len(expected)], expected)
    # A little more is sent: the end of a segment is detected 0.4 s after its last voiced frame.
    assert len(expected) <= len(joined) < len(expected) + WINDOW


def test_reports_words_before_the_stream_ends(tmp_path: Path) -> None:
    """A pipe stays open: the first words come before the end of the stream."""
    path, events, received, in_time = tmp_path / "pipe", list[Partial | Final](), threading.Event(), list[bool]()
    os.mkfifo(path)
    sound = wav(tmp_path / "talk.wav", np.concatenate([silence(0.5), burst(2), silence(1)])).read_bytes()

    def on_event(each: Partial | Final) -> None:
        events.append(each)
        if isinstance(each, Final):
            received.set()

    def speak() -> None:
        with path.open("wb") as pipe:
            pipe.write(sound)
            pipe.flush()
            received.wait(20)
            in_time.append(received.is_set())

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    found = transcribed(Source(path), FakeStreams(), Plan(), on_event)
    speaker.join()
    assert in_time == [True]
    assert [type(each) for each in events] == [Partial, Final]
    assert spoken_turns(found) == [("S1", "loud")]


def test_stopped_stream_keeps_its_words(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sound = wav(tmp_path / "talk.wav", np.concatenate([silence(0.5), burst(2)])).read_bytes()
    ended = threading.Event()
    began = time.monotonic()

    def speak() -> None:
        with path.open("wb") as pipe:
            pipe.write(sound)
            pipe.flush()
            ended.wait(20)

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    source = Source(path)
    events: list[Partial | Final] = []

    def on_event(each: Partial | Final) -> None:
        events.append(each)
        source.stop()

    found = transcribed(source, FakeStreams(), Plan(), on_event)
    assert time.monotonic() - began < 15
    ended.set()
    speaker.join()
    assert spoken_turns(found) == [("S1", "loud")]
    assert [type(each) for each in events] == [Partial, Final]


def test_sends_a_lost_stream_again(talk: Path) -> None:
    """As after a restart: another stream, from its first window on; no word is lost or repeated."""
    recogniser = FakeStreams()

    def fail(request: int) -> None:
        if request == 5:
            recogniser.forget()

    recogniser._fail = fail
    found, events = follow(talk, recogniser)
    assert spoken_turns(found) == [("S1", "loud"), ("S2", "soft"), ("S1", "loud")]
    assert [type(each) for each in events] == [Partial, Final] * 3
    assert found.errors == ()
    assert len(recogniser.streams) == 3


def test_reports_refused_segment(talk: Path) -> None:
    def fail(request: int) -> None:
        if 3 <= request <= 5:
            raise RequestError("out of luck")

    found, events = follow(talk, FakeStreams(fail=fail))
    assert spoken_turns(found) == [("S1", "soft"), ("S2", "loud")]
    (loss,) = found.transcript.losses
    assert loss.reason == "out of luck"
    assert loss.start_s == pytest.approx(0.8, abs=0.3)
    assert [each.loss for each in events if isinstance(each, Final)] == [loss, None, None]
    (error,) = found.errors
    assert isinstance(error, SegmentError)
    assert "the server refused 1 segment, so 0:00." in str(error)


def test_ends_when_the_server_stays_away(talk: Path) -> None:
    recogniser = FakeStreams()

    def fail(_: int) -> None:
        if len(recogniser.ended) == 1:
            raise ServerUnreachableError("server:8001", "no server is ready there", "Start one")

    recogniser._fail = fail
    began = time.monotonic()
    found, _ = follow(talk, recogniser)
    assert time.monotonic() - began < 20
    assert spoken_turns(found) == [("S1", "loud")]
    (error,) = found.errors
    assert isinstance(error, ServerUnreachableError)
    assert "is not in the transcript" in str(error)


def test_cuts_speech_without_a_pause(tmp_path: Path) -> None:
    """20 s of speech: the first segment ends in the past, and the second begins there; no word is repeated."""
    path = wav(tmp_path / "long.wav", np.concatenate([burst(20, level=0.9), silence(1)]))
    recogniser = FakeStreams()
    found, events = follow(path, recogniser, Plan(search="greedy"))
    finals = [each for each in events if isinstance(each, Final)]
    assert len(finals) == 2
    assert finals[0].end_s == finals[1].start_s
    assert 8.0 <= finals[0].end_s <= 16.0
    assert spoken_turns(found) == [("S1", "loud"), ("S1", "loud")]


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_without_speakers(talk: Path, search: str) -> None:
    recogniser = FakeStreams()
    found, _ = follow(talk, recogniser, Plan(search=search, speakers=False))
    assert spoken_turns(found) == [(None, "loud"), (None, "soft"), (None, "loud")]
    assert "embed" not in recogniser.calls


def test_obeys_the_largest_number_of_speakers(talk: Path) -> None:
    """A number of speakers is the largest one: in a stream they come one by one."""
    for limits in (SpeakerLimits(most=1), SpeakerLimits(least=1, most=1)):
        found, _ = follow(talk, FakeStreams(), Plan(speaker_limits=limits))
        assert {speaker for speaker, _ in spoken_turns(found)} == {"S1"}
    found, _ = follow(talk, FakeStreams(), Plan(speaker_limits=SpeakerLimits(least=2, most=2)))
    assert [speaker for speaker, _ in spoken_turns(found)] == ["S1", "S2", "S1"]


def test_notes_missing_speaker_network(talk: Path) -> None:
    found, _ = follow(talk, FakeStreams(similarity=None))
    assert found.notes == ("the server has no speaker network for standard, so speakers are not distinguished",)


def test_silence_has_an_empty_transcript(tmp_path: Path) -> None:
    found, events = follow(wav(tmp_path / "a.wav", silence(5)), FakeStreams())
    assert (events, found.notes, found.errors) == ([], ("no speech was found in it",), ())


def test_cut_near_the_last_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words after the cut belong to the next segment, also where the cut is close to the last sample."""
    monkeypatch.setattr(segments._LiveDetector, "voiced", lambda _, batch: [True] * (batch.size // 320))
    parts = [burst(15.5, level=0.9), burst(0.2, level=0.01), burst(4.3, level=0.9)]
    path = wav(tmp_path / "long.wav", np.concatenate(parts))

    class ManyWords(FakeStreams):
        def step(self, stream: int, window: Samples, *, start: bool, end: bool) -> EncoderOutput:
            encoded = super().step(stream, window, start=start, end=end)
            path = [LOUD if frame % 4 == 1 else 0 for frame in range(encoded.encoder_length)]
            return dataclasses.replace(encoded, emissions=confident(path))

    found, events = follow(path, ManyWords(), Plan(search="greedy"))
    first, second = (each for each in events if isinstance(each, Final))
    assert 15.3 < first.end_s == second.start_s < 15.8
    words = [word for turn in found.transcript.turns for word in turn.words]
    assert all(word.end_s - word.start_s > 0.0 for word in words)
    assert all(before.end_s <= after.start_s for before, after in itertools.pairwise(words))
    # One word every 0.16 s, without repetition.
    assert len(words) == pytest.approx(20.0 / 0.16, abs=3)


def test_raises_error_of_the_source(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any error of the library ends the transcription."""

    def blocks(_: Recording) -> Iterator[Samples]:
        yield silence(1.0)
        raise IndexError("list index out of range")

    monkeypatch.setattr(Recording, "blocks", blocks)
    with pytest.raises(IndexError):
        follow(talk, FakeStreams())


def test_transcribes_samples_read_before_the_stop(tmp_path: Path) -> None:
    """A microphone was read while the client waited for the server: all of its samples are transcribed."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sound = wav(tmp_path / "talk.wav", np.concatenate([burst(2), silence(1), burst(2), silence(1)])).read_bytes()
    written, ended = threading.Event(), threading.Event()

    def speak() -> None:
        with path.open("wb") as pipe:
            pipe.write(sound)
            pipe.flush()
            written.set()
            ended.wait(20)

    threading.Thread(target=speak, daemon=True).start()
    source, events = Source(path), list[Partial | Final]()

    def on_event(each: Partial | Final) -> None:
        events.append(each)
        if len(events) == 1:
            assert written.wait(10)
            time.sleep(1.0)
            source.stop()

    found = transcribed(source, FakeStreams(), Plan(), on_event)
    ended.set()
    assert spoken_turns(found) == [("S1", "loud"), ("S1", "loud")]


def test_stops_a_stream_without_samples(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    source = Source(path)
    threading.Timer(0.5, source.stop).start()
    assert realtime.transcribe(source, FakeStreams(), Plan(), lambda _: None) is None


def test_cancels_lost_streams_on_the_server(talk: Path) -> None:
    def fail(request: int) -> None:
        if 3 <= request <= 5:
            raise RequestError("out of luck")

    recogniser = FakeStreams(fail=fail)
    follow(talk, recogniser)
    # The streams of the first segment; the others ended normally.
    assert len(recogniser.cancelled) == 3
    assert not recogniser.cancelled & recogniser.ended


def test_paused_stream_gets_its_final(tmp_path: Path) -> None:
    """A pipe that stays open without bringing samples: the final comes after a second, not when the sound resumes."""
    path, resumed, finals = tmp_path / "pipe", threading.Event(), list[bool]()
    os.mkfifo(path)
    content = wav(tmp_path / "talk.wav", np.concatenate([silence(0.5), burst(2.5), burst(2), silence(1)])).read_bytes()
    paused = threading.Event()

    def speak() -> None:
        with path.open("wb") as pipe:
            pipe.write(content[: 44 + 2 * 3 * 16_000])
            pipe.flush()
            paused.wait(20)
            resumed.set()
            pipe.write(content[44 + 2 * 3 * 16_000 :])

    threading.Thread(target=speak, daemon=True).start()

    def on_event(each: Partial | Final) -> None:
        if isinstance(each, Final):
            finals.append(resumed.is_set())
            paused.set()

    found = transcribed(Source(path), FakeStreams(), Plan(), on_event)
    assert finals == [False, True]
    assert spoken_turns(found) == [("S1", "loud"), ("S1", "loud")]
    assert found.transcript.duration_s == pytest.approx(6.0, abs=0.01)


def test_file_does_not_pause(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime, "PAUSE_S", 0.0)
    read = Recording.blocks

    def blocks(recording: Recording) -> Iterator[Samples]:
        for block in read(recording):
            time.sleep(0.15)
            yield block

    monkeypatch.setattr(Recording, "blocks", blocks)
    assert all(block.size for block in Source(talk).blocks())
