"""Write a transcript as text, json-v2, subtitles or speaker turns."""

import html
import json
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transcriber.columns import one_line, width
from transcriber.transcript import Loss, Transcript, Turn, Word, clock

JSON_VERSION = "2.9"
LOST = "(not transcribed:"
"""How the text of a missing part begins in every format but json-v2."""
# What fits on a screen and can be read: two lines of 42 characters, for at most 7 s (the usual rules of broadcasters).
CUE_LINE_CHARACTERS, CUE_LINES, CUE_LONGEST_S = 42, 2, 7.0
_CUE_SHORTEST_MS = 400
_CUE_PAUSE_S = 1.5
_RTTM_SHORTEST_S = 0.001
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
    """The shape of subtitles: the characters of a line, and the lines that are shown at a time.

    A wide character, as those of Chinese, counts as two.
    """

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
    speakers were not distinguished; `channel` takes its place where each channel was transcribed by itself. A loss's
    `end_time` is null where the end is unknown.
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
    for number, (start_ms, end_ms, cue) in enumerate(_timed(transcript, shape), start=1):
        prefix = ""
        if isinstance(cue, Turn):
            prefix = _speaker_prefix(cue) if cue.speaker != previous else ""
            previous = cue.speaker
        # Players take a line with an arrow for the times of a cue.
        shown = "\n".join(_lines(cue, prefix, shape)).replace("-->", "->")
        cues.append(f"{number}\n{_stamp(start_ms, ',')} --> {_stamp(end_ms, ',')}\n{shown}\n")
    return "\n".join(cues)


def vtt(transcript: Transcript, shape: Subtitles = _SUBTITLES) -> str:
    """Write WebVTT subtitles; the speaker is a voice tag. A missing part is a cue as well."""
    cues = ["WEBVTT\n"]
    for start_ms, end_ms, cue in _timed(transcript, shape):
        voice = f"<v {_escaped(one_line(cue.speaker))}>" if isinstance(cue, Turn) and cue.speaker is not None else ""
        shown = _escaped("\n".join(_lines(cue, "", shape)))
        cues.append(f"{_stamp(start_ms, '.')} --> {_stamp(end_ms, '.')}\n{voice}{shown}\n")
    return "\n".join(cues)


def rttm(transcript: Transcript) -> str:
    """Write NIST's rich transcription time marks: a SPEAKER line per turn, and a NOSCORE line per missing part.

    A turn without a speaker has no line: it is not known whether it is of one of the others.
    """
    name = _field(Path(transcript.source).stem) or "recording"
    lines = [
        (turn.start_s, turn.end_s, "SPEAKER", _field(turn.speaker))
        for turn in transcript.turns
        if turn.speaker is not None
    ]
    lines += [(loss.start_s, _shown_end_s(loss, transcript), "NOSCORE", "<NA>") for loss in transcript.losses]
    return "".join(
        f"{kind} {name} 1 {start_s:.3f} {max(end_s - start_s, _RTTM_SHORTEST_S):.3f} <NA> <NA> {speaker} <NA> <NA>\n"
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
    return f"{one_line(turn.speaker)}: " if turn.speaker is not None else ""


def _field(text: str) -> str:
    """Return a text as a field of RTTM, which blanks separate."""
    return "_".join(text.split())


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


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


def _timed(transcript: Transcript, shape: Subtitles) -> list[tuple[int, int, Turn | Loss]]:
    """Return the cues and the missing parts with their times in milliseconds, by their starts.

    A very short one is shown longer, until the next one begins. Players leave out those that end when they begin.
    """
    found: list[tuple[int, int, Turn | Loss]] = [
        (_milliseconds(cue.start_s), _milliseconds(cue.end_s), cue) for cue in _cues(transcript, shape)
    ]
    found += [
        (_milliseconds(loss.start_s), _milliseconds(_shown_end_s(loss, transcript)), loss) for loss in transcript.losses
    ]
    found.sort(key=lambda timed: timed[0])
    next_starts_ms = [*(start_ms for start_ms, _, _ in found[1:]), sys.maxsize]
    return [
        (start_ms, max(end_ms, min(start_ms + _CUE_SHORTEST_MS, next_ms), start_ms + 1), cue)
        for (start_ms, end_ms, cue), next_ms in zip(found, next_starts_ms, strict=False)
    ]


def _shown_end_s(loss: Loss, transcript: Transcript) -> float:
    if loss.end_s is not None:
        return loss.end_s
    return max(transcript.duration_s, loss.start_s + _UNKNOWN_END_S)


def _lost(loss: Loss) -> str:
    return f"{LOST} {one_line(loss.reason)})"


def _own_job(transcript: Transcript) -> Job:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    channels = {"diarization": "channel"} if transcript.by_channel else {}
    return Job(
        id=secrets.token_hex(_JOB_ID_BYTES),
        created_at=now,
        data_name=transcript.source,
        finished_at=now,
        config={"language": transcript.language, "operating_point": transcript.operating_point, **channels},
        channels={} if transcript.by_channel else None,
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
            if shown and not _fits(replace(turn, words=(*shown, word)), shape):
                yield replace(turn, words=tuple(shown))
                shown = []
            shown.append(word)
        yield replace(turn, words=tuple(shown))


def _fits(cue: Turn, shape: Subtitles) -> bool:
    before, last = cue.words[-2:]
    if last.start_s - before.end_s > _CUE_PAUSE_S or last.end_s - cue.start_s > CUE_LONGEST_S:
        return False
    # Room for the speaker that SubRip names within the text.
    return len(_lines(cue, _speaker_prefix(cue) or "S99: ", shape)) <= shape.lines


def _lines(cue: Turn | Loss, prefix: str, shape: Subtitles) -> list[str]:
    """Return the lines of a cue. A word that is longer than a line has one of its own."""
    lines, used, gap = [""], 0, ""
    for part, following_gap in _parts(cue, prefix):
        columns = width(part)
        if lines[-1] and used + len(gap) + columns > shape.line_characters:
            lines.append(part)
            used = columns
        else:
            lines[-1] += gap + part
            used += len(gap) + columns
        gap = following_gap
    return lines


def _parts(cue: Turn | Loss, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield what a line break must not divide, and what follows it in a line."""
    for part in prefix.split():
        yield part, " "
    words, separator = ([_lost(cue)], " ") if isinstance(cue, Loss) else ([w.content for w in cue.words], cue.separator)
    for word in words:
        # A phrase of a vocabulary is one word, and may contain blanks.
        *parts, last = word.split() or [""]
        for part in parts:
            yield part, " "
        yield last, separator


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _stamp(milliseconds: int, point: str) -> str:
    whole, rest = divmod(milliseconds, 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}{point}{rest:03d}"
