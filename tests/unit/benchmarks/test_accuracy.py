"""The measurement of accuracy: its counts, its intervals, and its page."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import recordings
from benchmarks.accuracy import measure
from benchmarks.accuracy.page import INTRODUCTION, page
from benchmarks.accuracy.reliability import (
    FEWEST_WORDS,
    calibration_error,
    curve,
    draw,
    normalised_cross_entropy,
    reliability,
)
from benchmarks.accuracy.results import DiarizationScore, Rate, Results, StreamRates
from benchmarks.recordings import Dialogue, LabelledRecording, RecordingSet, Turn
from benchmarks.streams import WindowedRecogniser
from contract.client import Calibration
from contract.errors import AudioError
from tests.unit.transcriber.fakes import FT, PIECES, FakeRecogniser
from tests.unit.transcriber.models import single_tokens
from tests.unit.transcriber.sounds import RATE_HZ, burst, silence
from tests.unit.transcriber.streams import WINDOW, FakeStreams


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Write a loud and a soft burst, with a second of silence between them."""
    samples = np.concatenate([silence(0.5), burst(1.0), silence(1.0), burst(1.0, level=0.02), silence(0.5)])
    soundfile.write(tmp_path / "both.flac", samples, RATE_HZ)
    return tmp_path / "both.flac"


# Three words of four are right; the network states one half for each.
CALIBRATION = Calibration(slope=1.0, offset=math.log(3))
JUDGED = np.array([[0.75, 1.0], [0.75, 1.0], [0.75, 0.0], [0.75, 1.0]])


def labelled(path: Path, text: str, speaker: str = "x") -> LabelledRecording:
    return LabelledRecording(path=path, text=text, speaker=speaker, seconds=4.0)


def test_transcribes_with_every_allowed_search(recording: Path) -> None:
    assert measure.transcribe_with_every_search(FakeRecogniser(), recording) == {
        "greedy": "loud soft",
        "beam": "loud soft",
    }
    enhanced = FakeRecogniser(rescorers=("rescorer", "lm"))
    enhanced.operating_point = "enhanced"
    both = measure.transcribe_with_every_search(enhanced, recording)
    assert list(both) == ["greedy", "beam", "beam + decoder", "beam + decoder + lm"]
    # The fake rescorer prefers the longest hypothesis.
    assert both["beam"] == "loud soft"
    assert len(both["beam + decoder"]) > len(both["beam"])
    with_ngram = measure.transcribe_with_every_search(
        FakeRecogniser(rescorers=("rescorer",), ngram=single_tokens(len(PIECES), unlikely=FT)), recording
    )
    assert list(with_ngram) == ["greedy", "beam", "beam + n-gram", "beam + n-gram + decoder"]
    assert (with_ngram["beam"], with_ngram["beam + n-gram"]) == ("loud soft", "loud so")


def test_counts_word_errors_of_every_recording(recording: Path) -> None:
    chosen = RecordingSet(
        name="a", description="", recordings=(labelled(recording, "loud soft"), labelled(recording, "very loud thing"))
    )
    errors = measure.count_word_errors(FakeRecogniser(), chosen)
    assert {search: counts.tolist() for search, counts in errors.items()} == {"greedy": [0, 2], "beam": [0, 2]}


def test_segment_is_one_stream_that_ends(recording: Path) -> None:
    streams = FakeStreams()
    assert measure.transcribe_with_every_search(WindowedRecogniser(streams), recording) == {
        "greedy": "loud soft",
        "beam": "loud soft",
    }
    assert len(streams.streams) == 2
    assert streams.ended == set(streams.streams)
    assert {len(window) for windows in streams.streams.values() for window in windows[:-1]} == {WINDOW}


def test_stream_has_the_frames_of_its_windows() -> None:
    sizes = ((5_840, 8), (5_841, 8), (6_479, 8), (6_480, 9), (10_960, 16), (11_599, 16), (11_600, 17), (1_360, 1))
    for samples, expected in sizes:
        encoded = WindowedRecogniser(FakeStreams()).recognise(np.zeros(samples, np.float32))
        assert encoded.encoder_length == len(encoded.emissions.tokens) == expected


def test_stream_cost_is_the_difference_on_the_same_recordings() -> None:
    streamed, recorded, words = np.array([2, 5, 1]), np.array([1, 4, 0]), np.array([10, 10, 10])
    found = measure.compare_streams({"beam": streamed}, {"beam": recorded}, words)["beam"]
    assert (found.streams.rate, found.recordings.rate) == pytest.approx((8 / 30, 5 / 30))
    # Difficulty that both share cancels out.
    assert (found.cost.lower, found.cost.rate, found.cost.upper) == pytest.approx((0.1, 0.1, 0.1))


