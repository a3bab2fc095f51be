"""What clients read of the transcript of a job."""

from typing import Any

from service.jobs import documents
from service.jobs.records import Job, State
from transcriber.transcript import Transcript, Turn, Word


def _turn(speaker: str | None, *contents: str, separator: str = " ") -> Turn:
    words = tuple(Word(content=content, start_s=0.0, end_s=1.0, confidence=1.0) for content in contents)
    return Turn(words=words, speaker=speaker, separator=separator)


def _transcript(*turns: Turn) -> Transcript:
    return Transcript(
        source="a.wav", duration_s=30.0, language="en", operating_point="standard", turns=turns, losses=()
    )


def _written(name: str, labels: list[str], transcript: Transcript) -> str:
    config: dict[str, Any] = {"transcription_config": {"diarization": "channel", "channel_diarization_labels": labels}}
    job = Job(id="a", client="", state=State.DONE, created_us=0, config=config, data_name="a.wav")
    return documents.written(name, job, documents.stored(transcript, 0))


def test_text_names_a_speaker_at_a_change_only() -> None:
    turns = [_turn("S1", "good", "morning"), _turn("S1", "how", "are", "you"), _turn("S2", "fine"), _turn("S1", "so")]
    assert documents.text(_transcript(*turns)) == (
        "SPEAKER: S1\ngood morning how are you\nSPEAKER: S2\nfine\nSPEAKER: S1\nso\n"
    )
    assert documents.text(_transcript(_turn("S1", "東", separator=""), _turn("S1", "京", separator=""))) == (
        "SPEAKER: S1\n東京\n"
    )


def test_text_without_speakers_has_a_line_for_each_turn() -> None:
    assert documents.text(_transcript(_turn(None, "good", "morning"), _turn(None, "fine"))) == "good morning\nfine\n"
    assert documents.text(_transcript()) == ""


def test_label_of_a_channel_is_text_in_a_line() -> None:
    transcript = _transcript(_turn("C1", "hello"), _turn("C2", "hi"))
    labels = ["Agent > 1\n\n00:00:05.000 --> 00:00:09.000\nx", " "]
    assert _written("txt", labels, transcript) == (
        "SPEAKER: Agent > 1 00:00:05.000 --> 00:00:09.000 x\nhello\nSPEAKER: C2\nhi\n"
    )
    vtt = _written("vtt", labels, transcript)
    assert "\n<v Agent &gt; 1 00:00:05.000 --&gt; 00:00:09.000 x>hello\n" in vtt
    assert "\n<v C2>hi\n" in vtt
    assert vtt.count("-->") == 2
