"""Write a transcript as text, json-v2, subtitles or speaker turns."""

import html
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transcriber.transcript import Loss, Transcript, Turn, Word, clock

JSON_VERSION = "2.9"
# What fits on a screen and can be read: two lines of 42 characters, for at most 7 s (the usual rules of broadcasters).
CUE_LINE_CHARACTERS, CUE_LINES, CUE_LONGEST_S = 42, 2, 7.0
_CUE_PAUSE_S = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A format of results: the function that writes it, and the suffix of its files."""

    suffix: str
    write: Callable[[Transcript], str]
    needs_speakers: bool = False


def text(transcript: Transcript) -> str:
    """Write one line per turn, `[0:00.3 - 0:04.2] S1: hello there`, and one line per missing part."""
    lines = [(turn.start_s, turn_line(turn)) for turn in transcript.turns]
    lines += [(loss.start_s, loss_line(loss)) for loss in transcript.losses]
    return "".join(f"{line}\n" for _, line in sorted(lines, key=lambda pair: pair[0]))


def turn_line(turn: Turn) -> str:
    """Write a turn as a line of text."""
    return f"[{clock(turn.start_s)} - {clock(turn.end_s)}] {_speaker_prefix(turn)}{turn.text}"


def loss_line(loss: Loss) -> str:
    """Write a loss as a line of text."""
    return f"[{clock(loss.start_s)} - {_end(loss)}] (not transcribed: {loss.reason})"


def json_message(name: str, start_s: float, end_s: float, words: str, results: list[dict[str, Any]]) -> str:
    """Write one message of a real-time transcript as a line: AddPartialTranscript, or AddTranscript for final words.

    {"message", "format": "2.9", "metadata": {"start_time", "end_time", "transcript"}, "results": as in json-v2}
    """
    metadata = {"start_time": round(start_s, 3), "end_time": round(end_s, 3), "transcript": words}
    document = {"message": name, "format": JSON_VERSION, "metadata": metadata, "results": results}
    return json.dumps(document, ensure_ascii=False) + "\n"


def json_results(turns: Iterable[Turn], language: str) -> list[dict[str, Any]]:
    """Return the results of json-v2, one per word."""
    return [_json_word(word, turn, language) for turn in turns for word in turn.words]


def json_v2(transcript: Transcript) -> str:
    """Write json-v2, version 2.9: one result per word, times in seconds.

    {"format": "2.9",
     "metadata": {"source", "duration", "language", "operating_point",
                  "losses": [{"start_time", "end_time", "reason"}]},
     "results": [{"type": "word", "start_time", "end_time",
                  "alternatives": [{"content", "confidence", "language", "speaker"}]}]}

    `speaker` is absent where speakers were not distinguished. A loss's `end_time` is null where the end is unknown.
    """
    metadata = {
        "source": transcript.source,
        "duration": round(transcript.duration_s, 3),
        "language": transcript.language,
        "operating_point": transcript.operating_point,
        "losses": [
            {"start_time": round(loss.start_s, 3), "end_time": _rounded(loss.end_s), "reason": loss.reason}
            for loss in transcript.losses
        ],
    }
    document = {
        "format": JSON_VERSION,
        "metadata": metadata,
        "results": json_results(transcript.turns, transcript.language),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def srt(transcript: Transcript) -> str:
    """Write SubRip subtitles; the speaker is named before the words where it changes."""
    cues = []
    previous: str | None = None
    for number, cue in enumerate(_cues(transcript), start=1):
        prefix = f"{cue.speaker}: " if cue.speaker is not None and cue.speaker != previous else ""
        previous = cue.speaker
        times = f"{_stamp(cue.start_s, ',')} --> {_stamp(cue.end_s, ',')}"
        cues.append(f"{number}\n{times}\n{_wrapped(prefix + cue.text)}\n")
    return "\n".join(cues)


def vtt(transcript: Transcript) -> str:
    """Write WebVTT subtitles; the speaker is a voice tag."""
    cues = ["WEBVTT\n"]
    for cue in _cues(transcript):
        voice = f"<v {cue.speaker}>" if cue.speaker is not None else ""
        words = html.escape(_wrapped(cue.text), quote=False)
        cues.append(f"{_stamp(cue.start_s, '.')} --> {_stamp(cue.end_s, '.')}\n{voice}{words}\n")
    return "\n".join(cues)


def rttm(transcript: Transcript) -> str:
    """Write NIST's rich transcription time marks, one SPEAKER line per turn."""
    # Spaces separate the fields, so a name must not contain any.
    name = "_".join(Path(transcript.source).stem.split()) or "recording"
    return "".join(
        f"SPEAKER {name} 1 {turn.start_s:.3f} {turn.end_s - turn.start_s:.3f} <NA> <NA> {turn.speaker} <NA> <NA>\n"
        for turn in transcript.turns
    )


FORMATS = MappingProxyType(
    {
        "txt": Format(suffix=".txt", write=text),
        "json-v2": Format(suffix=".json", write=json_v2),
        "srt": Format(suffix=".srt", write=srt),
        "vtt": Format(suffix=".vtt", write=vtt),
        "rttm": Format(suffix=".rttm", write=rttm, needs_speakers=True),
    }
)


def _speaker_prefix(turn: Turn) -> str:
    return f"{turn.speaker}: " if turn.speaker is not None else ""


def _end(loss: Loss) -> str:
    return "?" if loss.end_s is None else clock(loss.end_s)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _json_word(word: Word, turn: Turn, language: str) -> dict[str, Any]:
    best = {"content": word.content, "confidence": round(word.confidence, 3), "language": language}
    if turn.speaker is not None:
        best["speaker"] = turn.speaker
    return {
        "type": "word",
        "start_time": round(word.start_s, 3),
        "end_time": round(word.end_s, 3),
        "alternatives": [best],
    }


def _cues(transcript: Transcript) -> Iterator[Turn]:
    """Split turns into cues: what is shown on the screen at a time."""
    for turn in transcript.turns:
        shown: list[Word] = []
        for word in turn.words:
            if shown and not _fits(shown, word, turn.separator):
                yield replace(turn, words=tuple(shown))
                shown = []
            shown.append(word)
        yield replace(turn, words=tuple(shown))


def _fits(shown: list[Word], word: Word, separator: str) -> bool:
    if word.start_s - shown[-1].end_s > _CUE_PAUSE_S or word.end_s - shown[0].start_s > CUE_LONGEST_S:
        return False
    # Room for the speaker that SubRip names within the text.
    joined = "S99: " + separator.join([*(shown_word.content for shown_word in shown), word.content])
    return len(textwrap.wrap(joined, CUE_LINE_CHARACTERS, break_long_words=False)) <= CUE_LINES


def _wrapped(words: str) -> str:
    return "\n".join(textwrap.wrap(words, CUE_LINE_CHARACTERS, break_long_words=False)) or words


def _stamp(seconds: float, point: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}{point}{milliseconds:03d}"