def test_interval_contains_its_rate_and_narrows_with_more_recordings() -> None:
    source = np.random.default_rng(1)
    few, many = (measure.rate(source.binomial(10, 0.2, size=size), np.full(size, 10)) for size in (20, 2_000))
    assert few.lower < few.rate < few.upper
    assert many.lower < 0.2 < many.upper
    # The width falls with the square root of the number: ten times narrower for a hundred times as many.
    assert (few.upper - few.lower) / (many.upper - many.lower) == pytest.approx(10.0, rel=0.5)


def test_interval_of_equal_rates_has_no_width() -> None:
    assert measure.rate(np.array([1, 1, 1]), np.array([4, 4, 4])) == Rate(rate=0.25, lower=0.25, upper=0.25)


def test_transcribes_dialogues_as_recordings_and_as_streams(recording: Path) -> None:
    for transcribe in (measure.of_recording(FakeRecogniser()), measure.of_stream(FakeStreams())):
        assert [(turn.speaker, turn.text) for turn in transcribe(recording).turns] == [("S1", "loud"), ("S2", "soft")]


def test_right_diarization_has_a_smaller_error(recording: Path) -> None:
    transcript = measure.of_recording(FakeRecogniser())
    right = Dialogue(
        path=recording, turns=(Turn(speaker="a", start=0.9, end=1.1), Turn(speaker="b", start=2.9, end=3.1))
    )
    one_voice = Dialogue(
        path=recording, turns=(Turn(speaker="a", start=0.9, end=1.1), Turn(speaker="a", start=2.9, end=3.1))
    )
    found, worse = (measure.score_diarization("", [each], transcript) for each in (right, one_voice))
    assert (found.counts_right, worse.counts_right) == (1.0, 0.0)
    assert found.error < worse.error


def test_telephone_dialogues_have_the_band_and_the_turns(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "TELEPHONE_FOLDER", tmp_path / "telephone")
    turns = (Turn(speaker="a", start=0.9, end=1.1),)
    (found,) = measure.on_telephone([Dialogue(path=recording, turns=turns)])
    with soundfile.SoundFile(found.path) as file:
        assert (file.samplerate, file.subtype, found.turns) == (8_000, "ULAW", turns)
        assert file.frames / file.samplerate == pytest.approx(4.0, abs=0.01)


def test_collar_cuts_both_sides_of_every_edge() -> None:
    turns = [("a", 0.0, 2.0), ("b", 2.0, 5.0)]
    assert measure.cut_edges(turns, [0.0, 2.0, 5.0], 0.25) == [("a", 0.25, 1.75), ("b", 2.25, 4.75)]
    # A turn that crosses an edge is split in two; one within the collar is removed.
    assert measure.cut_edges([("a", 1.0, 3.0), ("b", 1.8, 2.2)], [2.0], 0.25) == [
        ("a", 1.0, 1.75),
        ("a", 2.25, 3.0),
    ]
    assert measure.cut_edges(turns, [0.0, 2.0], 0.0) == turns


def test_equal_error_rate_of_distinct_voices_is_zero(tmp_path: Path) -> None:
    group = []
    for number, level in enumerate((0.5, 0.5, 0.02, 0.02)):
        path = tmp_path / f"{number}.flac"
        soundfile.write(path, burst(4.0, level=level), RATE_HZ)
        group.append(labelled(path, "x", str(level)))
    assert measure.speaker_eer(FakeRecogniser(), group) == 0.0
    swapped = [labelled(one.path, "x", str(number % 2)) for number, one in enumerate(group)]
    assert measure.speaker_eer(FakeRecogniser(), swapped) >= 0.5


def diarization(error: float, counts_right: float) -> dict[str, DiarizationScore]:
    return {
        kind: DiarizationScore(error=error + 0.1, error_with_collar=error + more, counts_right=counts_right)
        for kind, more in ((measure.RECORDINGS, 0.0), (measure.STREAMS, 0.02), (measure.TELEPHONE, 0.04))
    }


