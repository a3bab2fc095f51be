"""Transcribe files from end to end, with a recogniser that needs no server."""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.client import Calibration
from contract.errors import AudioError, SegmentError, ServerContractError, ServerUnreachableError
from tests.unit.transcriber.fakes import FT, PIECES, FakeRecogniser
from tests.unit.transcriber.models import single_tokens
from tests.unit.transcriber.sounds import burst, silence, wav
from transcriber import pipeline
from transcriber.audio import Recording, Samples
from transcriber.clustering import SpeakerLimits
from transcriber.ctc import Floats
from transcriber.pipeline import Plan, SegmentResult, TranscriptionResult, collect, in_order, transcribe
from transcriber.recogniser import Bounds, EncoderOutput, RequestError
from transcriber.transcript import Turn, Word


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_PAUSE_S", 0.0)


def result_of(path: Path, recogniser: FakeRecogniser, plan: Plan | None = None) -> TranscriptionResult:
    return transcribe(Recording(path), recogniser, plan or Plan(in_flight=2))


def spoken_turns(found: TranscriptionResult) -> list[tuple[str | None, str]]:
    return [(turn.speaker, turn.text) for turn in found.transcript.turns]


def test_words_times_and_speakers(talk: Path) -> None:
    found = result_of(talk, FakeRecogniser())
    assert spoken_turns(found) == [("S1", "loud"), ("S2", "soft"), ("S1", "loud")]
    assert [turn.start_s for turn in found.transcript.turns] == pytest.approx([2.0, 5.0, 8.0], abs=0.3)
    assert found.transcript.duration_s == pytest.approx(10.0)
    assert found.transcript.source == "talk.wav"
    assert (found.notes, found.errors, found.transcript.losses) == ((), (), ())


class _Cough(FakeRecogniser):
    """Embeds the windows that begin in the first 2 s of a segment as one voice, and the others as another."""

    def embed(self, samples: Samples, bounds: Sequence[Bounds]) -> Floats:
        return np.array([[1, 0] if first < 32_000 else [0, 1] for first, _ in bounds], dtype=np.float32)


def test_first_speaker_is_the_first_with_words(tmp_path: Path) -> None:
    """The word is in the middle of 8 s, behind a voice without words."""
    path = wav(tmp_path / "talk.wav", np.concatenate([silence(1), burst(8), silence(1)]))
    assert spoken_turns(result_of(path, _Cough(), Plan(search="greedy"))) == [("S1", "loud")]


def test_embeds_nothing_without_speakers(talk: Path) -> None:
    recogniser = FakeRecogniser()
    found = result_of(talk, recogniser, Plan(speakers=False))
    assert [speaker for speaker, _ in spoken_turns(found)] == [None, None, None]
    assert "embed" not in recogniser.calls
    assert found.notes == ()


class _NoVoice(FakeRecogniser):
    """Returns embeddings that are not numbers for some segments."""

    bad: tuple[int, ...] = ()
    first = 0
    """The first of the windows of such a segment that has no embedding."""

    def embed(self, samples: Samples, bounds: Sequence[Bounds]) -> Floats:
        found = super().embed(samples, bounds)
        if self.calls.count("embed") in self.bad:
            found[self.first :] = np.nan
        return found


@pytest.mark.parametrize(("bad", "speakers"), [((2,), ["S1", None, "S1"]), ((1, 2, 3), [None, None, None])])
def test_embeddings_that_are_not_numbers_cost_their_speaker_alone(
    talk: Path, bad: tuple[int, ...], speakers: list[str | None]
) -> None:
    recogniser = _NoVoice()
    recogniser.bad = bad
    found = result_of(talk, recogniser, Plan(in_flight=1))
    assert spoken_turns(found) == list(zip(speakers, ["loud", "soft", "loud"], strict=True))
    assert (found.errors, found.transcript.losses) == ((), ())


def test_other_windows_of_a_segment_have_its_speaker(talk: Path) -> None:
    recogniser = _NoVoice()
    recogniser.bad, recogniser.first = (1, 2, 3), 1
    assert spoken_turns(result_of(talk, recogniser)) == [("S1", "loud"), ("S2", "soft"), ("S1", "loud")]


class _Unsure(FakeRecogniser):
    """Recognises the same words, with a lower probability of every token."""

    probability = 0.5

    def recognise(self, samples: Samples) -> EncoderOutput:
        sure = super().recognise(samples)
        probabilities = np.array([self.probability, 0.01], dtype=np.float32)
        log_probs = np.tile(np.log(probabilities), (len(sure.emissions.tokens), 1))
        return replace(sure, emissions=replace(sure.emissions, log_probs=log_probs))


