"""Write results; their paths are checked before the work begins, so that a mistyped path is reported at once."""

import io
import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from contract import files
from contract.errors import OutputError, SettingError
from transcriber.formats import FORMATS
from transcriber.transcript import Transcript

DEFAULT_FORMAT = "txt"
_FOLDER = "Choose a folder that you may write to"
_MAX_NAME_BYTES = 255
_BROKEN_PIPE_EXIT_CODE = 141  # the exit code of a program that SIGPIPE ended, in a shell


def choose_format(requested: str | None, output: str | None) -> str:
    """Return the requested format, or the one of the output's suffix, or plain text."""
    if requested is not None:
        return requested
    suffix = "" if output is None or _is_folder(output) else Path(output).suffix.lower()
    return next((name for name, known in FORMATS.items() if known.suffix == suffix), DEFAULT_FORMAT)


def targets(
    recordings: Sequence[Path], output: str | None, format_name: str, places: Sequence[Path | None] = ()
) -> list[Path | None]:
    """Return the path of the result of each recording, None for the standard output.

    One recording is written to the file `output`, or into it where it is a folder or ends in a slash; several into the
    folder `output`. A recording with a place, from a folder or a list, has it below `output`, with the suffix of the
    format after its own: `calls/1.wav` becomes `calls/1.wav.txt`. Raises SettingError for results that would overwrite
    one another or a recording, and OutputError for a path that cannot be written.
    """
    if output is None:
        if len(recordings) > 1 and format_name != DEFAULT_FORMAT:
            cause = f"several results in {format_name} cannot share the standard output"
            raise SettingError("--format", cause, "Name a folder with --output")
        return [None] * len(recordings)
    planned = _planned_paths(recordings, places or [None] * len(recordings), output, FORMATS[format_name].suffix)
    _check_names(recordings, planned)
    for target in planned:
        _check_target(target)
    for folder in sorted({_existing_folder(target) for target in planned if not is_special(target)}):
        _check_folder(folder, planned)
    return list(planned)


def write(transcript: Transcript, target: Path | None, format_name: str, *, title: str | None = None) -> None:
    """Write a result; a file appears complete or not at all. On the standard output `title` comes first.

    A device or a FIFO is written to, and a link is followed. A new file has the rights that the umask leaves.
    """
    content = FORMATS[format_name].write(transcript)
    if target is not None:
        _write_file(target, content)
        return
    write_stdout(content if title is None else f"==> {title} <==\n{content}")


def write_stdout(content: str) -> None:
    """Write to the standard output, as UTF-8, and flush it; end the program when the reader has closed it.

    Raises OutputError when the standard output is closed.
    """
    if sys.stdout is None:
        raise OutputError("the standard output", "it is closed", "Open it, or name a file with --output")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The encoding of the locale may lack characters of the transcript. Files are UTF-8 as well.
        sys.stdout.reconfigure(encoding="utf-8")
    try:
        sys.stdout.write(content)
        sys.stdout.flush()
    except BrokenPipeError:
        # As with `| head`. Python would report the closed pipe again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_BROKEN_PIPE_EXIT_CODE)


def is_special(target: Path) -> bool:
    """Return whether a path is a device, a FIFO or an open file of this process, which are written to in place."""
    try:
        mode = target.stat().st_mode
    except OSError:
        return False
    # `/dev/stdout` may be a regular file to which the shell appends: renaming would replace it.
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or _is_open_file(target)


def _is_open_file(target: Path) -> bool:
    place = target.absolute()
    while not place.parent.resolve().is_relative_to("/proc"):
        if not place.is_symlink():
            return False
        place = place.parent.resolve() / place.readlink()
    return True


def _write_file(target: Path, content: str) -> None:
    if is_special(target):
        with files.writing(target), target.open("a", encoding="utf-8") as file:
            file.write(content)
        return
    path = target.resolve()
    files.write(path, content, mode=_mode(path))


def _mode(path: Path) -> int:
    """Return the rights of a file that exists, or those that the umask leaves to a new one."""
    try:
        return stat.S_IMODE(path.stat().st_mode) & 0o777
    except FileNotFoundError:
        return 0o666 & ~_umask()


def _umask() -> int:
    """Return the umask as Linux shows it. Setting it to read it would change the files of other threads."""
    status = Path("/proc/self/status").read_text(errors="replace")
    return next(int(line.split()[1], 8) for line in status.splitlines() if line.startswith("Umask:"))


def _is_folder(output: str) -> bool:
    return output.endswith(("/", "/.")) or Path(output).is_dir()


def _planned_paths(recordings: Sequence[Path], places: Sequence[Path | None], output: str, suffix: str) -> list[Path]:
    path, is_collection = Path(output), any(place is not None for place in places)
    if len(recordings) == 1 and not is_collection and not _is_folder(output):
        return [path]
    if path.exists() and not path.is_dir():
        cause = f"{path} is a file, and there are several recordings"
        if is_collection:
            cause = f"{path} is a file, and the results of a folder or a list need a folder"
        elif len(recordings) == 1:
            cause = f"{path} is a file, and {output} is the name of a folder"
        raise SettingError("--output", cause, "Name a folder")
    return [
        path / (f"{recording.stem}{suffix}" if place is None else f"{place}{suffix}")
        for recording, place in zip(recordings, places, strict=True)
    ]


def _check_names(recordings: Sequence[Path], planned: Sequence[Path]) -> None:
    sources = {_resolved(recording) for recording in recordings}
    resolved = [_resolved(target) for target in planned]
    places = Counter(resolved)
    named = dict(zip(resolved, planned, strict=True))
    for target, place in zip(planned, resolved, strict=True):
        if place in sources:
            raise SettingError("--output", f"{target} is a recording, which would be overwritten", "Name another file")
        if places[place] > 1:
            cause = f"several of the recordings would be written to {target}"
            remedy = "Name the folder that contains them, where their results are kept apart, or rename them"
            raise SettingError("--output", cause, remedy)
        folder = next((named[parent] for parent in place.parents if parent in named), None)
        if folder is not None:
            cause = f"{folder} is the result of one recording and the folder for that of another, {target}"
            remedy = "Rename one of the recordings, or write their results to two folders"
            raise SettingError("--output", cause, remedy)


def _check_target(target: Path) -> None:
    if len(os.fsencode(target.name)) > _MAX_NAME_BYTES:
        cause = f"its name has more than {_MAX_NAME_BYTES} bytes"
        raise OutputError(target, cause, "Rename the recording, or name a file with --output")
    if target.is_dir():
        raise OutputError(target, "it is a folder", "Rename the folder, or use another --output")
    if target.is_symlink() and _resolved(target).is_symlink():
        raise OutputError(target, "it is a link that leads to itself", "Remove it, or use another --output")
    if not is_special(target):
        return
    mode = target.stat().st_mode
    if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        raise OutputError(target, "it is neither a file nor a character device nor a FIFO", "Use another --output")
    if not os.access(target, os.W_OK):
        raise OutputError(target, "you have no permission to write to it", "Use another --output")


def _existing_folder(target: Path) -> Path:
    return next(parent for parent in _resolved(target).parents if parent.exists())


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError:
        return path.absolute()  # a link that leads to itself


def _check_folder(folder: Path, planned: Sequence[Path]) -> None:
    """Make a file without a name in the folder: rights alone do not show a file system that is read-only or virtual."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        target = next(each for each in planned if not is_special(each) and _existing_folder(each) == folder)
        raise OutputError(target, f"nothing can be written to {folder}", _FOLDER) from error
