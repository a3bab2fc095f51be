"""Turn the frames of a session into samples at the rate of the networks: samples without a header, or a file."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import av
import numpy as np

from contract.errors import AudioError
from service.realtime.spool import Frame, Spool
from transcriber.audio import Recording, Samples
from transcriber.conversion import Cleaner, Converter
from transcriber.raw import RawFormat
from transcriber.realtime import PAUSE_S, Source

Command = TypeVar("Command")

_READ_AHEAD_BLOCKS = 4
_PCM_S16 = 32_768.0
_SAMPLE_BYTES = {"s16le": 2, "f32le": 4, "mulaw": 1}
# What cannot be recognised within so many bytes is no recording. Pictures and tags may come first in a known format.
_UNKNOWN_BYTES, _KNOWN_BYTES = 2**15, 2**21
_MAGICS = (
    *(b"RIFF", b"RF64", b"ID3", b"fLaC", b"OggS", b"\x1a\x45\xdf\xa3", b"#!AMR", b"FORM", b".snd", b"caff"),
    *(b"\x30\x26\xb2\x75", b"\x00\x00\x01\xba", b"\xff\xf1", b"\xff\xf9", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"),
)
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_BOX_HEADER_BYTES, _LONG_BOX_HEADER_BYTES = 8, 16
# The boxes before index and sound are small. A file that must be stored as a whole is limited.
_LARGEST_HEAD_BYTES, _LARGEST_STORED_BYTES = 2**20, 2**30


class RawDecoder:
    """Convert samples that come in frames of any size; a frame may end within a sample."""

    def __init__(self, form: RawFormat, sample_rate_hz: int) -> None:
        self._form, self._sample_rate_hz = form, sample_rate_hz
        self._rest = b""
        self._converter = Converter(sample_rate_hz)
        self._cleaner, self._position_s = Cleaner(), 0.0

    def decode(self, data: bytes) -> Samples:
        """Return the samples of the next bytes, at the rate of the networks."""
        joined = self._rest + data
        whole = len(joined) - len(joined) % _SAMPLE_BYTES[self._form.name]
        self._rest = joined[whole:]
        return self._converted(_values(joined[:whole], self._form.name))

    def finish(self) -> Samples:
        """Return the samples that the resampler still has."""
        return _joined(self._converter.flush())

    def _converted(self, values: Samples) -> Samples:
        if not values.size:
            return values
        frame = av.AudioFrame.from_ndarray(values.reshape(1, -1), format="flt", layout="mono")
        frame.sample_rate = self._form.sample_rate_hz
        if self._form.name == "f32le":
            frame = self._cleaner.clean(frame, self._position_s)
            self._position_s += values.size / self._form.sample_rate_hz
        if self._form.sample_rate_hz == self._sample_rate_hz:
            return frame.to_ndarray().reshape(-1).astype(np.float32, copy=False)
        return _joined(self._converter.convert(frame))


class FileDecoder(Generic[Command]):
    """Decode a file while it comes: frames of a spool go through a pipe to libav, which reads it like a recording.

    A file whose index lies at its end (an mp4 that was not written for streams) is decoded when all of it is there.
    """

    def __init__(
        self,
        spool: Spool[Command],
        sample_rate_hz: int,
        on_frame: Callable[[], None],
        on_command: Callable[[Command], None],
        pause_s: float = PAUSE_S,
    ) -> None:
        """Begin to read the spool; `on_frame` is called when a frame was taken, `on_command` for each command.

        A stream that brings no samples for `pause_s` pauses.
        """
        self._spool, self._sample_rate_hz = spool, sample_rate_hz
        self._on_frame, self._on_command, self._pause_s = on_frame, on_command, pause_s
        self._source: Source | None = None
        self.recording: Recording | None = None

    def blocks(self) -> Iterator[Samples]:
        """Yield samples, and an empty block when the stream pauses; raise AudioError when no sound can be decoded."""
        head = self._head()
        if not head and self._spool.is_exhausted:
            return
        if _has_late_index(head):
            yield from self._whole(head)
        else:
            yield from self._piped(head)

    def close(self) -> None:
        """End the decoding; the spool must have been aborted."""
        if self._source is not None:
            self._source.stop()

    def _take(self) -> bytes | None:
        """Return the bytes of the next frame; None at the end."""
        while not self._spool.is_exhausted:
            item = self._spool.get()
            if isinstance(item, Frame):
                self._on_frame()
                return item.data
            if item is not None:
                self._on_command(item)
        return None

    def _head(self) -> bytes:
        """Return the first bytes: enough to know how the file is to be read."""
        head = b""
        while not _is_known(head) and (data := self._take()) is not None:
            head += data
        return head

    def _whole(self, head: bytes) -> Iterator[Samples]:
        with tempfile.NamedTemporaryFile(prefix="voxwright-") as file:
            size = file.write(head)
            while (data := self._take()) is not None:
                size += file.write(data)
                if size > _LARGEST_STORED_BYTES:
                    cause = f"its index lies at its end, and it has more than {_LARGEST_STORED_BYTES >> 20} MiB"
                    raise AudioError("the stream", cause, "Write the file with its index first, or send another format")
            file.flush()
            if self._spool.is_aborted:
                return
            self.recording = Recording(Path(file.name), sample_rate_hz=self._sample_rate_hz)
            yield from self.recording.blocks()

    def _piped(self, head: bytes) -> Iterator[Samples]:
        reading, writing = os.pipe()
        opened = threading.Event()

        def opening(path: Path) -> Recording:
            try:
                return Recording(path, live=True, sample_rate_hz=self._sample_rate_hz)
            finally:
                # libav has opened the pipe for itself, or it never will.
                opened.set()
                os.close(reading)

        pump = threading.Thread(target=self._pump, args=(writing, head, opened), name="pump", daemon=True)
        pump.start()
        self._source = Source(
            Path(f"/dev/fd/{reading}"), opening, read_ahead_blocks=_READ_AHEAD_BLOCKS, pause_s=self._pause_s
        )
        self.recording = self._source.recording()
        if self.recording is not None:
            yield from self._source.blocks()

    def _pump(self, writing: int, head: bytes, opened: threading.Event) -> None:
        """Write the frames into the pipe. It ends early when libav has stopped to read, and then frames are dropped."""
        limit, written = _KNOWN_BYTES if _looks_like_sound(head) else _UNKNOWN_BYTES, 0
        data: bytes | None = head
        try:
            while data is not None:
                if not opened.is_set() and written > limit:
                    break
                _write(writing, data)
                written += len(data)
                data = self._take()
        except BrokenPipeError:
            pass
        finally:
            os.close(writing)
        while self._take() is not None:
            continue


def no_sound(error: AudioError) -> str:
    """Return why a file cannot be transcribed, without the path of the pipe."""
    return f"the audio cannot be used: {error.cause}"


def _values(data: bytes, form: str) -> Samples:
    if form == "s16le":
        return np.frombuffer(data, dtype="<i2").astype(np.float32) / np.float32(_PCM_S16)
    if form == "f32le":
        return np.frombuffer(data, dtype="<f4").astype(np.float32)
    return _MULAW[np.frombuffer(data, dtype=np.uint8)]


def _mulaw_table() -> Samples:
    """Return the value of each byte of ITU-T G.711, mu-law."""
    codes = ~np.arange(256, dtype=np.uint8)
    exponents, mantissas = (codes >> 4) & 7, codes & 15
    sizes = ((mantissas.astype(np.int32) * 2 + 33) << exponents.astype(np.int32)) - 33
    return (np.where(codes & 0x80, -sizes, sizes) * 4 / _PCM_S16).astype(np.float32)


_MULAW = _mulaw_table()


def _joined(parts: list[Samples]) -> Samples:
    return np.concatenate([part[:, 0] for part in parts]) if parts else np.empty(0, dtype=np.float32)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _looks_like_sound(head: bytes) -> bool:
    return head.startswith(_MAGICS) or head[4:8] in _BOXES


def _is_known(head: bytes) -> bool:
    """Return whether the first bytes show how the file is to be read."""
    if len(head) < _LONG_BOX_HEADER_BYTES:
        return False
    return head[4:8] not in _BOXES or len(head) > _LARGEST_HEAD_BYTES or _index_place(head) is not None


def _has_late_index(head: bytes) -> bool:
    return head[4:8] in _BOXES and _index_place(head) in (b"mdat", None)


def _index_place(head: bytes) -> bytes | None:
    """Return which box of an MP4 file comes first, its index (moov) or its sound (mdat); None if neither came yet.

    Source: ISO 14496-12, section 4.2.
    """
    place = 0
    while len(head) - place >= _LONG_BOX_HEADER_BYTES:
        size, name = int.from_bytes(head[place : place + 4], "big"), head[place + 4 : place + _BOX_HEADER_BYTES]
        if name in (b"moov", b"moof", b"mdat"):
            return name
        if size == 1:
            size = int.from_bytes(head[place + 8 : place + 16], "big")
        if size < _BOX_HEADER_BYTES:
            return b"mdat"
        place += size
    return None
