"""Find the recordings of a command line: files, folders with all that is below them, and lists of both."""

import codecs
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contract.errors import AudioError, SettingError, VoxwrightError

STDIN = Path("/dev/stdin")
LIST_PREFIX = "@"
# What libav decodes and recorders, telephone systems and video cameras write. In a folder other files are left out.
_SUFFIXES = """
    .wav .wave .w64 .rf64 .bwf .flac .mp3 .mp2 .mpga .ogg .oga .opus .spx .m4a .m4b .mp4 .m4v .mov .qt .aac .adts .ac3
    .eac3 .amr .awb .3gp .3g2 .aif .aiff .aifc .caf .au .snd .wma .wmv .asf .avi .mka .mkv .webm .ts .m2ts .mts .mpg
    .mpeg .vob .flv .wv .ape .tta .gsm .mxf
"""
SUFFIXES = frozenset(_SUFFIXES.split())
_RAW_SUFFIXES = """
    .raw .pcm .sln .sln16 .ul .ulaw .mulaw .al .alaw .s8 .u8 .s16 .s16le .s16be .s24le .s32le .f32 .f32le .f64le .vox
"""
RAW_SUFFIXES = frozenset(_RAW_SUFFIXES.split())
_LONGEST_PATH_BYTES = 4096  # PATH_MAX of Linux
_LIST_REMEDY = "Name a text file with one recording or folder a line"


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """A recording, and its place below the folder of results; None for a file that was named by itself."""

    path: Path
    place: Path | None = None


@dataclass(kw_only=True, slots=True)
class Inputs:
    """The recordings in the order in which they are transcribed, remarks for the user, and folders not read."""

    recordings: list[Input] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    errors: list[VoxwrightError] = field(default_factory=list)

    @property
    def is_collection(self) -> bool:
        """Return whether a recording comes from a folder or a list: the results then need a folder."""
        return any(each.place is not None for each in self.recordings)


def find(arguments: Sequence[str], lists: Sequence[str], *, raw: bool = False) -> Inputs:
    """Return the recordings of files, folders and `@lists`, then those of `lists`; each recording once.

    With `raw`, a folder is searched for samples without a header instead of sound files. Raises SettingError for a list
    that cannot be read, and AudioError where there is no recording at all.
    """
    found = Inputs()
    seen: set[Path] = set()
    repeated: list[Path] = []
    for each in _named(arguments, lists, found, RAW_SUFFIXES if raw else SUFFIXES):
        # A link is a recording of its own, with a name of its own.
        key = each.path.parent.resolve() / each.path.name
        if key in seen:
            repeated.append(each.path)
        else:
            seen.add(key)
            found.recordings.append(each)
    if repeated:
        found.remarks.append(_counted(repeated, "is named more than once, and is", "transcribed once"))
    if not found.recordings:
        raise found.errors.pop() if found.errors else SettingError("--list", "it names no recording", _LIST_REMEDY)
    return found


def _named(arguments: Sequence[str], lists: Sequence[str], found: Inputs, suffixes: frozenset[str]) -> Iterator[Input]:
    for argument in arguments:
        if argument == "-":
            yield Input(path=STDIN)
        elif argument.startswith(LIST_PREFIX) and not os.path.lexists(argument):
            yield from _listed(argument.removeprefix(LIST_PREFIX), argument, found, suffixes)
        elif Path(argument).is_dir():
            yield from _below(Path(argument), Path(), found, suffixes)
        else:
            yield Input(path=Path(argument))
    for name in lists:
        yield from _listed(name, f"--list {name}", found, suffixes)


def _listed(name: str, subject: str, found: Inputs, suffixes: frozenset[str]) -> Iterator[Input]:
    """Yield the recordings of a list; relative paths start at the working folder, as the paths that `find` prints."""
    for entry in _entries(name, subject):
        path = Path(entry)
        if path.is_dir():
            yield from _below(path, _place(entry), found, suffixes)
        else:
            yield Input(path=path, place=_place(entry))


