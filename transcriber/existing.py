"""Decide which results of an earlier run are whole, so that their recordings need no second transcription.

A result states its recording in an attribute of its file: most formats have no place for it.
"""

import contextlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from transcriber.formats import LOST

_RTTM_FIELDS = 10
_RECORDING = "user.voxwright.recording"


def is_done(recording: Path, target: Path, format_name: str) -> bool:
    """Return whether a result is whole, not older than its recording, and not the one of another recording.

    A result that lacks a part of its recording is not whole, and neither is one that was cut off, or is no text of the
    format. The result of a recording without any word is whole in json-v2 only: in the other formats a damaged file
    would look the same.
    """
    try:
        if target.stat().st_mtime_ns < recording.stat().st_mtime_ns:
            return False
        # A device or a FIFO contains no result.
        is_whole = target.is_file() and _CHECKS[format_name](target.read_bytes().decode())
        return is_whole and other_recording(recording, target, format_name) is None
    except (OSError, UnicodeDecodeError):
        return False


def state_recording(target: Path, recording: Path) -> None:
    """Let a result state its recording, unless that is a pipe; file systems without attributes do not keep it."""
    if modified_ns(recording) is None:
        return
    with contextlib.suppress(OSError):
        os.setxattr(target, _RECORDING, os.fsencode(_real(recording)))


def stated_recording(target: Path) -> str | None:
    """Return the recording that a result states; None without a statement, as in results of earlier releases."""
    try:
        return os.fsdecode(os.getxattr(target, _RECORDING))
    except OSError:
        return None


def other_recording(recording: Path, target: Path, format_name: str) -> str | None:
    """Return the recording of a result where it is another one; None where it may be this one.

    Without a statement, json-v2 shows the name of its recording, and the other formats nothing.
    """
    stated, expected = stated_recording(target), _real(recording)
    if stated is None and format_name == "json-v2":
        # As the transcript has a name that is not UTF-8.
        stated, expected = _json_source(target), os.fsencode(recording.name).decode(errors="replace")
    return None if stated in (None, expected) else stated


def modified_ns(recording: Path) -> int | None:
    """Return when a recording was last modified; None for a pipe, or where there is no such file."""
    try:
        found = recording.stat()
    except OSError:
        return None
    return found.st_mtime_ns if stat.S_ISREG(found.st_mode) else None


def mark_as_outdated(target: Path, modified_ns: int) -> None:
    """Date a result like the state of the recording that it was made of, so that `is_done` finds it older."""
    with contextlib.suppress(OSError):
        if target.is_file():
            os.utime(target, ns=(modified_ns, modified_ns))


def _real(recording: Path) -> str:
    return os.path.realpath(recording)


def _json_source(target: Path) -> str | None:
    try:
        # A FIFO would wait for a writer.
        return str(json.loads(target.read_bytes())["metadata"]["source"]) if target.is_file() else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _is_whole_text(content: str) -> bool:
    lines = content.splitlines()
    return _is_complete(content) and not any(line.startswith("[") and f"] {LOST}" in line for line in lines)


def _is_whole_json(content: str) -> bool:
    try:
        document = json.loads(content)
        return document["metadata"]["losses"] == [] and isinstance(document["results"], list)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _is_whole_subtitles(content: str) -> bool:
    return _is_complete(content) and " --> " in content and f"\n{LOST}" not in content


def _is_whole_rttm(content: str) -> bool:
    rows = [line.split() for line in content.splitlines()]
    return _is_complete(content) and all(len(row) == _RTTM_FIELDS and row[0] == "SPEAKER" for row in rows)


def _is_complete(content: str) -> bool:
    # Every format ends with the end of a line; a file system may fill what a crash took with zeros.
    return content.endswith("\n") and "\0" not in content and bool(content.strip())


_CHECKS: MappingProxyType[str, Callable[[str], bool]] = MappingProxyType(
    {
        "txt": _is_whole_text,
        "json-v2": _is_whole_json,
        "srt": _is_whole_subtitles,
        "vtt": _is_whole_subtitles,
        "rttm": _is_whole_rttm,
    }
)
