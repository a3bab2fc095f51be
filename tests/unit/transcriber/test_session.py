"""Push samples into sessions, with a recogniser that needs no server."""

import dataclasses
import itertools
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from contract.client import Calibration, TokenSpec
from contract.errors import ServerContractError, ServerUnreachableError
from tests.unit.transcriber.fakes import LOUD, YES, confident
from tests.unit.transcriber.sounds import burst, silence
from tests.unit.transcriber.streams import FakeStreams
from transcriber import confidence, open_segment, pipeline, segments
from transcriber.audio import Samples
from transcriber.ctc import Floats
from transcriber.phrases import Phrase
from transcriber.pipeline import Plan
from transcriber.recogniser import Bounds, CancelledRequestError, EncoderOutput, RequestError
from transcriber.segments import Timing
from transcriber.session import EndOfUtterance, Event, Final, Outage, Partial, StreamRules, StreamSession
from transcriber.transcript import Word


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_PAUSE_S", 0.0)


class ManyWords(FakeStreams):
    """Recognise a word every 0.16 s, `loud` and `yes` in turn, from the beginning of each stream."""

    def step(self, stream: int, window: Samples, *, start: bool, end: bool) -> EncoderOutput:
        encoded = super().step(stream, window, start=start, end=end)
        before = 8 * (len(self.streams[stream]) - 1)
        frames = range(before, before + encoded.encoder_length)
        path = [(LOUD, YES)[frame // 4 % 2] if frame % 4 == 1 else 0 for frame in frames]
        return dataclasses.replace(encoded, emissions=confident(path))


class SlowWords(FakeStreams):
    """Recognise a word every 0.4 s, `loud` and `yes` in turn, from the beginning of each stream."""

    def step(self, stream: int, window: Samples, *, start: bool, end: bool) -> EncoderOutput:
        encoded = super().step(stream, window, start=start, end=end)
        before = 8 * (len(self.streams[stream]) - 1)
        frames = range(before, before + encoded.encoder_length)
        path = [(LOUD, YES)[frame // 10 % 2] if frame % 10 in (2, 3) else 0 for frame in frames]
        return dataclasses.replace(encoded, emissions=confident(path))


class Marked(FakeStreams):
    """Recognise `yes` in the frame that is centred on a loud sample, as a perfect network does."""

    def step(self, stream: int, window: Samples, *, start: bool, end: bool) -> EncoderOutput:
        encoded = super().step(stream, window, start=start, end=end)
        path = [0] * encoded.encoder_length
        for sample in np.flatnonzero(window > 0.8):
            frame = round((sample - 680) / 640)
            if 0 <= frame < len(path):
                path[frame] = YES
        return dataclasses.replace(encoded, emissions=confident(path))


class TwoVoices(Marked):
    """Embed the windows that begin in the first 2 s of a segment as one voice, and the others as another."""

    def embed(self, samples: Samples, bounds: Sequence[Bounds]) -> Floats:
        return np.array([[1, 0] if first < 32_000 else [0, 1] for first, _ in bounds], dtype=np.float32)


class GivenVoice:
    """A detector of voice with a list of flags, one for each frame of 20 ms."""

    flags: tuple[bool, ...] = ()

    def __init__(self, timing: Timing) -> None:
        self._frame, self._place = timing.frame, 0

    def voiced(self, batch: Samples) -> list[bool]:
        first, self._place = self._place, self._place + batch.size // self._frame
        return list(self.flags[first : self._place])


def talk() -> Samples:
    return np.concatenate([silence(1), burst(2), silence(1), burst(2, level=0.1), silence(1)])


def pushed(stream: StreamSession, samples: Samples, size: int = 1600) -> list[Event]:
    return [event for start in range(0, samples.size, size) for event in stream.push(samples[start : start + size])]


def transcribed(recogniser: FakeStreams, samples: Samples, size: int = 1600, **settings: object) -> list[Event]:
    with StreamSession(recogniser, Plan(), rules=StreamRules(**settings)) as stream:  # type: ignore[arg-type]
        return pushed(stream, samples, size) + stream.finish()


def words(events: Sequence[Event]) -> list[str]:
    finals = (event for event in events if isinstance(event, Final))
    return [word.content for final in finals for turn in final.turns for word in turn.words]


def all_words(events: Sequence[Event]) -> list[Word]:
    """Return the words of partials and finals."""
    partials = [word for event in events if isinstance(event, Partial) for word in event.words]
    finals = [event for event in events if isinstance(event, Final)]
    return partials + [word for final in finals for turn in final.turns for word in turn.words]


@pytest.mark.parametrize("speech_follows", [True, False])
def test_speech_behind_an_end_belongs_to_the_next_segment(
    monkeypatch: pytest.MonkeyPatch, *, speech_follows: bool
) -> None:
    """The network gets the silence by which an end is detected, and the next segment may begin within it."""
    flags = [True] * 51 + [False] * 20 + [speech_follows] * 50 + [False] * 40
    monkeypatch.setattr(segments, "_LiveDetector", GivenVoice)
    monkeypatch.setattr(GivenVoice, "flags", tuple(flags))
    samples = np.zeros(len(flags) * 320, dtype=np.float32)
    # 0.3 s after the last frame with voice, and 0.1 s after the end of the segment.
    samples[680 + 32 * 640] = 0.9
    finals = [event for event in transcribed(Marked(), samples) if isinstance(event, Final)]
    assert [word.content for word in all_words(finals)] == (["yes"] if speech_follows else [])
    assert [final.end_s for final in finals] == ([1.22, 2.62] if speech_follows else [1.22])


@pytest.mark.parametrize("similarity", [None, 0.5])
def test_segment_does_not_end_before_its_final_words(monkeypatch: pytest.MonkeyPatch, similarity: float | None) -> None:
    """With a tiny delay a word is final that lies in the silence behind the end of its segment."""
    flags = [True] * 51 + [False] * 60
    monkeypatch.setattr(segments, "_LiveDetector", GivenVoice)
    monkeypatch.setattr(GivenVoice, "flags", tuple(flags))
    samples = np.zeros(len(flags) * 320, dtype=np.float32)
    # The first word ends at 1.2225 s, and the speech of the segment at 1.22 s.
    samples[[680 + 28 * 640, 680 + 31 * 640]] = 0.9
    events = transcribed(Marked(similarity=similarity), samples, max_delay_s=0.05)
    finals = [(event.start_s, event.end_s) for event in events if isinstance(event, Final)]
    assert words(events) == ["yes"]
    assert [time_s for times in finals for time_s in times] == pytest.approx([0.0, 1.2225, 1.2225, 1.2225])
    assert finals[0][1] <= finals[1][0] <= finals[1][1]


def test_part_of_a_segment_is_at_least_one_sample() -> None:
    """What is left behind final words may be nothing, and its embedding needs a sample."""
    segment = segments.Segment(start=1600, samples=burst(1))
    for start_s, end_s in ((1.1, 1.1), (1.5, 1.6), (0.0, 0.05)):
        part = open_segment._part(segment, start_s, end_s)
        assert part.samples.size == 1
        assert segment.start <= part.start < part.end <= segment.end


def test_first_speaker_of_a_stream_is_the_first_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another voice, without words, comes before it in the segment."""
    monkeypatch.setattr(segments, "_LiveDetector", GivenVoice)
    monkeypatch.setattr(GivenVoice, "flags", (*[True] * 300, *[False] * 50))
    samples = np.zeros(7 * 16_000, dtype=np.float32)
    samples[680 + 120 * 640] = 0.9
    with StreamSession(TwoVoices(), Plan(search="greedy")) as stream:
        finals = [event for event in pushed(stream, samples) + stream.finish() if isinstance(event, Final)]
    assert [(turn.speaker, turn.text) for final in finals for turn in final.turns] == [("S1", "yes")]


@pytest.mark.parametrize("size", [1, 7, 160, 4000, 200_000])
def test_sizes_of_blocks_change_no_event(size: int) -> None:
    samples = talk()[: 40_000 if size < 100 else None]
    expected = transcribed(FakeStreams(), samples, end_of_utterance_s=0.5)
    assert transcribed(FakeStreams(), samples, size, end_of_utterance_s=0.5) == expected
    assert any(isinstance(event, Final) for event in expected)


def test_partials_have_words_with_times() -> None:
    partials = [event for event in transcribed(ManyWords(), burst(3)) if isinstance(event, Partial)]
    assert len(partials) > 3
    for partial in partials:
        assert " ".join(word.content for word in partial.words) == partial.text
        assert all(partial.start_s <= word.start_s < word.end_s <= partial.end_s for word in partial.words)


@pytest.mark.parametrize("delay_s", [None, 1.0])
def test_partials_and_finals_have_calibrated_confidences(delay_s: float | None) -> None:
    recogniser = ManyWords()
    raw = [word.confidence for word in all_words(transcribed(recogniser, burst(3), max_delay_s=delay_s))]
    calibration = Calibration(slope=0.5, offset=-1.0)
    recogniser.search = dataclasses.replace(recogniser.search, confidence=calibration)
    found = [word.confidence for word in all_words(transcribed(recogniser, burst(3), max_delay_s=delay_s))]
    assert len(found) > 10
    assert found == pytest.approx([confidence.apply(each, calibration) for each in raw])
    assert max(found) < min(raw)


@pytest.mark.parametrize("delay_s", [0.7, 2.0, 4.0])
def test_words_are_final_after_the_delay(delay_s: float) -> None:
    """12 s of speech without a pause: no word waits longer, and none is lost, repeated or moved."""
    samples = np.concatenate([burst(12, level=0.9), silence(1)])
    expected = words(transcribed(ManyWords(), samples))
    with StreamSession(ManyWords(), Plan(), rules=StreamRules(max_delay_s=delay_s)) as stream:
        events: list[Event] = []
        for start in range(0, samples.size, 1600):
            found = stream.push(samples[start : start + 1600])
            finals = [event for event in found if isinstance(event, Final)]
            spoken = [word for final in finals for turn in final.turns for word in turn.words]
            assert all(stream.position_s - word.end_s <= delay_s + 0.1 for word in spoken[:-1])
            events += found
        events += stream.finish()
    assert words(events) == expected
    finals = [event for event in events if isinstance(event, Final)]
    assert len(finals) > 3
    assert all(before.end_s <= after.start_s for before, after in itertools.pairwise(finals))
    spoken = [word for final in finals for turn in final.turns for word in turn.words]
    assert all(before.end_s <= after.start_s for before, after in itertools.pairwise(spoken))
    for partial in (event for event in events if isinstance(event, Partial)):
        assert not any(word.start_s < partial.start_s for word in partial.words)


def settled(delay_s: float | None, spelling: str) -> list[Word]:
    """Return the words of 12 s of speech without a pause, none of which waits for longer than the delay."""
    samples = np.concatenate([silence(1), burst(12), silence(1)])
    plan = Plan(vocabulary=(Phrase(content="LoudYes Inc", sounds_like=(spelling,)),))
    found: list[Word] = []
    with StreamSession(SlowWords(), plan, rules=StreamRules(max_delay_s=delay_s)) as stream:
        for start in range(0, samples.size, 1600):
            events = stream.push(samples[start : start + 1600])
            spoken = all_words([event for event in events if isinstance(event, Final)])
            assert delay_s is None or all(stream.position_s - word.end_s <= delay_s + 0.1 for word in spoken)
            found += spoken
        return found + all_words([event for event in stream.finish() if isinstance(event, Final)])


@pytest.mark.parametrize(
    ("delay_s", "spelling"), [(1.0, "loud yes"), (2.0, "loud yes"), (4.0, "loud yes"), (2.0, "yes loud yes")]
)
def test_phrases_are_not_cut_by_the_delay(delay_s: float, spelling: str) -> None:
    expected = [word.content for word in settled(None, spelling)]
    assert expected.count("Inc") >= 8
    assert [word.content for word in settled(delay_s, spelling)] == expected


def test_phrase_that_lasts_longer_than_the_delay_is_cut() -> None:
    found = [word.content for word in settled(1.0, "loud yes loud yes")]
    assert len(found) == 32
    assert set(found[:-4]) == {"loud", "yes"}


def test_no_cut_before_final_words() -> None:
    """40 s without a pause: segments are cut only after the words that are final."""
    samples = np.concatenate([burst(40, level=0.9), silence(1)])
    finals = [event for event in transcribed(ManyWords(), samples, max_delay_s=1.0) if isinstance(event, Final)]
    assert all(before.end_s <= after.start_s for before, after in itertools.pairwise(finals))
    assert len(words(finals)) == pytest.approx(40 / 0.16, abs=4)


def test_end_of_utterance_once_a_pause() -> None:
    events = transcribed(FakeStreams(), np.concatenate([talk(), silence(4)]), end_of_utterance_s=0.8)
    kinds = [type(event) for event in events]
    assert kinds == [Partial, Final, EndOfUtterance] * 2
    ends = [event for event in events if isinstance(event, EndOfUtterance)]
    # Speech ends at 3 s and at 6 s; the detector's last voiced frame may be a little later.
    assert [event.time_s for event in ends] == pytest.approx([3.8, 6.8], abs=0.25)
    assert not any(event.forced for event in ends)


def utterance_ends(
    monkeypatch: pytest.MonkeyPatch, flags: Sequence[bool], words_s: Sequence[float], trigger_s: float
) -> list[tuple[float, float]]:
    """Return the times of the ends of utterances, and when they are reported, for frames with voice and for words."""
    monkeypatch.setattr(segments, "_LiveDetector", GivenVoice)
    monkeypatch.setattr(GivenVoice, "flags", tuple(flags))
    samples = np.zeros(len(flags) * 320, dtype=np.float32)
    for time_s in words_s:
        samples[680 + round(time_s / 0.04) * 640] = 0.9
    found = []
    rules = StreamRules(max_delay_s=1.0, end_of_utterance_s=trigger_s)
    with StreamSession(Marked(), Plan(search="greedy"), rules=rules) as stream:
        for start in range(0, samples.size, 1600):
            events = stream.push(samples[start : start + 1600])
            found += [(event.time_s, stream.position_s) for event in events if isinstance(event, EndOfUtterance)]
    return found


@pytest.mark.parametrize("click_frames", [1, 5], ids=["no segment", "a segment without words"])
def test_clicks_do_not_keep_an_utterance_open(monkeypatch: pytest.MonkeyPatch, click_frames: int) -> None:
    """Speech until 2 s, then a click every 0.9 s."""
    clicks = [*[False] * (45 - click_frames), *[True] * click_frames] * 20
    ((time_s, reported_s),) = utterance_ends(monkeypatch, [True] * 100 + clicks, [0.4, 1.88], 1.0)
    assert time_s == pytest.approx(3.0)
    # A click just before may be the beginning of a word until its segment has ended.
    assert reported_s <= 3.0 + 0.5


def test_sound_without_words_does_not_keep_an_utterance_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Music follows the words, without a pause or after one."""
    ((time_s, reported_s),) = utterance_ends(monkeypatch, [True] * 1500, [0.4, 1.0], 0.5)
    assert time_s == pytest.approx(1.0 + 0.0425 + 0.06 + 0.5, abs=0.03)
    assert reported_s < 5.0
    flags = [True] * 60 + [False] * 45 + [True] * 1500
    ((time_s, reported_s),) = utterance_ends(monkeypatch, flags, [0.4, 1.0], 1.0)
    assert time_s == pytest.approx(2.2)
    assert reported_s < 3.5


def test_hesitation_does_not_end_an_utterance(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [True] * 200 + [False] * 100
    found = utterance_ends(monkeypatch, flags, [0.4, 2.8], 0.5)
    assert [time_s for time_s, _ in found] == [pytest.approx(4.5)]


@pytest.mark.parametrize("first_word_s", [0.1, 0.4, 0.6])
def test_speech_that_has_no_text_yet_keeps_an_utterance_open(
    monkeypatch: pytest.MonkeyPatch, first_word_s: float
) -> None:
    """Speech goes on 0.1 s before the utterance would end."""
    flags = [True] * 100 + [False] * 45 + [True] * 75 + [False] * 100
    found = utterance_ends(monkeypatch, flags, [0.4, 1.88, 2.9 + first_word_s, 4.2], 1.0)
    assert [time_s for time_s, _ in found] == [pytest.approx(5.4)]


def test_short_trigger_ends_the_segment_earlier() -> None:
    samples = np.concatenate([burst(2), silence(2)])
    ends = [
        next(event.time_s for event in transcribed(FakeStreams(), samples, end_of_utterance_s=trigger_s)
             if isinstance(event, EndOfUtterance))
        for trigger_s in (0.2, 1.0)
    ]  # fmt: skip
    assert ends[1] - ends[0] == pytest.approx(0.8, abs=0.05)


def test_silence_has_no_end_of_utterance() -> None:
    assert transcribed(FakeStreams(), silence(5), end_of_utterance_s=0.5) == []


def test_forced_end_of_utterance() -> None:
    with StreamSession(FakeStreams(), Plan()) as stream:
        pushed(stream, burst(2))
        final, end = stream.end_utterance()
        assert isinstance(final, Final)
        assert (words([final]), final.forced) == (["loud"], True)
        assert end == EndOfUtterance(time_s=2.0, forced=True)
        assert not words(pushed(stream, silence(1)))


def test_rules_may_change() -> None:
    with StreamSession(ManyWords(), Plan()) as stream:
        assert not any(isinstance(event, Final) for event in pushed(stream, burst(3)))
        stream.rules = StreamRules(max_delay_s=1.0)
        assert any(isinstance(event, Final) for event in pushed(stream, burst(0.2)))


def test_partials_may_be_text_alone() -> None:
    found = []
    for partial_words in (True, False):
        with StreamSession(ManyWords(), Plan(), partial_words=partial_words) as stream:
            found.append([event for event in pushed(stream, burst(3)) if isinstance(event, Partial)])
    assert found[0]
    assert all(" ".join(word.content for word in event.words) == event.text for event in found[0])
    assert [dataclasses.replace(event, words=()) for event in found[0]] == found[1]


def test_pause_makes_words_final() -> None:
    with StreamSession(FakeStreams(), Plan()) as stream:
        pushed(stream, burst(2))
        assert words(stream.pause()) == ["loud"]
        assert stream.pause() == []
        assert words(pushed(stream, np.concatenate([burst(2), silence(1)]))) == ["loud"]


def test_cancel_frees_the_place_of_the_stream() -> None:
    recogniser = FakeStreams()
    with StreamSession(recogniser, Plan()) as stream:
        pushed(stream, burst(2))
        assert not recogniser.cancelled
    assert recogniser.cancelled == set(recogniser.streams)
    assert stream.push(burst(2)) == stream.finish() == []
    stream.cancel()
    assert recogniser.requests < 10


def test_finished_session_has_nothing_to_free() -> None:
    recogniser = FakeStreams()
    transcribed(recogniser, burst(2))
    assert recogniser.ended == set(recogniser.streams)
    assert not recogniser.cancelled


def test_outage_is_the_last_event() -> None:
    """The events before it are returned too."""

    recogniser = FakeStreams()

    def fail(_: int) -> None:
        if recogniser.ended:
            raise ServerUnreachableError("server:8001", "no server is ready there", "Start one")

    recogniser._fail = fail
    with StreamSession(recogniser, Plan()) as stream:
        events = stream.push(talk())
        assert [type(event) for event in events] == [Partial, Final, Outage]
        assert isinstance(events[-1], Outage)
        assert events[-1].start_s == pytest.approx(3.8, abs=0.3)
        assert stream.push(talk()) == stream.finish() == []


def test_loss_of_a_segment_is_a_final() -> None:
    def fail(_: int) -> None:
        raise RequestError("out of luck")

    finals = [event for event in transcribed(FakeStreams(fail=fail), talk()) if isinstance(event, Final)]
    assert [final.loss.reason if final.loss else None for final in finals] == ["out of luck"] * 2


def test_sessions_share_a_recogniser() -> None:
    """Several threads at once: each transcript is the one of its session alone."""
    recogniser, results = ManyWords(), dict[int, list[Event]]()
    sounds = [np.concatenate([silence(number / 10), burst(2 + number / 10), silence(1)]) for number in range(8)]

    def run(number: int) -> None:
        results[number] = transcribed(recogniser, sounds[number], max_delay_s=1.0)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, sound in enumerate(sounds):
        assert results[number] == transcribed(ManyWords(), sound, max_delay_s=1.0)


@pytest.mark.parametrize(("error", "requests"), [(RequestError, 3), (CancelledRequestError, 1)])
def test_cancelled_request_is_not_repeated(error: type[RequestError], requests: int) -> None:
    def fail(_: int) -> None:
        raise error("no place")

    recogniser = FakeStreams(fail=fail)
    with StreamSession(recogniser, Plan()) as stream:
        pushed(stream, np.concatenate([silence(0.5), burst(2)]))
    assert recogniser.requests == requests


class Unsure(FakeStreams):
    """Find the second token of a frame more probable than in the other tests."""

    def step(self, stream: int, window: Samples, *, start: bool, end: bool) -> EncoderOutput:
        encoded = super().step(stream, window, start=start, end=end)
        log_probs = encoded.emissions.log_probs.copy()
        log_probs[:, :2] = np.log([0.9, 0.08])
        return dataclasses.replace(encoded, emissions=dataclasses.replace(encoded.emissions, log_probs=log_probs))


def test_vocabulary_is_used_and_written_as_given() -> None:
    """The second token of every frame is `yes`, and is taken where a phrase prefers it."""
    plan = Plan(vocabulary=(Phrase(content="YES!", sounds_like=("yes",)),))
    with StreamSession(Unsure(), plan) as stream:
        events = pushed(stream, burst(1)) + stream.finish()
    assert words(events).count("YES!") > words(transcribed(Unsure(), burst(1))).count("yes")
    assert any("YES!" in event.text for event in events if isinstance(event, Partial))


def test_partials_have_the_phrases_of_finals_in_languages_without_blanks() -> None:
    """A word may have several characters, and a phrase is not written within one."""
    recogniser = ManyWords()
    recogniser.tokens = TokenSpec(
        pieces=("<blank>", "<unk>", "</s>", "▁東京", "京", "▁", "都"), blank=0, unspoken=(1, 2), word_separator=""
    )
    plan = Plan(vocabulary=(Phrase(content="Kyoto", sounds_like=("京都",)),))
    with StreamSession(recogniser, plan) as stream:
        events = pushed(stream, burst(2)) + stream.finish()
    partials = [event for event in events if isinstance(event, Partial)]
    assert words(events)[:2] == ["東京都", "東京都"]
    assert len(partials) > 1
    for partial in partials:
        assert partial.text == "".join(word.content for word in partial.words)


def test_rejects_search_that_the_server_lacks() -> None:
    with pytest.raises(ServerContractError, match="the server has no model that scores hypotheses"):
        StreamSession(FakeStreams(), Plan(search="rescore"))
