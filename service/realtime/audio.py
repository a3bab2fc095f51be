"""Turn the frames of a session into samples at the rate of the networks: samples without a header, or a file."""

import contextlib
import fcntl
import os
import queue
import sys
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator
from enum import Enum, auto
from pathlib import Path
from typing import Generic, TypeVar

import av
import numpy as np

from contract.errors import AudioError
from service.realtime.spool import Frame, Spool
from transcriber.audio import Recording, Samples
from transcriber.conversion import Cleaner, Converter
from transcriber.raw import RawFormat
from transcriber.realtime import PAUSE_S

Command = TypeVar("Command")

_READ_AHEAD_BLOCKS = 4
_POLL_S = 0.02
# A command waits until libav brought no blocks in so many polls; opening a file takes longer than decoding a packet.
_QUIET_POLLS, _UNOPENED_POLLS = 3, 25
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
_NOTHING: Samples = np.empty(0, dtype=np.float32)


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


class _End(Enum):
    """What has ended: the decoding of a file, or what its client sends."""

    DECODED = auto()
    SENT = auto()


class FileDecoder(Generic[Command]):
    """Decode a file while it comes: frames of a spool go through a pipe to libav, which reads it like a recording.

    A file whose index lies at its end (an mp4 that was not written for streams) is decoded when all of it is there.
    """

    def __init__(
        self,
        spool: Spool[Command],
        sample_rate_hz: int,
        on_frame: Callable[[], None],
        pause_s: Callable[[], float] = lambda: PAUSE_S,
    ) -> None:
        """Prepare to read the spool; `on_frame` is called when a frame was taken.

        A stream that brings no samples for `pause_s` pauses.
        """
        self._spool, self._sample_rate_hz = spool, sample_rate_hz
        self._on_frame, self._pause_s = on_frame, pause_s
        self._items: queue.Queue[Samples | Command | _End] = queue.Queue(_READ_AHEAD_BLOCKS)
        self._stopped, self._opened, self._decoded = threading.Event(), threading.Event(), threading.Event()
        self._block_count = 0
        self._failure: BaseException | None = None
        self.recording: Recording | None = None

    def items(self) -> Iterator[Samples | Command]:
        """Yield samples, commands after the samples that were sent before them, and an empty block at a pause.

        Where the samples are decoded at the end, the commands follow them. Raises AudioError when no sound can be
        decoded.
        """
        head = b""
        # Enough bytes to know how the file is to be read.
        while not _is_known(head) and (item := self._next()) is not None:
            if isinstance(item, Frame):
                head += item.data
            else:
                yield item
        if not head and self._spool.is_exhausted:
            return
        if _has_late_index(head):
            yield from self._whole(head)
        else:
            yield from self._piped(head)

    def close(self) -> None:
        """End the decoding; the spool must have been aborted."""
        self._stopped.set()

    def _next(self) -> Frame | Command | None:
        """Return the next frame or command of the spool; None at the end."""
        while not self._spool.is_exhausted:
            item = self._spool.get()
            if isinstance(item, Frame):
                self._on_frame()
            if item is not None:
                return item
        return None

    def _whole(self, head: bytes) -> Iterator[Samples | Command]:
        commands: list[Command] = []
        with tempfile.NamedTemporaryFile(prefix="voxwright-") as file:
            size = file.write(head)
            while (item := self._next()) is not None:
                if not isinstance(item, Frame):
                    commands.append(item)
                    continue
                size += file.write(item.data)
                if size > _LARGEST_STORED_BYTES:
                    cause = f"its index lies at its end, and it has more than {_LARGEST_STORED_BYTES >> 20} MiB"
                    raise AudioError("the stream", cause, "Write the file with its index first, or send another format")
            file.flush()
            if self._spool.is_aborted:
                return
            self.recording = Recording(Path(file.name), sample_rate_hz=self._sample_rate_hz)
            yield from self.recording.blocks()
        yield from commands

    def _piped(self, head: bytes) -> Iterator[Samples | Command]:
        reading, writing = os.pipe()
        threading.Thread(target=self._decode, args=(reading,), name="source", daemon=True).start()
        threading.Thread(target=self._pump, args=(writing, head), name="pump", daemon=True).start()
        # What has not begun does not pause.
        running, is_paused = {_End.DECODED, _End.SENT}, True
        while running:
            try:
                item = self._items.get(timeout=None if is_paused else self._pause_s())
            except queue.Empty:
                is_paused = True
                yield _NOTHING
                continue
            if not isinstance(item, _End):
                is_paused = is_paused and not isinstance(item, np.ndarray)
                yield item
                continue
            running.discard(item)
            if item == _End.DECODED and self._failure is not None:
                raise self._failure
            if running == {_End.SENT}:
                # Only commands can follow: the sound of some files ends before their last byte.
                is_paused = True
                yield _NOTHING

    def _decode(self, reading: int) -> None:
        """Put the samples of a pipe into the queue. It may hang in a read, until the pipe is closed."""
        try:
            try:
                recording = Recording(Path(f"/dev/fd/{reading}"), live=True, sample_rate_hz=self._sample_rate_hz)
            finally:
                # libav has opened the pipe for itself, or it never will.
                self._opened.set()
                os.close(reading)
            self.recording = recording
            for block in recording.blocks():
                if not self._put(block):
                    return
                self._block_count += 1
        except BaseException as error:
            # Raised again in the thread that waits for the samples.
            self._failure = error
        finally:
            self._decoded.set()
            self._put(_End.DECODED)

    def _pump(self, writing: int, head: bytes) -> None:
        """Write the frames into the pipe. It ends early when libav has stopped to read, and then frames are dropped."""
        limit, written = _KNOWN_BYTES if _looks_like_sound(head) else _UNKNOWN_BYTES, 0
        item: Frame | Command | None = Frame(head)
        try:
            while item is not None:
                if not self._opened.is_set() and written > limit:
                    break
                if isinstance(item, Frame):
                    _write(writing, item.data)
                    written += len(item.data)
                else:
                    self._settle(writing)
                    self._put(item)
                item = self._next()
        except BrokenPipeError:
            pass
        finally:
            os.close(writing)
        while (item := self._next()) is not None:
            if not isinstance(item, Frame):
                self._put(item)
        self._put(_End.SENT)

    def _settle(self, writing: int) -> None:
        """Wait until libav has decoded what was written, and its samples were taken.

        libav does not show how far it is. It has nothing left to decode when it brings no blocks for a while.
        """
        quiet, count = 0, self._block_count
        while quiet < (_QUIET_POLLS if self._opened.is_set() else _UNOPENED_POLLS) and not self._decoded.is_set():
            if self._stopped.wait(_POLL_S):
                return
            is_quiet = self._block_count == count and self._items.empty() and not _waiting_bytes(writing)
            quiet, count = quiet + 1 if is_quiet else 0, self._block_count

    def _put(self, item: Samples | Command | _End) -> bool:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=_POLL_S)
                return True
        return False


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


def _waiting_bytes(descriptor: int) -> int:
    """Return how many bytes of a pipe were not read yet."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


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
