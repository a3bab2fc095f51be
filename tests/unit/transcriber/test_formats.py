"""Compare every format with its exact text."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from transcriber import formats
from transcriber.formats import CUE_LINE_CHARACTERS, FORMATS, Job, Subtitles, json_v2, rttm, srt, text, vtt
from transcriber.transcript import Loss, Transcript, Turn, Word, clock

TRANSCRIPT = Transcript(
    source="weekly meeting.wav",
    duration_s=3725.5,
    language="en",
    operating_point="enhanced",
    turns=(
        Turn(
            speaker="S1",
            words=(
                Word(content="hello", start_s=0.32, end_s=0.7, confidence=0.98765),
                Word(content="r&d", start_s=0.75, end_s=1.25, confidence=0.5),
            ),
        ),
        Turn(speaker="S2", words=(Word(content="hi", start_s=3722.04, end_s=3722.5, confidence=1.0),)),
    ),
    losses=(Loss(start_s=10.0, end_s=12.25, reason="refused"), Loss(start_s=3725.5, end_s=None, reason="truncated")),
)
JOB = Job(
    id="a1b2c3d4e5",
    created_at="2026-11-27T10:00:00.123Z",
    data_name="weekly meeting.wav",
    finished_at="2026-11-27T10:00:05.000Z",
    config={"language": "en", "diarization": "speaker"},
    tracking={"title": "Monday", "details": {"room": 7}},
)
SCHEMA = Draft202012Validator(json.loads(Path(formats.__file__).with_name("json-v2.schema.json").read_text()))
EMPTY = Transcript(source="a.wav", duration_s=1.0, language="en", operating_point="standard", turns=(), losses=())


def test_text() -> None:
    assert text(TRANSCRIPT) == (
        "[0:00.3 - 0:01.2] S1: hello r&d\n"
        "[0:10.0 - 0:12.2] (not transcribed: refused)\n"
        "[1:02:02.0 - 1:02:02.5] S2: hi\n"
        "[1:02:05.5 - ?] (not transcribed: truncated)\n"
    )


def test_text_without_speakers() -> None:
    turn = Turn(speaker=None, words=TRANSCRIPT.turns[0].words)
    plain = Transcript(
        source="a.wav", duration_s=2.0, language="en", operating_point="standard", turns=(turn,), losses=()
    )
    assert text(plain) == "[0:00.3 - 0:01.2] hello r&d\n"
    assert "speaker" not in json_v2(plain)
    assert "\nhello r&amp;d\n" in vtt(plain)
    assert "\nhello r&d\n" in srt(plain)


def test_json_v2() -> None:
    assert json.loads(json_v2(TRANSCRIPT, JOB)) == {
        "format": "2.9",
        "job": {
            "id": "a1b2c3d4e5",
            "created_at": "2026-11-27T10:00:00.123Z",
            "data_name": "weekly meeting.wav",
            "duration": 3725.5,
            "tracking": {"title": "Monday", "details": {"room": 7}},
        },
        "metadata": {
            "created_at": "2026-11-27T10:00:05.000Z",
            "type": "transcription",
            "transcription_config": {"language": "en", "diarization": "speaker"},
            "source": "weekly meeting.wav",
            "duration": 3725.5,
            "language": "en",
            "operating_point": "enhanced",
            "losses": [
                {"start_time": 10.0, "end_time": 12.25, "reason": "refused"},
                {"start_time": 3725.5, "end_time": None, "reason": "truncated"},
            ],
        },
        "results": [
            {
                "type": "word",
                "start_time": start,
                "end_time": end,
                "alternatives": [{"content": content, "confidence": confidence, "language": "en", "speaker": speaker}],
            }
            for content, start, end, confidence, speaker in (
                ("hello", 0.32, 0.7, 0.988, "S1"),
                ("r&d", 0.75, 1.25, 0.5, "S1"),
                ("hi", 3722.04, 3722.5, 1.0, "S2"),
            )
        ],
    }


@pytest.mark.parametrize("job", [None, JOB, replace(JOB, channels={"S1": "agent"})])
@pytest.mark.parametrize("transcript", [TRANSCRIPT, EMPTY])
def test_json_v2_is_what_its_schema_describes(transcript: Transcript, job: Job | None) -> None:
    document = json.loads(json_v2(transcript, job))
    assert [error.message for error in SCHEMA.iter_errors(document)] == []


@pytest.mark.parametrize(
    "change",
    [{"format": "2.8"}, {"job": {}}, {"metadata": {}}, {"results": [{}]}, {"extra": 1}],
    ids=lambda change: next(iter(change)),
)
def test_schema_rejects_other_documents(change: dict[str, object]) -> None:
    assert not SCHEMA.is_valid(json.loads(json_v2(TRANSCRIPT, JOB)) | change)


@pytest.mark.parametrize("channels", [None, {"S1": "left"}], ids=["speakers", "channels"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_json_v2_is_indented_as_the_standard_library_does(channels: dict[str, str] | None, count: int) -> None:
    """Whatever a word contains: the results are written by a faster way."""
    contents = ('"}]},\n      {"', '\n      "alternatives": null', "Zoë\\")
    turn = Turn(
        words=tuple(Word(content=each, start_s=1.0, end_s=1.25, confidence=0.5) for each in contents[:count]),
        speaker="S1",
    )
    found = json_v2(replace(TRANSCRIPT, turns=(turn,) if count else ()), replace(JOB, channels=channels))
    assert found == json.dumps(json.loads(found), indent=2, ensure_ascii=False) + "\n"
    assert [each["alternatives"][0]["content"] for each in json.loads(found)["results"]] == [*contents[:count]]


def test_json_v2_without_a_job_gets_one() -> None:
    first, second = (json.loads(json_v2(TRANSCRIPT)) for _ in range(2))
    assert first["job"]["id"] != second["job"]["id"]
    assert first["job"]["data_name"] == "weekly meeting.wav"
    age = datetime.now(UTC) - datetime.fromisoformat(first["metadata"]["created_at"])
    assert abs(age.total_seconds()) < 60
    assert first["metadata"]["transcription_config"] == {"language": "en", "operating_point": "enhanced"}


def test_channels_are_named_and_their_words_sorted() -> None:
    late = replace(TRANSCRIPT.turns[0].words[1], content="late", start_s=5.0, end_s=5.5)
    first = replace(TRANSCRIPT.turns[0], speaker="C1", words=(TRANSCRIPT.turns[0].words[0], late))
    second = replace(TRANSCRIPT.turns[1], speaker="C2", words=(replace(late, content="early", start_s=1.0),))
    job = replace(JOB, channels={"C1": "agent"})
    results = json.loads(json_v2(replace(TRANSCRIPT, turns=(first, second)), job))["results"]
    found = [(result["channel"], result["alternatives"][0]["content"]) for result in results]
    assert found == [("agent", "hello"), ("C2", "early"), ("agent", "late")]
    assert "speaker" not in results[0]["alternatives"][0]


def test_shape_of_subtitles() -> None:
    words = tuple(Word(content="word", start_s=n * 0.3, end_s=n * 0.3 + 0.2, confidence=1) for n in range(12))
    long = replace(EMPTY, turns=(Turn(speaker=None, words=words),))
    shape = Subtitles(line_characters=15, lines=1)
    assert srt(long, shape).count("word word\n") == 6
    assert "word word\n" in vtt(long, shape)


def test_srt() -> None:
    assert srt(TRANSCRIPT) == (
        "1\n00:00:00,320 --> 00:00:01,250\nS1: hello r&d\n\n"
        "2\n00:00:10,000 --> 00:00:12,250\n(not transcribed: refused)\n\n"
        "3\n01:02:02,040 --> 01:02:02,500\nS2: hi\n\n"
        "4\n01:02:05,500 --> 01:02:07,500\n(not transcribed: truncated)\n"
    )


def test_vtt() -> None:
    assert vtt(TRANSCRIPT) == (
        "WEBVTT\n\n00:00:00.320 --> 00:00:01.250\n<v S1>hello r&amp;d\n\n"
        "00:00:10.000 --> 00:00:12.250\n(not transcribed: refused)\n\n"
        "01:02:02.040 --> 01:02:02.500\n<v S2>hi\n\n"
        "01:02:05.500 --> 01:02:07.500\n(not transcribed: truncated)\n"
    )


def test_rttm() -> None:
    assert rttm(TRANSCRIPT) == (
        "SPEAKER weekly_meeting 1 0.320 0.930 <NA> <NA> S1 <NA> <NA>\n"
        "NOSCORE weekly_meeting 1 10.000 2.250 <NA> <NA> <NA> <NA> <NA>\n"
        "SPEAKER weekly_meeting 1 3722.040 0.460 <NA> <NA> S2 <NA> <NA>\n"
        "NOSCORE weekly_meeting 1 3725.500 2.000 <NA> <NA> <NA> <NA> <NA>\n"
    )


def test_transcript_without_words() -> None:
    found = {name: known.write(EMPTY) for name, known in FORMATS.items()}
    assert found.pop("vtt") == "WEBVTT\n"
    assert json.loads(found.pop("json-v2"))["results"] == []
    assert set(found.values()) == {""}


def test_cues_are_short_enough_to_read() -> None:
    words = tuple(
        Word(content="word" * (1 + n % 3), start_s=n * 0.3, end_s=n * 0.3 + 0.2, confidence=1) for n in range(90)
    )
    long = Transcript(
        source="a.wav",
        duration_s=30.0,
        language="en",
        operating_point="standard",
        turns=(Turn(speaker="S1", words=words),),
        losses=(),
    )
    cues = [cue.splitlines() for cue in srt(long).split("\n\n")]
    assert [cue[0] for cue in cues] == [str(number) for number in range(1, len(cues) + 1)]
    assert all(len(cue) <= 4 and all(len(line) <= CUE_LINE_CHARACTERS for line in cue[2:]) for cue in cues)
    assert " ".join(line for cue in cues for line in cue[2:]) == "S1: " + " ".join(word.content for word in words)


def _of(*turns: Turn) -> Transcript:
    return replace(EMPTY, turns=turns)


def _words(*contents: str, each_s: float = 0.1) -> tuple[Word, ...]:
    return tuple(
        Word(content=content, start_s=number * each_s, end_s=(number + 0.9) * each_s, confidence=1)
        for number, content in enumerate(contents)
    )


def test_subtitles_of_languages_without_spaces_fit_their_shape() -> None:
    """Lines break between words, and a wide character takes the place of two."""
    words = "東京都知事選挙" * 8
    turn = Turn(speaker=None, words=_words(*words), separator="")
    for lines in (1, 2):
        shape = Subtitles(line_characters=16, lines=lines)
        for cues in (srt(_of(turn), shape).split("\n\n"), vtt(_of(turn), shape).split("\n\n")[1:]):
            shown = [cue.partition(" --> ")[2].splitlines()[1:] for cue in cues]
            assert {len(each) for each in shown[:-1]} == {lines}
            assert all(len(line) <= 8 for each in shown for line in each)
            assert "".join(line for each in shown for line in each) == words


def test_marks_take_no_place_of_their_own() -> None:
    turn = Turn(speaker="S1", words=_words(*["दिल्ली"] * 4))
    assert "S1: दिल्ली दिल्ली दिल्ली\n" in srt(_of(turn), Subtitles(line_characters=21, lines=1))


def test_phrase_is_divided_at_its_blanks_only() -> None:
    turn = Turn(speaker=None, words=_words("the", "Royal Bank of Scotland", "twenty-one"))
    assert srt(_of(turn), Subtitles(line_characters=14, lines=9)).splitlines()[2:] == [
        "the Royal Bank", "of Scotland", "twenty-one",
    ]  # fmt: skip


def test_long_word_has_a_line_of_its_own() -> None:
    turn = Turn(speaker="S1", words=_words("a", "Donaudampfschifffahrt", "b"))
    assert srt(_of(turn), Subtitles(line_characters=12, lines=3)).splitlines()[2:] == [
        "S1: a", "Donaudampfschifffahrt", "b",
    ]  # fmt: skip


def test_subtitles_have_room_for_the_name_of_a_speaker() -> None:
    turn = Turn(speaker="Customer support of the night shift", words=_words(*["word"] * 30))
    cues = srt(_of(turn), Subtitles(line_characters=20, lines=3)).split("\n\n")
    assert cues[0].splitlines()[2:] == ["Customer support of", "the night shift:", "word word word word"]
    assert all(len(cue.splitlines()) <= 5 for cue in cues)


def test_name_of_a_speaker_is_text_in_a_line() -> None:
    name = "Agent <b> & Co > x\n\n00:00:05.000 --> 00:00:09.000\ninjected"
    given = _of(Turn(speaker=name, words=_words("hello")))
    assert vtt(given) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.400\n"
        "<v Agent &lt;b&gt; &amp; Co &gt; x 00:00:05.000 --&gt; 00:00:09.000 injected>hello\n"
    )
    assert srt(given).count("-->") == 1
    assert "" not in srt(given).splitlines()
    assert text(given) == "[0:00.0 - 0:00.1] Agent <b> & Co > x 00:00:05.000 --> 00:00:09.000 injected: hello\n"
    assert len(rttm(given).split()) == 10


def test_reason_of_a_loss_is_one_line() -> None:
    given = replace(EMPTY, losses=(Loss(start_s=0.0, end_s=2.0, reason="in ensemble: failed\n  at step 2"),))
    assert text(given) == "[0:00.0 - 0:02.0] (not transcribed: in ensemble: failed at step 2)\n"
    assert vtt(given).endswith("\n(not transcribed: in ensemble: failed at\nstep 2)\n")


def test_no_cue_and_no_turn_ends_when_it_begins() -> None:
    instants = [Turn(speaker="S1", words=(replace(_words("so")[0], start_s=at, end_s=at),)) for at in (1, 1, 1.2, 9)]
    given = replace(_of(*instants), losses=(Loss(start_s=20.0, end_s=20.0, reason="refused"),))
    assert [line for line in vtt(given).splitlines() if "-->" in line] == [
        "00:00:01.000 --> 00:00:01.001",
        "00:00:01.000 --> 00:00:01.200",
        "00:00:01.200 --> 00:00:01.600",
        "00:00:09.000 --> 00:00:09.400",
        "00:00:20.000 --> 00:00:20.400",
    ]
    assert [line.split()[4] for line in rttm(given).splitlines()] == ["0.001"] * 5


def test_rttm_leaves_out_turns_without_a_speaker() -> None:
    given = _of(Turn(speaker=None, words=_words("so")), Turn(speaker="S1", words=_words("yes")))
    assert rttm(given) == "SPEAKER a 1 0.000 0.090 <NA> <NA> S1 <NA> <NA>\n"


def test_json_v2_of_channels_states_them_and_is_sorted() -> None:
    turns = (Turn(speaker="C1", words=_words("a", "c", each_s=2.0)), Turn(speaker="C2", words=(_words("", "b")[1],)))
    document = json.loads(json_v2(replace(_of(*turns), by_channel=True)))
    assert [error.message for error in SCHEMA.iter_errors(document)] == []
    assert document["metadata"]["transcription_config"] == {
        "language": "en", "operating_point": "standard", "diarization": "channel",
    }  # fmt: skip
    found = [(each["channel"], each["alternatives"][0]["content"]) for each in document["results"]]
    assert found == [("C1", "a"), ("C2", "b"), ("C1", "c")]
    assert "speaker" not in document["results"][0]["alternatives"][0]


def test_pause_ends_a_cue() -> None:
    words = tuple(Word(content="so", start_s=start, end_s=start + 0.2, confidence=1) for start in (0.0, 5.0))
    turn = Turn(speaker="S1", words=words)
    given = Transcript(source="a", duration_s=6, language="en", operating_point="standard", turns=(turn,), losses=())
    assert srt(given).count("-->") == 2


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 4.24, 59.96, 3600, 7325.5)] == [
        "0:00.0",
        "0:04.2",
        "1:00.0",
        "1:00:00.0",
        "2:02:05.5",
    ]
