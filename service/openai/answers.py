"""Write a transcript in the formats of OpenAI's endpoint."""

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from service.openai.form import Granularity, ResponseFormat
from transcriber import formats
from transcriber.transcript import Transcript, Turn

_TASK = "transcribe"
_UNKNOWN_SPEAKER = "UU"
_LEAST_CONFIDENCE = 1e-9
_FRAMES_PER_S = 100
_SUBTITLES = MappingProxyType(
    {
        ResponseFormat.SRT: (formats.srt, "text/plain; charset=utf-8"),
        ResponseFormat.VTT: (formats.vtt, "text/vtt; charset=utf-8"),
    }
)


def answer(
    transcript: Transcript, form: ResponseFormat, granularities: Iterable[Granularity], warnings: Iterable[str] = ()
) -> Response:
    """Return the answer in a format; `warnings` state what is missing, in a header and in the fields of JSON."""
    losses = list(warnings)
    # Header fields are Latin-1 on one line.
    headers = {"X-Voxwright-Warnings": json.dumps(losses)} if losses else {}
    if form == ResponseFormat.TEXT:
        return Response(text(transcript) + "\n", media_type="text/plain; charset=utf-8", headers=headers)
    if form in _SUBTITLES:
        write, media_type = _SUBTITLES[form]
        return Response(write(transcript), media_type=media_type, headers=headers)
    document = _document(transcript, form, frozenset(granularities))
    return JSONResponse(document | ({"warnings": losses} if losses else {}), headers=headers)


def text(transcript: Transcript) -> str:
    """Return the words of all turns."""
    separator = transcript.turns[0].separator if transcript.turns else ""
    return separator.join(turn.text for turn in transcript.turns)


def diarized_segments(transcript: Transcript) -> list[dict[str, Any]]:
    """Return a segment a turn: {"type", "id", "start", "end", "text", "speaker"}; times in seconds."""
    return [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{number}",
            "start": round(turn.start_s, 3),
            "end": round(turn.end_s, 3),
            "text": turn.text,
            "speaker": turn.speaker or _UNKNOWN_SPEAKER,
        }
        for number, turn in enumerate(transcript.turns)
    ]


def usage(transcript: Transcript) -> dict[str, Any]:
    """Return the usage: whole seconds of audio."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration_s)}


def _document(transcript: Transcript, form: ResponseFormat, granularities: frozenset[Granularity]) -> dict[str, Any]:
    if form == ResponseFormat.JSON:
        return {"text": text(transcript), "usage": usage(transcript)}
    whole = {
        "task": _TASK,
        "duration": round(transcript.duration_s, 3),
        "text": text(transcript),
        "usage": usage(transcript),
    }
    if form == ResponseFormat.DIARIZED_JSON:
        return {**whole, "segments": diarized_segments(transcript)}
    parts: Mapping[Granularity, tuple[str, Any]] = {
        Granularity.SEGMENT: ("segments", [_segment(number, turn) for number, turn in enumerate(transcript.turns)]),
        Granularity.WORD: ("words", _words(transcript.turns)),
    }
    chosen = dict(value for granularity, value in parts.items() if granularity in granularities)
    return {**whole, "language": transcript.language, **chosen}


def _segment(number: int, turn: Turn) -> dict[str, Any]:
    """Return a segment with every field that strict clients parse; those of Whisper's decoder are neutral."""
    encoded = turn.text.encode()
    logs = [math.log(max(word.confidence, _LEAST_CONFIDENCE)) for word in turn.words]
    return {
        "id": number,
        "seek": round(turn.start_s * _FRAMES_PER_S),
        "start": round(turn.start_s, 3),
        "end": round(turn.end_s, 3),
        "text": turn.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sum(logs) / len(logs), 4),
        "compression_ratio": round(len(encoded) / len(zlib.compress(encoded)), 4),
        "no_speech_prob": 0.0,
    }


def _words(turns: Iterable[Turn]) -> list[dict[str, Any]]:
    return [
        {"word": word.content, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
        for turn in turns
        for word in turn.words
    ]
