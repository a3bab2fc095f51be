"""Write a transcript as text, json-v2, subtitles or speaker turns."""

import html
import json
import secrets
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transcriber.transcript import Loss, Transcript, Turn, Word, clock

JSON_VERSION = "2.9"
LOST = "(not transcribed:"
"""How the text of a missing part begins in every format but json-v2."""
# What fits on a screen and can be read: two lines of 42 characters, for at most 7 s (the usual rules of broadcasters).
CUE_LINE_CHARACTERS, CUE_LINES, CUE_LONGEST_S = 42, 2, 7.0
_CUE_PAUSE_S = 1.5
# How long a missing part is shown whose end is unknown.
_UNKNOWN_END_S = 2.0


_JOB_ID_BYTES = 5
_ALTERNATIVES = '\n      "alternatives": '


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What json-v2 states about the job that made a transcript; times are like 2026-11-27T10:00:00.123Z.

    `config` is the transcription_config of the job; `channels` are the names of the channels, by their labels, where
    each channel was transcribed by itself.
    """

    id: str
    created_at: str
    data_name: str
    finished_at: str
    config: Mapping[str, Any]
    tracking: Mapping[str, Any] | None = None
    channels: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subtitles:
    """The shape of subtitles: the characters of a line, and the lines that are shown at a time."""

    line_characters: int = CUE_LINE_CHARACTERS
    lines: int = CUE_LINES


_SUBTITLES = Subtitles()


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
    return f"[{clock(loss.start_s)} - {_end(loss)}] {_lost(loss)}"


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


def json_v2(transcript: Transcript, job: Job | None = None) -> str:
    """Write json-v2, version 2.9: one result per word, times in seconds; transcriber/json-v2.schema.json describes it.

    Without `job`, the transcript gets a job of its own: a random id, and the current time. `speaker` is absent where
    speakers were not distinguished. A loss's `end_time` is null where the end is unknown.
    """
    stated = job or _own_job(transcript)
    results = json_results(transcript.turns, transcript.language)
    if stated.channels is not None:
        # Speakers of different channels may speak at the same time.
        by_time = sorted(results, key=lambda result: float(result["start_time"]))
        results = [_with_channel(result, stated.channels) for result in by_time]
    document = {
        "format": JSON_VERSION,
        "job": _json_job(stated, transcript),
        "metadata": _json_metadata(stated, transcript),
        "results": [],
    }
    written = json.dumps(document, indent=2, ensure_ascii=False)
    if results:
        written = written.removesuffix("]\n}") + f"\n{_indented(results)}\n  ]\n}}"
    return written + "\n"


def srt(transcript: Transcript, shape: Subtitles = _SUBTITLES) -> str:
    """Write SubRip subtitles; the speaker is named before the words where it changes. A missing part is a cue too."""
    cues = []
    previous: str | None = None
    for number, (start_s, end_s, cue) in enumerate(_timed(transcript, shape), start=1):
        if isinstance(cue, Loss):
            shown = _lost(cue)
        else:
            prefix = f"{cue.speaker}: " if cue.speaker is not None and cue.speaker != previous else ""
            previous = cue.speaker
            shown = prefix + cue.text
        cues.append(f"{number}\n{_stamp(start_s, ',')} --> {_stamp(end_s, ',')}\n{_wrapped(shown, shape)}\n")
    return "\n".join(cues)


def vtt(transcript: Transcript, shape: Subtitles = _SUBTITLES) -> str:
    """Write WebVTT subtitles; the speaker is a voice tag. A missing part is a cue as well."""
    cues = ["WEBVTT\n"]
    for start_s, end_s, cue in _timed(transcript, shape):
        voice = f"<v {cue.speaker}>" if isinstance(cue, Turn) and cue.speaker is not None else ""
        words = html.escape(_wrapped(_lost(cue) if isinstance(cue, Loss) else cue.text, shape), quote=False)
        cues.append(f"{_stamp(start_s, '.')} --> {_stamp(end_s, '.')}\n{voice}{words}\n")
    return "\n".join(cues)


def rttm(transcript: Transcript) -> str:
    """Write NIST's rich transcription time marks: a SPEAKER line per turn, and a NOSCORE line per missing part."""
    # Spaces separate the fields, so a name must not contain any.
    name = "_".join(Path(transcript.source).stem.split()) or "recording"
    lines = [(turn.start_s, turn.end_s, "SPEAKER", turn.speaker) for turn in transcript.turns]
    lines += [(loss.start_s, _shown_end_s(loss, transcript), "NOSCORE", "<NA>") for loss in transcript.losses]
    return "".join(
        f"{kind} {name} 1 {start_s:.3f} {end_s - start_s:.3f} <NA> <NA> {speaker} <NA> <NA>\n"
        for start_s, end_s, kind, speaker in sorted(lines, key=lambda line: line[0])
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


def _indented(results: list[dict[str, Any]]) -> str:
    """Write results, at least one, as json.dumps does with an indent of 2, in a fraction of the time."""
    bests = _fields([best for result in results for best in result["alternatives"]], 10)
    outer = _fields([{**result, "alternatives": None} for result in results], 6)
    return ",\n".join(
        "    {\n      "
        + fields.replace(f"{_ALTERNATIVES}null", f"{_ALTERNATIVES}[\n        {{\n          {best}\n        }}\n      ]")
        + "\n    }"
        for fields, best in zip(outer, bests, strict=True)
    )


def _fields(objects: list[dict[str, Any]], indent: int) -> list[str]:
    """Write the fields of flat objects, each on a line of its own."""
    # With an indent, json.dumps does not use its encoder in C. A string of JSON contains no line break.
    between = ",\n" + indent * " "
    return json.dumps(objects, ensure_ascii=False, separators=(between, ": "))[2:-2].split(f"}}{between}{{")


def _timed(transcript: Transcript, shape: Subtitles) -> list[tuple[float, float, Turn | Loss]]:
    """Return the cues and the missing parts with their times, by their starts."""
    found: list[tuple[float, float, Turn | Loss]] = [(cue.start_s, cue.end_s, cue) for cue in _cues(transcript, shape)]
    found += [(loss.start_s, _shown_end_s(loss, transcript), loss) for loss in transcript.losses]
    return sorted(found, key=lambda timed: timed[0])


def _shown_end_s(loss: Loss, transcript: Transcript) -> float:
    if loss.end_s is not None:
        return loss.end_s
    return max(transcript.duration_s, loss.start_s + _UNKNOWN_END_S)


def _lost(loss: Loss) -> str:
    return f"{LOST} {loss.reason})"


def _own_job(transcript: Transcript) -> Job:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Job(
        id=secrets.token_hex(_JOB_ID_BYTES),
        created_at=now,
        data_name=transcript.source,
        finished_at=now,
        config={"language": transcript.language, "operating_point": transcript.operating_point},
    )


def _json_job(job: Job, transcript: Transcript) -> dict[str, Any]:
    tracking = {} if job.tracking is None else {"tracking": job.tracking}
    return {
        "id": job.id,
        "created_at": job.created_at,
        "data_name": job.data_name,
        "duration": round(transcript.duration_s, 3),
        **tracking,
    }


def _json_metadata(job: Job, transcript: Transcript) -> dict[str, Any]:
    return {
        "created_at": job.finished_at,
        "type": "transcription",
        "transcription_config": job.config,
        "source": transcript.source,
        "duration": round(transcript.duration_s, 3),
        "language": transcript.language,
        "operating_point": transcript.operating_point,
        "losses": [
            {"start_time": round(loss.start_s, 3), "end_time": _rounded(loss.end_s), "reason": loss.reason}
            for loss in transcript.losses
        ],
    }


def _with_channel(result: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a result with the name of its channel in the place of a speaker."""
    (best,) = result["alternatives"]
    label = best["speaker"]
    rest = {key: value for key, value in best.items() if key != "speaker"}
    return {**result, "channel": names.get(label, label), "alternatives": [rest]}


def _cues(transcript: Transcript, shape: Subtitles) -> Iterator[Turn]:
    """Split turns into cues: what is shown on the screen at a time."""
    for turn in transcript.turns:
        shown: list[Word] = []
        for word in turn.words:
            if shown and not _fits(shown, word, turn.separator, shape):
                yield replace(turn, words=tuple(shown))
                shown = []
            shown.append(word)
        yield replace(turn, words=tuple(shown))


def _fits(shown: list[Word], word: Word, separator: str, shape: Subtitles) -> bool:
    if word.start_s - shown[-1].end_s > _CUE_PAUSE_S or word.end_s - shown[0].start_s > CUE_LONGEST_S:
        return False
    # Room for the speaker that SubRip names within the text.
    joined = "S99: " + separator.join([*(shown_word.content for shown_word in shown), word.content])
    return len(textwrap.wrap(joined, shape.line_characters, break_long_words=False)) <= shape.lines


def _wrapped(words: str, shape: Subtitles) -> str:
    return "\n".join(textwrap.wrap(words, shape.line_characters, break_long_words=False)) or words


def _stamp(seconds: float, point: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}{point}{milliseconds:03d}"
