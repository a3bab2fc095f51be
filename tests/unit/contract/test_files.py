"""Writing: the old or the new, never a part; and digests."""

import ctypes
import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from contract import digest, files


class Interrupted(BaseException):
    """Stands for a kill: no ordinary handler catches it."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("data", ["größe\n", b"\x00\xff"])
def test_write(tmp_path: Path, data: str | bytes) -> None:
    target = tmp_path / "deep" / "file"
    files.write(target, data)
    files.write(target, data)
    assert target.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert target.stat().st_mode & 0o777 == 0o644
    assert names(target.parent) == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    files.write(target, "old")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as failure:
        files.write(target, "new")
    assert failure.value.filename == str(target)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_replacing_makes_a_folder(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "deep" / "target") as staging:
        (staging / "file").write_text("new")
        assert not (tmp_path / "deep" / "target").exists()
    assert (tmp_path / "deep" / "target" / "file").read_text() == "new"
    assert names(tmp_path / "deep") == ["target"]


def test_replacing_takes_the_place_of_the_old(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "inner").mkdir(parents=True)
    (target / "old").write_text("old")
    with files.replacing(target) as staging:
        (staging / "new").write_text("new")
        assert names(target) == ["inner", "old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["target"]


def fail_halfway(staging: Path, error: type[BaseException]) -> None:
    (staging / "new").write_text("new")
    raise error


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_a_failure_keeps_the_old(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(error), files.replacing(target) as staging:
        fail_halfway(staging, error)
    assert names(target) == ["old"]
    assert names(tmp_path) == ["target"]


def test_a_file_system_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        @staticmethod
        def renameat2(*_: object) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EINVAL)
    test_replacing_takes_the_place_of_the_old(tmp_path)


def test_an_exchange_that_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        @staticmethod
        def renameat2(*_: object) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EACCES)
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(PermissionError), files.replacing(target):
        pass
    assert names(tmp_path) == ["target"]


def test_link_or_copy(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("content")
    files.link_or_copy(source, tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target").samefile(source)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_copy_where_no_link_is_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    source = tmp_path / "source"
    source.write_text("content")
    files.link_or_copy(source, tmp_path / "target")
    assert (tmp_path / "target").read_text() == "content"
    assert not (tmp_path / "target").samefile(source)


def test_a_link_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.link_or_copy(tmp_path / "absent", tmp_path / "target")


@pytest.mark.parametrize("size_bytes", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 1])
def test_copy_gives_the_digest(tmp_path: Path, size_bytes: int) -> None:
    content = bytes(range(256)) * (size_bytes // 256) + b"x" * (size_bytes % 256)
    (tmp_path / "source").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert digest.copy(tmp_path / "source", tmp_path / "target") == expected
    assert digest.of_file(tmp_path / "target") == expected
    assert (tmp_path / "target").read_bytes() == content


def test_copy_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("new")
    (tmp_path / "target").write_text("old")
    with pytest.raises(FileExistsError):
        digest.copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "old"


def test_the_digest_of_a_value() -> None:
    assert digest.of_value({"a": 1, "b": [2, {"c": "ß"}]}) == digest.of_value({"b": [2, {"c": "ß"}], "a": 1})
    different: tuple[Any, ...] = ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": [1]}, {"b": 1}, {}, [], None)
    assert len({digest.of_value(value) for value in different}) == len(different)


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    """A folder that nobody holds goes once it is old enough; one that a living process fills stays."""
    left = tmp_path / ".bundle.killed.partial"
    left.mkdir()
    os.utime(left, (0, 0))
    with files.replacing(tmp_path / "bundle") as ours:
        os.utime(ours, (0, 0))
        with files.replacing(tmp_path / "bundle"):
            assert ours.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_was_just_made_is_not_swept(tmp_path: Path) -> None:
    young = tmp_path / ".bundle.young.partial"
    young.mkdir()
    with files.replacing(tmp_path / "bundle"):
        pass
    assert young.is_dir()


def test_a_full_disk_is_named_by_the_target(tmp_path: Path) -> None:
    def fill() -> None:
        with files.replacing(tmp_path / "bundle"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as failure:
        fill()
    assert failure.value.filename == str(tmp_path / "bundle")
    assert names(tmp_path) == []


def test_whoever_comes_second_takes_the_place_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that both found nothing there: the later one replaces what the earlier one made."""
    target = tmp_path / "made"
    with files.replacing(target) as staging:
        (staging / "ours").write_text("")
        target.mkdir()
        (target / "theirs").write_text("")
        monkeypatch.setattr(Path, "exists", lambda _: False)
    monkeypatch.undo()
    assert [path.name for path in target.iterdir()] == ["ours"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
