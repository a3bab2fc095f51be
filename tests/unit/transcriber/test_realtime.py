"""A stream from its sound to what is told of it, with a recogniser that needs no server."""

import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contract.errors import SegmentError, ServerUnreachableError
from tests.unit.transcriber.fakes import LOUD, sure
from tests.unit.transcriber.sounds import burst, silence, wav
from tests.unit.transcriber.streams import OVERLAP, WINDOW, FakeStreams
from transcriber import pipeline, realtime, segments
from transcriber.audio import Recording, Samples
from transcriber.features import log_mel
from transcriber.pipeline import Outcome, Plan
from transcriber.realtime import Final, Partial, Source
from transcriber.recogniser import Features, Heard, RequestError


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_PAUSE_S", 0.0)


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """Loud, soft, loud: three segments of about 2.4 s."""
    parts = [silence(1), burst(2, level=0.9), silence(1), burst(2, level=0.04), silence(1), burst(2, level=0.9)]
    return wav(tmp_path / "talk.wav", np.concatenate([*parts, silence(1)]))


def follow(path: Path, recogniser: FakeStreams, plan: Plan | None = None) -> tuple[Outcome, list[Partial | Final]]:
    told: list[Partial | Final] = []
    found = realtime.transcribe(Source(path), recogniser, plan or Plan(), told.append)
    return found, told


def said(found: Outcome) -> list[tuple[str | None, str]]:
    return [(turn.speaker, turn.text) for turn in found.transcript.turns]


def test_words_times_and_speakers(talk: Path) -> None:
    found, told = follow(talk, FakeStreams())
    assert said(found) == [("S1", "loud"), ("S2", "soft"), ("S1", "loud")]
    assert [turn.start_s for turn in found.transcript.turns] == pytest.approx([1.3, 4.3, 7.3], abs=0.3)
    assert found.transcript.duration_s == pytest.approx(10.0)
    assert (found.notes, found.errors, found.transcript.losses) == ((), (), ())
    assert [type(each) for each in told] == [Partial, Final] * 3
    partials = [each for each in told if isinstance(each, Partial)]
    assert [partial.text for partial in partials] == ["loud", "soft", "loud"]
    # Two windows of 0.32 s, and the 0.1 s at a time in which the stream is looked at.
    assert all(partial.end_s - partial.start_s < 0.9 for partial in partials)
    assert [turn for each in told if isinstance(each, Final) for turn in each.turns] == list(found.transcript.turns)


def test_every_segment_is_a_stream_that_ends(talk: Path) -> None:
    recogniser = FakeStreams()
    follow(talk, recogniser)
    assert len(recogniser.streams) == 3
    assert recogniser.ended == set(recogniser.streams)


def test_windows_are_those_of_the_features(talk: Path) -> None:
    """Each begins where the stride leads, and together they are the features of the segment, heard to its end."""
    recogniser = FakeStreams()
    follow(talk, recogniser)
    segment = next(speech.segment for speech in segments.follow(Recording(talk).blocks()) if speech.ended)
    windows = next(iter(recogniser.streams.values()))
    assert {len(window) for window in windows[:-1]} == {WINDOW}
    joined = np.concatenate([windows[0], *(window[OVERLAP:] for window in windows[1:])])
    expected = log_mel(segment.samples)
    assert np.array_equal(joined[: len(expected)], expected)
    # It is heard a little further: the end of a segment is known 0.4 s after its last voice.
    assert len(expected) <= len(joined) < len(expected) + WINDOW


def test_what_is_said_is_known_before_the_stream_ends(tmp_path: Path) -> None:
    """A pipe that stays open: the first words come while nobody knows what follows."""
    path, told, heard, in_time = tmp_path / "pipe", list[Partial | Final](), threading.Event(), list[bool]()
    os.mkfifo(path)
    sound = wav(tmp_path / "talk.wav", np.concatenate([silence(0.5), burst(2), silence(1)])).read_bytes()

    def tell(each: Partial | Final) -> None:
        told.append(each)
        if isinstance(each, Final):
            heard.set()

    def speak() -> None:
        with path.open("wb") as pipe:
            pipe.write(sound)
            pipe.flush()
            heard.wait(20)
            in_time.append(heard.is_set())

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    found = realtime.transcribe(Source(path), FakeStreams(), Plan(), tell)
    speaker.join()
    assert in_time == [True]
    assert [type(each) for each in told] == [Partial, Final]
    assert said(found) == [("S1", "loud")]


def test_a_stream_that_is_ended_from_outside_keeps_what_was_said(tmp_path: Path) -> None:
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
    told: list[Partial | Final] = []

    def tell(each: Partial | Final) -> None:
        told.append(each)
        source.end()

    found = realtime.transcribe(source, FakeStreams(), Plan(), tell)
    assert time.monotonic() - began < 15
    ended.set()
    speaker.join()
    assert said(found) == [("S1", "loud")]
    assert [type(each) for each in told] == [Partial, Final]


def test_a_server_that_forgot_a_stream_is_told_it_again(talk: Path) -> None:
    """As after a restart: another stream, from its first window on, and nothing is lost or said twice."""
    recogniser = FakeStreams()

    def refuse(request: int) -> None:
        if request == 5:
            recogniser.forget()

    recogniser._refuse = refuse
    found, told = follow(talk, recogniser)
    assert said(found) == [("S1", "loud"), ("S2", "soft"), ("S1", "loud")]
    assert [type(each) for each in told] == [Partial, Final] * 3
    assert found.errors == ()
    assert len(recogniser.streams) == 3


