"""Write results; their paths are checked before the work begins, so that a mistyped path is reported at once."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from contract import files
from contract.errors import OutputError, SettingError
from transcriber.formats import FORMATS
from transcriber.transcript import Transcript

DEFAULT_FORMAT = "txt"
_BROKEN_PIPE_EXIT_CODE = 141  # the exit code of a program that SIGPIPE ended, in a shell


def choose_format(requested: str | None, output: Path | None) -> str:
    """Return the requested format, or the one of the output's suffix, or plain text."""
    if requested is not None:
        return requested
    suffix = output.suffix.lower() if output is not None else ""
    return next((name for name, known in FORMATS.items() if known.suffix == suffix), DEFAULT_FORMAT)


def targets(recordings: Sequence[Path], output: Path | None, format_name: str) -> list[Path | None]:
    """Return the path of the result of each recording, None for the standard output.

    One recording is written to the file `output`, or into it where it is a folder; several into the folder `output`.
    Raises SettingError for results that would overwrite one another or a recording, and OutputError for a folder
    without the right to write.
    """
    if output is None:
        if len(recordings) > 1 and format_name != DEFAULT_FORMAT:
            cause = f"several results in {format_name} cannot share the standard output"
            raise SettingError("--format", cause, "Name a folder with --output")
        return [None] * len(recordings)
    planned = _planned_paths(recordings, output, FORMATS[format_name].suffix)
    for target in planned:
        _check(target, recordings, planned)
    return list(planned)


def write(transcript: Transcript, target: Path | None, format_name: str, *, titled: bool) -> None:
    """Write a result; a file appears complete or not at all. `titled` puts the recording's name first on stdout."""
    content = FORMATS[format_name].write(transcript)
    if target is not None:
        files.write(target, content)
        return
    write_stdout(f"==> {transcript.source} <==\n{content}" if titled else content)


def write_stdout(content: str) -> None:
    """Write to the standard output and flush it; end the program when the reader has closed it.

    Raises OutputError when the standard output is closed.
    """
    if sys.stdout is None:
        raise OutputError("the standard output", "it is closed", "Open it, or name a file with --output")
    try:
        sys.stdout.write(content)
        sys.stdout.flush()
    except BrokenPipeError:
        # As with `| head`. Python would report the closed pipe again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_BROKEN_PIPE_EXIT_CODE)


def _planned_paths(recordings: Sequence[Path], output: Path, suffix: str) -> list[Path]:
    if len(recordings) == 1 and not output.is_dir():
        return [output]
    if output.exists() and not output.is_dir():
        raise SettingError("--output", f"{output} is a file, and there are several recordings", "Name a folder")
    return [output / f"{recording.stem}{suffix}" for recording in recordings]


def _check(target: Path, recordings: Sequence[Path], planned: Sequence[Path]) -> None:
    if any(target.resolve() == recording.resolve() for recording in recordings):
        raise SettingError("--output", f"{target} is a recording, which would be overwritten", "Name another file")
    if planned.count(target) > 1:
        cause = f"several of the recordings would be written to {target}"
        raise SettingError("--output", cause, "Transcribe them one by one, or rename them")
    if target.is_dir():
        raise OutputError(target, "it is a folder", "Rename the folder, or use another --output")
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(target, f"nothing can be written to {folder}", "Choose a folder that you may write to")
