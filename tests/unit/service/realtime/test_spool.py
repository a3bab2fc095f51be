"""The queue between a socket and its session: order, memory, disk, and the end."""

import threading
import time

import pytest

from service.realtime.spool import Frame, Spool, _OnDisk


def frames(spool: Spool[str]) -> list[bytes | str]:
    """Take everything until the end."""
    found: list[bytes | str] = []
    while not spool.is_exhausted:
        item = spool.get()
        if item is not None:
            found.append(item.data if isinstance(item, Frame) else item)
    return found


@pytest.mark.parametrize("memory_bytes", [0, 10, 10_000])
def test_keeps_the_order_of_frames_and_commands(memory_bytes: int) -> None:
    spool: Spool[str] = Spool(memory_bytes=memory_bytes)
    expected: list[bytes | str] = [b"abc", "command", b"", b"d" * 100, b"ef", "other"]
    for item in expected:
        spool.put(Frame(item) if isinstance(item, bytes) else item)
    spool.end()
    assert frames(spool) == expected


def test_memory_is_bounded_and_files_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.realtime.spool._FILE_BYTES", 2000)
    spool: Spool[str] = Spool(memory_bytes=1000)
    for number in range(100):
        spool.put(Frame(bytes([number]) * 100))
    files = list(dict.fromkeys(item.file for item in spool._waiting if isinstance(item, _OnDisk)))
    assert (spool._memory_bytes, spool._disk_bytes) == (1000, 9000)
    assert [file.size for file in files] == [2000] * 4 + [1000]
    for number in range(100):
        item = spool.get()
        assert isinstance(item, Frame)
        assert item.data == bytes([number]) * 100
        assert [file.is_closed for file in files] == [number >= 10 + 20 * place - 1 for place in range(1, 5)] + [
            number == 99
        ]
    assert spool._memory_bytes + spool._disk_bytes == 0
    spool.put(Frame(b"x" * 2000))
    assert spool.get() == Frame(b"x" * 2000)


def test_is_full_by_bytes_and_by_frames() -> None:
    spool: Spool[str] = Spool(memory_bytes=10, disk_bytes=100, frames=5)
    spool.put(Frame(b"x" * 10))
    full = []
    for size in (99, 1):
        spool.put(Frame(b"x" * size))
        full.append(spool.is_full)
    assert full == [False, True]
    small: Spool[str] = Spool(frames=5)
    full = []
    for _ in range(5):
        small.put(Frame(b""))
        full.append(small.is_full)
    assert full == [False, False, False, False, True]


def test_waits_for_the_next_item() -> None:
    spool: Spool[str] = Spool()
    began = time.monotonic()
    assert spool.get(0.05) is None
    assert time.monotonic() - began >= 0.05
    threading.Timer(0.1, lambda: spool.put("command")).start()
    assert spool.get(10) == "command"
    threading.Timer(0.1, spool.end).start()
    assert spool.get() is None
    assert spool.is_exhausted


def test_abort_drops_everything() -> None:
    spool: Spool[str] = Spool(memory_bytes=0)
    spool.put(Frame(b"abc"))
    file = spool._file
    spool.abort()
    assert spool.get() is None
    assert spool.is_exhausted
    assert file is not None
    assert file.is_closed
    spool.put(Frame(b"late"))
    assert spool.is_aborted