@pytest.mark.parametrize(("words", "probability", "noted"), [(10, 0.5, True), (10, 0.8, False), (9, 0.5, False)])
def test_notes_low_confidence(words: int, probability: float, noted: bool, tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", np.concatenate([silence(2), burst(1)] * words + [silence(2)]))
    recogniser = _Unsure()
    recogniser.probability = probability
    found = result_of(path, recogniser)
    assert sum(len(turn.words) for turn in found.transcript.turns) == words
    expected = (
        "the mean probability of its words is 0.50, so many of them are probably wrong: this does not sound like what "
        "the models were trained on",
    )
    assert found.notes == (expected if noted else ())


WITHOUT, WITH = Calibration(slope=2.0, offset=-1.0), Calibration(slope=0.5, offset=1.0)


@pytest.mark.parametrize(
    ("plan", "calibration"),
    [(Plan(), WITH), (Plan(search="beam"), WITH), (Plan(ngram=False), WITHOUT), (Plan(search="greedy"), WITHOUT)],
)
def test_confidences_are_calibrated_for_the_search(talk: Path, plan: Plan, calibration: Calibration) -> None:
    recogniser = _Unsure(ngram=single_tokens(len(PIECES), unlikely=FT))
    raw = result_of(talk, recogniser, plan).transcript
    recogniser.search = replace(recogniser.search, confidence=WITHOUT, confidence_with_ngram=WITH)
    found = result_of(talk, recogniser, plan).transcript
    before, after = ([word.confidence for turn in each.turns for word in turn.words] for each in (raw, found))
    assert len(after) == 3
    assert before == pytest.approx([0.5] * 3)
    # The log-odds of one half are 0.
    assert after == pytest.approx([1 / (1 + math.exp(-calibration.offset))] * 3)


def test_calibration_does_not_hide_a_low_probability(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", np.concatenate([silence(2), burst(1)] * 10 + [silence(2)]))
    recogniser = _Unsure()
    recogniser.search = replace(recogniser.search, confidence=Calibration(slope=0.5, offset=4.0))
    found = result_of(path, recogniser)
    assert all(word.confidence > 0.9 for turn in found.transcript.turns for word in turn.words)
    assert found.notes[0].startswith("the mean probability of its words is 0.50, so many of them are probably wrong")


def test_notes_missing_speaker_network(talk: Path) -> None:
    found = result_of(talk, FakeRecogniser(similarity=None))
    assert found.notes == ("the server has no speaker network for standard, so speakers are not distinguished",)


@pytest.mark.parametrize(
    ("limits", "labels"),
    [
        (SpeakerLimits(most=1), ["S1", "S1", "S1"]),
        (SpeakerLimits(least=1, most=1), ["S1", "S1", "S1"]),
        (SpeakerLimits(least=2, most=2), ["S1", "S2", "S1"]),
        (SpeakerLimits(most=9), ["S1", "S2", "S1"]),
    ],
)
def test_obeys_the_number_of_speakers(talk: Path, limits: SpeakerLimits, labels: list[str]) -> None:
    found = result_of(talk, FakeRecogniser(), Plan(speaker_limits=limits))
    assert ([speaker for speaker, _ in spoken_turns(found)], found.notes) == (labels, ())


def test_notes_a_number_of_speakers_that_speech_is_too_short_for(talk: Path) -> None:
    found = result_of(talk, FakeRecogniser(), Plan(speaker_limits=SpeakerLimits(least=99, most=99)))
    count = len({speaker for speaker, _ in spoken_turns(found)})
    assert found.notes == (f"it has too little speech for 99 speakers: {count} were distinguished",)


@pytest.mark.parametrize(("confidence", "count", "noted"), [(0.74, 10, True), (0.76, 10, False), (0.1, 9, False)])
def test_notes_a_low_mean_confidence(talk: Path, confidence: float, count: int, *, noted: bool) -> None:
    """The mean counts, over enough words to mean something."""
    spread = [confidence + (0.05 if place % 2 else -0.05) for place in range(count - count % 2)] + [confidence] * (
        count % 2
    )
    found_words = [
        Word(content="so", start_s=0.1 * place, end_s=0.1 * place + 0.1, confidence=each)
        for place, each in enumerate(spread)
    ]
    turns = [Turn(words=tuple(found_words), speaker="S1")]
    found = collect(Recording(talk), FakeRecogniser(), Plan(), [SegmentResult(words=found_words)], turns, None, 1.0)
    remark = (
        f"the mean probability of its words is {confidence:.2f}, so many of them are probably wrong: "
        "this does not sound like what the models were trained on"
    )
    assert found.notes == ((remark,) if noted else ())


def test_number_of_speakers_needs_a_speaker_network(talk: Path) -> None:
    with pytest.raises(ServerContractError) as caught:
        result_of(talk, FakeRecogniser(similarity=None), Plan(speaker_limits=SpeakerLimits(most=2)))
    assert str(caught.value) == (
        "the number of speakers: the server has no speaker network for standard. "
        "Leave out --speakers and --max-speakers, or serve a speaker network."
    )


def test_reports_progress_in_seconds(talk: Path) -> None:
    reported: list[float] = []
    transcribe(Recording(talk), FakeRecogniser(), Plan(), reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == pytest.approx(9.2, abs=0.3)


def test_silence_has_an_empty_transcript(tmp_path: Path) -> None:
    found = result_of(wav(tmp_path / "a.wav", silence(5)), FakeRecogniser())
    assert found.transcript.turns == ()
    assert found.transcript.duration_s == 5.0
    assert (found.notes, found.errors) == (("no speech was found in it",), ())


def test_accepts_very_short_recording(tmp_path: Path) -> None:
    assert result_of(wav(tmp_path / "a.wav", burst(0.08)), FakeRecogniser()).errors == ()


@pytest.mark.parametrize(
    ("rescorers", "requested", "expected"),
    [
        ((), None, "beam"),
        (("rescorer",), None, "rescore"),
        (("rescorer",), "greedy", "greedy"),
        ((), "greedy", "greedy"),
    ],
)
def test_best_search_is_the_default(rescorers: tuple[str, ...], requested: str | None, expected: str) -> None:
    assert pipeline.choose_search(FakeRecogniser(rescorers=rescorers), requested) == expected


def test_rescoring_needs_a_rescorer(talk: Path) -> None:
    with pytest.raises(ServerContractError) as caught:
        result_of(talk, FakeRecogniser(), Plan(search="rescore"))
    assert str(caught.value) == (
        "--search rescore: the server has no model that scores hypotheses for standard. "
        "Use --search beam, or serve a rescorer or a language model."
    )


def test_rescoring_reorders_hypotheses(talk: Path) -> None:
    """The fake decoder prefers long hypotheses, with scores far above those of the search."""
    recogniser = FakeRecogniser(rescorers=("rescorer",))
    assert spoken_turns(result_of(talk, recogniser))[0][1] != "loud"
    assert recogniser.calls.count("rescorer") == 3


@pytest.mark.parametrize(("wanted", "expected"), [(True, "so"), (False, "soft")])
def test_ngram_model_can_be_left_out(talk: Path, wanted: bool, expected: str) -> None:
    recogniser = FakeRecogniser(ngram=single_tokens(len(PIECES), unlikely=FT))
    found = result_of(talk, recogniser, Plan(ngram=wanted))
    assert [content for _, content in spoken_turns(found)] == ["loud", expected, "loud"]


def refusing(*numbers: int) -> FakeRecogniser:
    def fail(number: int) -> None:
        if number in numbers:
            raise RequestError("out of memory")

    return FakeRecogniser(fail=fail)


def test_repeats_failed_segment(talk: Path) -> None:
    found = result_of(talk, refusing(1, 2), Plan(in_flight=1))
    assert [content for _, content in spoken_turns(found)] == ["loud", "soft", "loud"]
    assert found.errors == ()


def test_reports_lost_segment_with_its_times(talk: Path) -> None:
    found = result_of(talk, refusing(2, 3, 4), Plan(in_flight=1))
    assert [content for _, content in spoken_turns(found)] == ["loud", "loud"]
    (loss,) = found.transcript.losses
    assert loss.reason == "out of memory"
    assert (loss.start_s, loss.end_s) == pytest.approx((3.8, 6.3), abs=0.2)
    (error,) = found.errors
    assert isinstance(error, SegmentError)
    assert str(error) == (
        f"{talk}: the server refused 1 segment, so {loss} is not in the transcript. "
        "The rest was transcribed; the error of the server: out of memory."
    )


def test_keeps_transcript_when_the_server_stays_away(talk: Path) -> None:
    def fail(number: int) -> None:
        if number > 1:
            time.sleep(0.05)
            raise ServerUnreachableError("localhost:8001", "no server is ready there", "Start one")

    found = result_of(talk, FakeRecogniser(fail=fail), Plan(in_flight=1))
    assert [content for _, content in spoken_turns(found)] == ["loud"]
    (loss,) = found.transcript.losses
    assert loss.start_s == pytest.approx(3.2, abs=0.2)
    assert loss.end_s == pytest.approx(10.0)
    (error,) = found.errors
    assert str(error) == (
        f"localhost:8001: no server is ready there, so {loss} of {talk} is not in the transcript. Start one."
    )


def test_transcribes_truncated_recording_to_its_end(talk: Path) -> None:
    content = talk.read_bytes()
    talk.write_bytes(content[: 44 + 2 * 16_000 * 7])
    found = result_of(talk, FakeRecogniser())
    assert [content for _, content in spoken_turns(found)] == ["loud", "soft"]
    (error,) = found.errors
    assert isinstance(error, AudioError)
    assert str(error) == (
        f"{talk}: the file is truncated, so 0:07.0 to its end is not in the transcript. "
        "The rest was transcribed; copy or record the file again for all of it."
    )


def test_results_keep_the_order_of_the_items() -> None:
    def work(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0.0)
        return number

    assert list(in_order(work, range(20), 4)) == list(range(20))


def test_limits_items_in_flight() -> None:
    taken, running, most, lock = 0, 0, 0, threading.Lock()

    def items() -> "object":
        nonlocal taken
        for number in range(50):
            taken += 1
            yield number

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return number

    results = in_order(work, items(), 3)  # type: ignore[arg-type]
    for due in results:
        assert taken <= due + 7
    assert most <= 3


def test_first_error_ends_the_work() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise RequestError("no")
        return number

    with pytest.raises(RequestError):
        list(in_order(work, range(100), 2))
    assert len(begun) < 20