def _entries(name: str, subject: str) -> list[str]:
    """Return the lines of a list in UTF-8 or UTF-16, or its NUL-separated paths as `find -print0` writes them."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise SettingError(subject, f"it cannot be read ({error.strerror})", _LIST_REMEDY) from error
    data = _as_utf_8(data, subject)
    if b"\0" in data:
        entries = [entry for entry in data.split(b"\0") if entry]
        if _are_letters(entries):
            raise SettingError(subject, "it is UTF-16 without a byte order mark", "Save it as UTF-8")
    else:
        lines = [line.rstrip(b"\r") for line in data.split(b"\n")]
        entries = [line for line in lines if line.strip() and not line.startswith(b"#")]
    if any(len(entry) > _LONGEST_PATH_BYTES for entry in entries):
        raise SettingError(subject, "it is no list: one of its lines is longer than a path can be", _LIST_REMEDY)
    if not entries:
        raise SettingError(subject, "it names no recording", _LIST_REMEDY)
    return [os.fsdecode(entry) for entry in entries]


def _as_utf_8(data: bytes, subject: str) -> bytes:
    """Return a list without its byte order mark, from UTF-16 if the mark is one of it, as PowerShell writes it."""
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-16")
        if "\0" in text:
            raise ValueError
        return text.encode()
    except ValueError as error:
        raise SettingError(subject, "it begins as UTF-16 and is not", "Save it as UTF-8") from error


def _are_letters(entries: Sequence[bytes]) -> bool:
    """Return whether the zeros of a list separate the letters of UTF-16, as in `.` `w` `a` `v`, and not paths."""
    letters = [entry for entry in entries if len(entry) == 1]
    return len(letters) > len(entries) / 2 and len(entries) > 1 and (b"." in letters or b"\n" in letters)


def _place(entry: str) -> Path:
    """Return the place of a listed path below the folder of results; it never leads out of that folder."""
    path = Path(os.path.normpath(entry))
    if path.is_absolute() or os.pardir in path.parts:
        path = Path(os.path.normpath(path.absolute()))
        return path.relative_to(path.anchor)
    return path


def _below(folder: Path, place: Path, found: Inputs, suffixes: frozenset[str]) -> Iterator[Input]:
    """Yield the recordings below a folder by name, each folder before the folders in it.

    Hidden files and folders, files with other suffixes and special files are left out. Links to files are recordings,
    links to folders are not followed: a link may lead to a folder above.
    """
    others: list[Path] = []
    links: list[Path] = []
    count = 0
    for name, folders, files in os.walk(folder, onerror=lambda error: found.errors.append(_unreadable(error))):
        here = Path(name)
        links += [here / each for each in _visible(folders) if (here / each).is_symlink()]
        folders[:] = _visible(folders)
        for each in _visible(files):
            path = here / each
            if path.suffix.lower() in suffixes and (path.is_file() or path.is_symlink()):
                count += 1
                yield Input(path=path, place=place / path.relative_to(folder))
            else:
                others.append(path)
    samples = [path for path in others if path.suffix.lower() in RAW_SUFFIXES - suffixes]
    rest = [path for path in others if path.suffix.lower() not in RAW_SUFFIXES - suffixes]
    if samples:
        found.remarks.append(_counted(samples, "is", "left out: samples without a header need --raw"))
    if rest:
        found.remarks.append(_counted(rest, "is", "left out: no suffix of a recording"))
    if links:
        found.remarks.append(_counted(links, "is a link to a folder, and is", "not followed", "links to folders are"))
    if not count and not any(Path(error.subject).is_relative_to(folder) for error in found.errors):
        found.errors.append(_empty(folder, suffixes))


def _visible(names: list[str]) -> list[str]:
    return sorted((name for name in names if not name.startswith(".")), key=os.fsencode)


def _empty(folder: Path, suffixes: frozenset[str]) -> AudioError:
    known = (
        "the suffix of samples, such as .raw or .ulaw" if suffixes is RAW_SUFFIXES else "a known suffix, such as .wav"
    )
    return AudioError(folder, f"it contains no recording: no file with {known}", "Name the files, or another folder")


def _unreadable(error: OSError) -> AudioError:
    remedy = f"Run `chmod u+rx {error.filename}` as its owner"
    return AudioError(error.filename, f"the folder cannot be read ({error.strerror})", remedy)


def _counted(paths: Sequence[Path], one: str, end: str, several: str = "") -> str:
    if len(paths) == 1:
        return f"{paths[0]} {one} {end}"
    return f"{len(paths)} {several or 'files ' + one.replace('is', 'are')} {end}, such as {paths[0]}"
