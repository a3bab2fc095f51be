"""Make what clients read of a job: its description, and its transcript in every format."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import groupby
from types import MappingProxyType
from typing import Any

from service.jobs.records import Job, State, timestamp
from transcriber import channels, formats
from transcriber.columns import one_line
from transcriber.transcript import Loss, Transcript, Turn, Word

JSON = "application/json"
TEXT = "text/plain"
_MEDIA_TYPES = MappingProxyType({"json-v2": JSON, "txt": TEXT, "srt": TEXT, "vtt": "text/vtt"})
_ALIASES = MappingProxyType({"json": "json-v2", "json_v2": "json-v2"})
# Old clients know no other states.
_SHOWN_STATES = MappingProxyType({State.EXPIRED: State.DELETED})


def stored(transcript: Transcript, finished_us: int) -> bytes:
    """Return a transcript as it is stored; every format is made of it when it is read."""
    document = asdict(transcript)
    # The configuration of the job states it, and services of earlier releases know no such field.
    del document["by_channel"]
    return json.dumps({"finished_us": finished_us, **document}, ensure_ascii=False).encode()


def parsed(content: bytes) -> tuple[Transcript, int]:
    """Return a stored transcript, and when it was made."""
    document = json.loads(content)
    turns = (
        Turn(words=tuple(Word(**word) for word in turn["words"]), speaker=turn["speaker"], separator=turn["separator"])
        for turn in document["turns"]
    )
    losses = (Loss(**loss) for loss in document["losses"])
    finished_us = int(document.pop("finished_us"))
    return Transcript(**document | {"turns": tuple(turns), "losses": tuple(losses)}), finished_us


def format_name(name: str) -> str | None:
    """Return the name of a format that a client requests; None for an unknown one."""
    known = _ALIASES.get(name, name)
    return known if known in _MEDIA_TYPES else None


def media_type(name: str) -> str:
    """Return the content type of a format."""
    return _MEDIA_TYPES[name]


def written(name: str, job: Job, content: bytes) -> str:
    """Return the transcript of a job in a format; `content` is the stored one."""
    transcript, finished_us = parsed(content)
    write: dict[str, Callable[[], str]] = {
        "json-v2": lambda: formats.json_v2(transcript, _stated(job, finished_us)),
        "txt": lambda: text(_named(transcript, job)),
        "srt": lambda: formats.srt(_named(transcript, job), _shape(job)),
        "vtt": lambda: formats.vtt(_named(transcript, job), _shape(job)),
    }
    return write[name]()


def loaded(name: str, content: str) -> Any:
    """Return a written transcript as a value of JSON: an object for json-v2, else the text."""
    return json.loads(content) if name == "json-v2" else content


def text(transcript: Transcript) -> str:
    """Return the text as the API has it: a line `SPEAKER: S1` and a line of its words until the speaker changes.

    Without speakers, a line for each turn.
    """
    lines = []
    for speaker, turns in groupby(transcript.turns, key=lambda turn: turn.speaker):
        group = list(turns)
        if speaker is None:
            lines += [turn.text for turn in group]
        else:
            lines += [f"SPEAKER: {one_line(speaker)}", group[0].separator.join(turn.text for turn in group)]
    return "".join(f"{line}\n" for line in lines)


def description(job: Job, *, with_config: bool) -> dict[str, Any]:
    """Return a job as the API shows it. In a list clients stumble over configurations, so lists have none."""
    shown: dict[str, Any] = {
        "id": job.id,
        "status": _SHOWN_STATES.get(job.state, job.state),
        "created_at": timestamp(job.created_us),
        "data_name": job.data_name,
        "duration": round(job.duration_s, 3),
    }
    if job.state == State.RUNNING and job.progress is not None:
        shown["progress"] = round(job.progress, 3)
    if job.errors:
        shown["errors"] = [error.document() for error in job.errors]
    if with_config:
        shown["config"] = _echo(job.config)
    return shown


def _echo(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without secrets, and without what a published client cannot parse."""
    echo = {name: value for name, value in config.items() if name != "fetch_data"}
    if "fetch_data" in config:
        echo["fetch_data"] = _without(config["fetch_data"], "auth_headers")
    if "notification_config" in config:
        echo["notification_config"] = [_without(each, "auth_headers") for each in config["notification_config"]]
    if "tracking" in config:
        echo["tracking"] = _without(config["tracking"], "details")
    transcription = config.get("transcription_config")
    if transcription is not None:
        # Both names of the operating point are an error for the client.
        both = "model" in transcription and "operating_point" in transcription
        unknown = ("streaming_mode", "ctrl", "conversation_config", *(("operating_point",) if both else ()))
        echo["transcription_config"] = _without(transcription, *unknown)
    return echo


def _without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


def _stated(job: Job, finished_us: int) -> formats.Job:
    transcription = job.config.get("transcription_config", {})
    is_by_channel = transcription.get("diarization") == "channel"
    return formats.Job(
        id=job.id,
        created_at=timestamp(job.created_us),
        data_name=job.data_name,
        finished_at=timestamp(finished_us),
        config={"language": "en", **transcription},
        tracking=job.config.get("tracking"),
        channels=_channels(job) if is_by_channel else None,
    )


def _channels(job: Job) -> dict[str, str]:
    """Return the names of the channels by their labels."""
    names = job.config.get("transcription_config", {}).get("channel_diarization_labels", [])
    return {channels.label(number): name for number, name in enumerate(names, start=1) if name.strip()}


def _named(transcript: Transcript, job: Job) -> Transcript:
    """Return a transcript whose channels have the names that the client gave them."""
    names = _channels(job)
    if not names or job.config["transcription_config"].get("diarization") != "channel":
        return transcript
    turns = tuple(replace(turn, speaker=names.get(turn.speaker or "", turn.speaker)) for turn in transcript.turns)
    return replace(transcript, turns=turns)


def _shape(job: Job) -> formats.Subtitles:
    given = job.config.get("output_config", {}).get("srt_overrides")
    if given is None:
        return formats.Subtitles()
    return formats.Subtitles(line_characters=given.get("max_line_length", 37), lines=given.get("max_lines", 2))
