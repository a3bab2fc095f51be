"""The demonstration's output and scores, without a server."""

import json
from pathlib import Path
from typing import Any

import pytest

import demo.__main__ as command
from demo import ports, scores
from demo.scores import Score


def _word(content: str, speaker: str, start: float) -> dict[str, Any]:
    alternatives = [{"content": content, "speaker": speaker}]
    return {"type": "word", "start_time": start, "end_time": start + 0.4, "alternatives": alternatives}


REFERENCE = {
    "turns": [
        {"speaker": "A", "start": 0.0, "end": 1.0, "text": "one two"},
        {"speaker": "B", "start": 1.0, "end": 2.0, "text": "three four"},
    ]
}
TRANSCRIPT = {
    "results": [_word("one", "S1", 0.0), _word("too", "S1", 0.5), _word("three", "S2", 1.0), _word("four", "S1", 1.5)]
}


def test_scores_words_and_words_by_speaker() -> None:
    assert scores.score(TRANSCRIPT, REFERENCE) == Score(
        word_error_rate=0.25, speaker_word_error_rate=0.75, speakers=2, reference_speakers=2
    )


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors"),
    [("a b c", "a b c", 0), ("a b c", "a x c d", 2), ("a b", "", 2), ("", "a b", 2), ("", "", 0)],
)
def test_counts_word_errors(reference: str, hypothesis: str, errors: int) -> None:
    assert scores.word_errors(reference, hypothesis) == errors


def test_prints_transcripts_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "TRANSCRIPTS", tmp_path)
    monkeypatch.setattr(command, "REFERENCE", tmp_path / "reference.json")
    (tmp_path / "reference.json").write_text(json.dumps(REFERENCE))
    for point in ("standard", "enhanced"):
        (tmp_path / f"dialogue-{point}.json").write_text(json.dumps(TRANSCRIPT))
    command.show()
    transcript = ["    0.0 -  0.9  S1  one too", "    1.0 -  1.4  S2  three", "    1.5 -  1.9  S1  four", ""]
    assert capsys.readouterr().out.splitlines() == [
        "",
        "== Transcript (standard)",
        *transcript,
        "== Transcript (enhanced)",
        *transcript,
        "== Reference transcript",
        "    0.0 -  1.0  A   one two",
        "    1.0 -  2.0  B   three four",
        "",
        "== Scores",
        "Error rates are shares of the words of the reference transcript.",
        "                                  standard    enhanced",
        "  word error rate                   25.0 %      25.0 %",
        "  word error rate by speaker        75.0 %      75.0 %",
        "  speakers (reference: 2)                2           2",
    ]


def test_ports_are_options_of_the_server() -> None:
    assert ports.port_options({"http": 1, "grpc": 2}) == ["--http-port", "1", "--grpc-port", "2"]
