"""Read the length that a container states, so that a truncated recording is detected.

libav reads a file to its end and does not report what is missing. Each kind of container states its length differently:

    WAV                 the RIFF header counts bytes
    Ogg                 the header of the last page counts bytes
    FLAC, MP4, Matroska a duration in the header
    MP3                 a duration in the Xing, Info or VBRI frame, if the file has one
"""

from pathlib import Path

from av.audio.stream import AudioStream
from av.container import InputContainer

# Kinds that state a duration. For other kinds libav estimates one from the size of the file and the bit rate.
_STATES_DURATION = frozenset({"flac", "mov", "mp4", "matroska", "webm", "aiff", "caf", "w64"})
# Kinds without time stamps of their own: where libav finds a pause, pages or frames are lost.
_SEAMLESS = frozenset({"flac", "mp3", "ogg", "wav", "aac"})
_MP3_TAGS = (b"Xing", b"Info", b"VBRI")
_MP3_HEAD_BYTES = 4096
_ID3_HEADER_BYTES = 10
_OGG_LARGEST_PAGE_BYTES = 65_307
_OGG_HEADER_BYTES = 27
# Programs that write to a pipe leave zero, or about the largest signed or unsigned number.
_RIFF_UNKNOWN_FROM = 0x7FFF0000
_SECONDS_OF = (3_600.0, 60.0, 1.0)


def declared_duration_s(container: InputContainer, stream: AudioStream) -> float | None:
    """Return the duration in seconds that a file states; None when it states none, or when libav only estimates it."""
    kinds = set(container.format.name.split(","))
    if "mp3" in kinds and not _has_duration_tag(Path(container.name.removeprefix("file:"))):
        return None
    if not kinds & (_STATES_DURATION | {"mp3", "wav", "ogg"}):
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if "DURATION" in stream.metadata:
        return _clock_seconds(stream.metadata["DURATION"])
    # The container's own duration is that of its longest stream, so it is used only if the sound is the one stream.
    alone = len(container.streams) == 1 and container.duration is not None
    return container.duration / 1e6 if alone and container.duration is not None else None


def is_seamless(container: InputContainer) -> bool:
    """Return whether a kind of file cannot contain pauses without packets."""
    return bool(_SEAMLESS & set(container.format.name.split(",")))


def is_truncated(path: Path) -> bool:
    """Return whether a WAV or Ogg file is shorter than the bytes that its header announces; False for other kinds."""
    if not path.is_file():
        return False  # a pipe cannot be read twice
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] == b"RIFF" and len(head) == 8:  # noqa: PLR2004
            announced = int.from_bytes(head[4:], "little")
            # An odd RIFF size has a pad byte that many writers leave out, so one byte may be missing.
            return 0 < announced < _RIFF_UNKNOWN_FROM and path.stat().st_size + 1 < announced + 8
        if head[:4] == b"OggS":
            file.seek(max(0, path.stat().st_size - 2 * _OGG_LARGEST_PAGE_BYTES))
            return _last_page_is_truncated(file.read())
    return False


def _last_page_is_truncated(tail: bytes) -> bool:
    start = tail.rfind(b"OggS")
    page = tail[start:]
    if start < 0 or len(page) < _OGG_HEADER_BYTES:
        return True
    segments = page[_OGG_HEADER_BYTES - 1]
    table = page[_OGG_HEADER_BYTES : _OGG_HEADER_BYTES + segments]
    return len(page) < _OGG_HEADER_BYTES + segments + sum(table)


def _has_duration_tag(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_ID3_HEADER_BYTES)
        if head[:3] == b"ID3" and len(head) == _ID3_HEADER_BYTES:
            # Four bytes of seven bits each (ID3v2.4, section 3.1).
            size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
            file.seek(_ID3_HEADER_BYTES + size)
        else:
            file.seek(0)
        head = file.read(_MP3_HEAD_BYTES)
    return any(tag in head for tag in _MP3_TAGS)


def _clock_seconds(text: str) -> float | None:
    """Return the seconds of Matroska's DURATION tag, `00:00:08.313000000`."""
    try:
        return sum(float(part) * seconds for part, seconds in zip(text.split(":"), _SECONDS_OF, strict=True))
    except ValueError:
        return None