def test_page_has_every_figure() -> None:
    rate = Rate(rate=0.1234, lower=0.1, upper=0.15)
    results = Results(
        sets={"grammar": "meetings"},
        words={point: {"grammar": {"greedy": rate, "beam": rate}} for point in ("standard", "enhanced")},
        gains={"grammar": Rate(rate=0.02, lower=0.01, upper=0.03)},
        streams={"enhanced": {"beam": StreamRates(streams=rate, recordings=rate, cost=rate)}},
        equal_errors={"standard": 0.041, "enhanced": 0.032},
        diarization={
            "standard": diarization(0.1, 0.5),
            "enhanced": diarization(0.09, 0.75),
        },
        reliability={"standard": {"grammar": reliability(JUDGED, CALIBRATION)}},
        recordings=3,
        hours=0.5,
    )
    text = page(results)
    assert "![Reliability curves of both operating points](pictures/confidence.png)" in text
    assert "| standard | grammar | 4 | 75.0 % | 50.0 % | 75.0 % | 25.0 % | 0.0 % | -0.23 | 0.00 |" in text
    assert "| grammar | meetings | 12.3 ± 2.5 | 12.3 ± 2.5 |" in text
    assert "| grammar | 2.0 ± 1.0 |" in text
    assert "grammar, in windows of 320 ms" in text
    assert "| enhanced | beam | 12.3 ± 2.5 | 12.3 ± 2.5 | 12.3 ± 2.5 |" in text
    assert "| equal error rate, mean of the windows in 3 s, unseen voices | 4.1 % | 3.2 % |" in text
    assert "| diarization error rate, dialogues of 2 to 4 unseen voices | 10.0 % | 9.0 % |" in text
    assert "| dialogues with the right number of voices | 50.0 % | 75.0 % |" in text
    assert "| diarization error rate, the dialogues as streams | 12.0 % | 11.0 % |" in text
    assert "| diarization error rate, the dialogues at 300 to 3400 Hz, as 8 kHz mu-law | 14.0 % | 13.0 % |" in text


def test_errors_of_confidences() -> None:
    """Two bins: words of 0.25 of which none is right, words of 0.75 of which all are."""
    confidences, right = np.array([0.25, 0.25, 0.75, 0.75]), np.array([0.0, 0.0, 1.0, 1.0])
    assert [(each.words, each.confidence, each.right) for each in curve(confidences, right)] == [
        (2, 0.25, 0.0),
        (2, 0.75, 1.0),
    ]
    assert calibration_error(confidences, right) == pytest.approx(0.25)
    # The entropy of one half is ln 2, the cross entropy -ln 0.75.
    assert normalised_cross_entropy(confidences, right) == pytest.approx(1 + math.log(0.75) / math.log(2))
    assert math.isnan(normalised_cross_entropy(confidences, np.ones(4)))
    assert normalised_cross_entropy(np.full(4, 0.5), right) == pytest.approx(0.0)


def test_judges_the_words_of_the_default_search(recording: Path) -> None:
    chosen = RecordingSet(name="a", description="", recordings=(labelled(recording, "loud sofa"),))
    found = measure.judge_sets(FakeRecogniser(), [chosen])
    assert [right for _, right in found["a"].tolist()] == [1.0, 0.0]
    assert found[measure.ALL].tolist() == found["a"].tolist()


def test_draws_the_curves(tmp_path: Path) -> None:
    many = np.tile(JUDGED, (FEWEST_WORDS, 1))
    draw(tmp_path / "new" / "curve.png", {"standard": reliability(many, CALIBRATION)})
    assert (tmp_path / "new" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_missing_recordings_have_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="python -m training evaluation") as raised:
        recordings.load_all(tmp_path)
    assert raised.value.exit_code == 50


def test_reads_sets_and_dialogues(tmp_path: Path) -> None:
    one = {"file": "000.flac", "text": "a b", "speaker": "x", "seconds": 2}
    turn = {"speaker": "x", "start": 0.4, "end": 1.5, "text": "a b"}
    for name, entry in (("grammar", one), ("dialogues", {"file": "000.flac", "turns": [turn]})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "truth.json").write_text(json.dumps({"what": name, "recordings": [entry, entry]}))
    (found,) = recordings.load_all(tmp_path, limit=1)
    assert found.recordings == (
        LabelledRecording(path=tmp_path / "grammar/000.flac", text="a b", speaker="x", seconds=2.0),
    )
    first, _ = recordings.load_dialogues(tmp_path)
    assert first.turns == (Turn(speaker="x", start=0.4, end=1.5),)


def test_kept_page_has_the_text_of_the_generator() -> None:
    kept = Path("docs/accuracy.md").read_text(encoding="utf-8").splitlines()
    pattern = re.escape(INTRODUCTION).replace(r"\{recordings\}", r"\d+").replace(r"\{hours:\.1f\}", r"\d+\.\d")
    assert re.fullmatch(pattern, kept[2])