def test_a_segment_that_the_server_refuses_is_reported(talk: Path) -> None:
    def refuse(request: int) -> None:
        if 3 <= request <= 5:
            raise RequestError("out of luck")

    found, told = follow(talk, FakeStreams(refuse=refuse))
    assert said(found) == [("S1", "soft"), ("S2", "loud")]
    (loss,) = found.transcript.losses
    assert loss.reason == "out of luck"
    assert loss.start_s == pytest.approx(0.8, abs=0.3)
    assert [each.loss for each in told if isinstance(each, Final)] == [loss, None, None]
    (error,) = found.errors
    assert isinstance(error, SegmentError)
    assert "the server refused 1 segment, so 0:00." in str(error)


def test_a_server_that_stays_away_ends_it(talk: Path) -> None:
    recogniser = FakeStreams()

    def refuse(_: int) -> None:
        if len(recogniser.ended) == 1:
            raise ServerUnreachableError("server:8001", "no server is ready there", "Start one")

    recogniser._refuse = refuse
    began = time.monotonic()
    found, _ = follow(talk, recogniser)
    assert time.monotonic() - began < 20
    assert said(found) == [("S1", "loud")]
    (error,) = found.errors
    assert isinstance(error, ServerUnreachableError)
    assert "is not in the transcript" in str(error)


def test_speech_without_a_pause_is_cut_and_no_word_is_said_twice(tmp_path: Path) -> None:
    """20 s of it: the first segment ends in the past, and the second begins there."""
    path = wav(tmp_path / "long.wav", np.concatenate([burst(20, level=0.9), silence(1)]))
    recogniser = FakeStreams()
    found, told = follow(path, recogniser, Plan(search="greedy"))
    finals = [each for each in told if isinstance(each, Final)]
    assert len(finals) == 2
    assert finals[0].end_s == finals[1].start_s
    assert 8.0 <= finals[0].end_s <= 16.0
    assert said(found) == [("S1", "loud"), ("S1", "loud")]


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_without_speakers(talk: Path, search: str) -> None:
    recogniser = FakeStreams()
    found, _ = follow(talk, recogniser, Plan(search=search, speakers=False))
    assert said(found) == [(None, "loud"), (None, "soft"), (None, "loud")]
    assert "embed" not in recogniser.calls


def test_a_server_without_a_speaker_network_is_noted(talk: Path) -> None:
    found, _ = follow(talk, FakeStreams(similarity=None))
    assert found.notes == ("the server has no diar_standard, so speakers are not told apart",)


def test_silence_is_a_result(tmp_path: Path) -> None:
    found, told = follow(wav(tmp_path / "a.wav", silence(5)), FakeStreams())
    assert (told, found.notes, found.errors) == ([], ("no speech was found in it",), ())


def test_a_cut_near_the_end_of_what_was_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words behind it belong to the next segment, however short the way back is."""
    monkeypatch.setattr(segments._LiveDetector, "voiced", lambda _, batch: [True] * (batch.size // 320))
    parts = [burst(15.5, level=0.9), burst(0.2, level=0.01), burst(4.3, level=0.9)]
    path = wav(tmp_path / "long.wav", np.concatenate(parts))

    class Chatty(FakeStreams):
        def step(self, stream: int, window: Features, *, start: bool, end: bool) -> Heard:
            heard = super().step(stream, window, start=start, end=end)
            path = [LOUD if frame % 4 == 1 else 0 for frame in range(heard.encoder_length)]
            return dataclasses.replace(heard, emissions=sure(path))

    found, told = follow(path, Chatty(), Plan(search="greedy"))
    first, second = (each for each in told if isinstance(each, Final))
    assert 15.3 < first.end_s == second.start_s < 15.8
    words = [word for turn in found.transcript.turns for word in turn.words]
    assert all(word.end_s - word.start_s > 0.0 for word in words)
    assert all(before.end_s <= after.start_s for before, after in itertools.pairwise(words))
    # One every 0.16 s, and none twice.
    assert len(words) == pytest.approx(20.0 / 0.16, abs=3)


def test_a_stream_that_fails_in_its_middle_ends(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the library raises, nobody waits for what does not come."""

    def blocks(_: Recording) -> Iterator[Samples]:
        yield silence(1.0)
        raise IndexError("list index out of range")

    monkeypatch.setattr(Recording, "blocks", blocks)
    with pytest.raises(IndexError):
        follow(talk, FakeStreams())


def test_what_was_spoken_before_an_interrupt_is_heard(tmp_path: Path) -> None:
    """A microphone that was taken while the server was away: all of it was said before the end."""
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
    source, told = Source(path), list[Partial | Final]()

    def tell(each: Partial | Final) -> None:
        told.append(each)
        if len(told) == 1:
            assert written.wait(10)
            time.sleep(1.0)
            source.end()

    found = realtime.transcribe(source, FakeStreams(), Plan(), tell)
    ended.set()
    assert said(found) == [("S1", "loud"), ("S1", "loud")]


def test_a_stream_of_which_nothing_comes_can_be_ended(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    source = Source(path)
    threading.Timer(0.5, source.end).start()
    with pytest.raises(KeyboardInterrupt):
        realtime.transcribe(source, FakeStreams(), Plan(), lambda _: None)


def test_the_server_is_told_of_streams_that_are_given_up(talk: Path) -> None:
    def refuse(request: int) -> None:
        if 3 <= request <= 5:
            raise RequestError("out of luck")

    recogniser = FakeStreams(refuse=refuse)
    follow(talk, recogniser)
    # Those of the first segment; the others came to their ends.
    assert len(recogniser.given_up) == 3
    assert not recogniser.given_up & recogniser.ended
