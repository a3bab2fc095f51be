"""Hold what a socket brought until the session takes it: in memory, and above a limit in a temporary file.

The socket is always read, or the pings that queue behind the audio would stay without an answer and the client would
close the connection.
"""

import os
import tempfile
import threading
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Command = TypeVar("Command")

_MEMORY_BYTES = 2**20
_DISK_BYTES = 512 * 2**20
# A file is removed when all of it was taken, so that a long stream does not fill the disk.
_FILE_BYTES = 16 * 2**20
# Each waiting frame takes memory of its own, however small it is.
_FRAMES = 2**17


@dataclass(frozen=True, slots=True)
class Frame:
    """The audio of one message."""

    data: bytes


class _File:
    """A temporary file of frames; it is closed, and so removed, with its last frame."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="voxwright-")  # noqa: SIM115 - closed by `close`
        self._waiting = 0
        self.size = 0

    def write(self, data: bytes) -> "_OnDisk":
        """Add a frame."""
        stored = _OnDisk(file=self, start=self.size, size=len(data))
        view, start = memoryview(data), self.size
        while view:
            count = os.pwrite(self._file.fileno(), view, start)
            start, view = start + count, view[count:]
        self.size = start
        self._waiting += 1
        return stored

    def read(self, stored: "_OnDisk") -> bytes:
        """Take a frame."""
        data = os.pread(self._file.fileno(), stored.size, stored.start)
        self._waiting -= 1
        if not self._waiting:
            self.close()
        return data

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    @property
    def is_closed(self) -> bool:
        """Return whether the file was removed."""
        return self._file.closed


@dataclass(frozen=True, kw_only=True, slots=True)
class _OnDisk:
    file: _File
    start: int
    size: int


class Spool(Generic[Command]):
    """A queue of frames and commands, in their order. It is filled by one thread and emptied by another one."""

    def __init__(
        self, *, memory_bytes: int = _MEMORY_BYTES, disk_bytes: int = _DISK_BYTES, frames: int = _FRAMES
    ) -> None:
        self._limits = memory_bytes, disk_bytes, frames
        self._waiting: deque[Frame | _OnDisk | Command] = deque()
        self._memory_bytes = self._disk_bytes = 0
        self._file: _File | None = None
        self._changed = threading.Condition()
        self._is_ended = self._is_aborted = False

    @property
    def is_full(self) -> bool:
        """Return whether the socket must not be read for now."""
        _, disk_bytes, frames = self._limits
        return self._disk_bytes >= disk_bytes or len(self._waiting) >= frames

    def put(self, item: Frame | Command) -> None:
        """Add a frame or a command."""
        with self._changed:
            self._waiting.append(self._stored(item) if isinstance(item, Frame) else item)
            self._changed.notify()

    def end(self) -> None:
        """Declare that nothing more comes."""
        with self._changed:
            self._is_ended = True
            self._changed.notify()

    def abort(self) -> None:
        """Drop what waits, and end."""
        with self._changed:
            self._is_ended = self._is_aborted = True
            for item in self._waiting:
                if isinstance(item, _OnDisk):
                    item.file.close()
            self._waiting.clear()
            self._changed.notify()

    @property
    def is_aborted(self) -> bool:
        """Return whether the session is over."""
        return self._is_aborted

    def get(self, timeout_s: float | None = None) -> Frame | Command | None:
        """Wait for the next item and return it; None when nothing came in time, and at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_ended, timeout_s)
            return self._loaded(self._waiting.popleft()) if self._waiting else None

    @property
    def is_exhausted(self) -> bool:
        """Return whether the end was declared and everything was taken."""
        return self._is_ended and not self._waiting

    def _stored(self, frame: Frame) -> Frame | _OnDisk:
        if self._memory_bytes + len(frame.data) <= self._limits[0]:
            self._memory_bytes += len(frame.data)
            return frame
        if self._file is None or self._file.is_closed or self._file.size >= _FILE_BYTES:
            self._file = _File()
        self._disk_bytes += len(frame.data)
        return self._file.write(frame.data)

    def _loaded(self, item: Frame | _OnDisk | Command) -> Frame | Command:
        if isinstance(item, Frame):
            self._memory_bytes -= len(item.data)
            return item
        if not isinstance(item, _OnDisk):
            return item
        self._disk_bytes -= item.size
        return Frame(item.file.read(item))
