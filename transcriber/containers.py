"""Read the length that a container states, so that a truncated recording is detected.

libav reads a file to its end and does not report what is missing. Each kind of container states its length differently:

    WAV                 the RIFF header counts bytes
    Ogg                 the header of the last page counts bytes
    FLAC, MP4, Matroska a duration in the header
    MP3                 a duration in the Xing, Info or VBRI frame, if the file has one

libav also reads no further than the size in a header. But recorders that die leave an old size, and files can be joined
end to end. `parts` finds what follows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

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
_CHUNK_HEADER_BYTES = 8
_RIFF_HEADER_BYTES = 12
_BOX_HEADER_BYTES = 16
_EBML = bytes.fromhex("1a45dfa3")
# Fewer bytes after the data are padding.
_SMALLEST_REST_BYTES = 64
_TAGS = (b"ID3", b"TAG")
MOST_PARTS = 10_000
"""Of a file with more, such as headers alone for gigabytes, the list itself would fill the memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A recording within a file; `end` is None for the end of the file."""

    start: int = 0
    end: int | None = None
    is_older_than_its_data: bool = False
    """Whether more sound follows than the header states."""


def parts(path: Path) -> list[Part]:
    """Return the recordings that are joined in a WAV, AIFF, MP4 or Matroska file; libav does not read all of them.

    Other kinds are one part: libav reads on where one recording ends and the next begins. Raises ValueError for more
    than MOST_PARTS.
    """
    if not path.is_file():
        return [Part()]  # a pipe cannot be read twice
    found, size = [Part()], path.stat().st_size
    with path.open("rb") as file:
        while True:
            start = found[-1].start
            end, is_old = _end_of_part(file, start, size)
            if end is None:
                found[-1] = Part(start=start, is_older_than_its_data=is_old)
                return found
            if len(found) == MOST_PARTS:
                raise ValueError(f"more than {MOST_PARTS:,} recordings are joined in it")
            found[-1] = Part(start=start, end=end)
            found.append(Part(start=end))


def declared_duration_s(container: InputContainer, stream: AudioStream, path: Path) -> float | None:
    """Return the duration in seconds that a file states; None when it states none, or when libav only estimates it."""
    kinds = set(container.format.name.split(","))
    if "mp3" in kinds and not _has_duration_tag(path):
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


def is_truncated(path: Path, start: int = 0, tolerated_bytes: int = 1) -> bool:
    """Return whether a WAV or Ogg file is shorter than the bytes that its header announces; False for other kinds.

    Some recorders count their header twice, so a few bytes may be missing. Also, an odd RIFF size has a pad byte that
    many writers leave out.
    """
    if not path.is_file():
        return False  # a pipe cannot be read twice
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(_CHUNK_HEADER_BYTES)
        if head[:4] == b"RIFF" and len(head) == _CHUNK_HEADER_BYTES:
            announced = int.from_bytes(head[4:], "little")
            return 0 < announced < _RIFF_UNKNOWN_FROM and size - start + tolerated_bytes < announced + len(head)
        if head[:4] == b"OggS":
            file.seek(max(0, size - 2 * _OGG_LARGEST_PAGE_BYTES))
            return _last_page_is_truncated(file.read())
    return False


def _end_of_part(file: BinaryIO, start: int, size: int) -> tuple[int | None, bool]:
    """Return where the next recording begins, None without one, and whether sound follows that the header omits."""
    file.seek(start)
    head = file.read(_RIFF_HEADER_BYTES)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        return _end_of_chunks(file, start, size, "little", b"RIFF", b"data")
    if head[:4] == b"FORM" and head[8:11] == b"AIF":
        return _end_of_chunks(file, start, size, "big", b"FORM", b"SSND")
    if head[4:8] == b"ftyp":
        return _end_of_boxes(file, start, size), False
    if head[:4] == _EBML:
        return _end_of_elements(file, start, size), False
    return None, False


def _end_of_chunks(
    file: BinaryIO, start: int, size: int, order: Literal["little", "big"], magic: bytes, data: bytes
) -> tuple[int | None, bool]:
    has_data = False
    place = start + _RIFF_HEADER_BYTES
    while size - place >= _CHUNK_HEADER_BYTES:
        file.seek(place)
        head = file.read(_CHUNK_HEADER_BYTES)
        length = int.from_bytes(head[4:], order)
        if head[:4] == magic and has_data:
            return place, False
        if has_data and not _is_chunk(head, place, length, size):
            return None, size - place >= _SMALLEST_REST_BYTES and head[:3] not in _TAGS and not _is_blank(file, place)
        has_data = has_data or head[:4] == data
        if head[:4] == data and (length == 0 or length >= _RIFF_UNKNOWN_FROM):
            return None, False  # libav reads to the end of the file
        place += _CHUNK_HEADER_BYTES + length
        place += length % 2 and not _is_chunk_at(file, place, order, size)
    return None, False


def _is_chunk_at(file: BinaryIO, place: int, order: Literal["little", "big"], size: int) -> bool:
    """Return whether a chunk begins here: many writers leave the pad byte out after an odd length."""
    file.seek(place)
    head = file.read(_CHUNK_HEADER_BYTES)
    return len(head) == _CHUNK_HEADER_BYTES and _is_chunk(head, place, int.from_bytes(head[4:], order), size)


def _is_chunk(head: bytes, place: int, length: int, size: int) -> bool:
    return all(0x20 <= byte < 0x7F for byte in head[:4]) and place + length <= size  # noqa: PLR2004


def _is_blank(file: BinaryIO, place: int) -> bool:
    file.seek(place)
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            return False
    return True


def _end_of_boxes(file: BinaryIO, start: int, size: int) -> int | None:
    """Return where a second `ftyp` begins among the boxes of an MP4 file (ISO 14496-12, section 4.2)."""
    place = start
    while size - place >= _CHUNK_HEADER_BYTES:
        file.seek(place)
        head = file.read(_BOX_HEADER_BYTES)
        if head[4:8] == b"ftyp" and place > start:
            return place
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < _CHUNK_HEADER_BYTES:
            return None
        place += length
    return None


def _end_of_elements(file: BinaryIO, start: int, size: int) -> int | None:
    """Return where a second EBML header begins in a Matroska file (RFC 8794, section 4); None for a live one."""
    place = start
    while size - place >= _CHUNK_HEADER_BYTES:
        file.seek(place)
        head = file.read(_BOX_HEADER_BYTES)
        if head[:4] == _EBML and place > start:
            return place
        # The IDs of the elements at the top have four bytes. The zeros before the first one of a size count its bytes.
        width = 9 - head[4].bit_length()
        length = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if length == (1 << 7 * width) - 1:
            return None  # unknown, as in live streams
        place += 4 + width + length
    return None


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
