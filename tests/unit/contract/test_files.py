"""Writing files and folders whole or not at all, the errors of writing, and digests."""

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract import digest, files
from contract.errors import OutputError

FULL = "cannot be written (No space left on device). Free some space and run the same command again."


class Interrupted(BaseException):
    """Stands for a kill: no handler of Exception catches it."""


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("exists", [True, False])
def test_folder_behind_a_link_is_replaced(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "disk").mkdir()
    link, folder = tmp_path / "link", tmp_path / "disk" / "folder"
    link.symlink_to(folder)
    if exists:
        folder.mkdir()
    for text in ("old", "new"):
        with files.replacing(link) as staging:
            (staging / "file").write_text(text)
    assert link.is_symlink()
    assert (folder / "file").read_text() == "new"
    assert names(tmp_path) == ["disk", "link"]
    assert names(tmp_path / "disk") == ["folder"]


@pytest.mark.parametrize("data", ["größe\n", b"\x00\xff"])
def test_write(tmp_path: Path, data: str | bytes) -> None:
    target = tmp_path / "deep" / "file"
    files.write(target, data)
    files.write(target, data)
    assert target.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert target.stat().st_mode & 0o777 == 0o644
    assert names(target.parent) == ["file"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    files.write(target, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as error:
        files.write(target, "new")
    assert str(error.value) == f"{target}: {FULL}"
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


# A virtual file system takes no new files, not even from root.
UNWRITABLE = Path("/proc/voxwright")


def fill(target: Path) -> None:
    with files.replacing(target) as staging:
        (staging / "file").write_text("new")


@pytest.mark.parametrize(
    "action",
    [
        lambda path: files.write(path, "new"),
        fill,
        files.make_folder,
        lambda path: files.link_or_copy(Path(__file__), path),
    ],
)
@pytest.mark.parametrize("name", ["", "below", "deep/below"])
def test_names_the_target_on_a_virtual_file_system(action: Callable[[Path], None], name: str) -> None:
    target = UNWRITABLE / name
    with pytest.raises(OutputError) as error:
        action(target)
    assert str(error.value) == (
        f"{target}: cannot be written (No such file or directory). Choose a folder that you may write to."
    )


@pytest.mark.parametrize("action", [lambda path: files.write(path, "new"), fill, files.make_folder])
def test_names_the_target_below_a_file(tmp_path: Path, action: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "deep" / "target"
    with pytest.raises(OutputError) as error:
        action(target)
    assert str(error.value) == f"{target}: cannot be written (Not a directory). Choose a folder that you may write to."


def test_write_does_not_replace_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as error:
        files.write(tmp_path, "new")
    assert str(error.value) == (
        f"{tmp_path}: cannot be written (Is a directory). Choose a folder that you may write to."
    )


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "[" * 255, "*" * 255])
def test_writes_the_longest_names(tmp_path: Path, name: str) -> None:
    files.write(tmp_path / name, "old")
    files.write(tmp_path / name, "new")
    assert (tmp_path / name).read_text() == "new"
    (tmp_path / name).unlink()
    for _ in range(2):
        fill(tmp_path / name)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("action", [lambda path: files.write(path, "new"), fill])
def test_rejects_longer_names(tmp_path: Path, action: Callable[[Path], None]) -> None:
    target = tmp_path / ("a" * 256)
    with pytest.raises(OutputError) as error:
        action(target)
    assert str(error.value) == f"{target}: cannot be written (File name too long). Choose a shorter name."
    assert names(tmp_path) == []


def test_replacing_makes_a_folder(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "deep" / "target") as staging:
        (staging / "file").write_text("new")
        assert not (tmp_path / "deep" / "target").exists()
    assert (tmp_path / "deep" / "target" / "file").read_text() == "new"
    assert names(tmp_path / "deep") == ["target"]


def test_replacing_replaces_the_old_folder(tmp_path: Path) -> None:
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
def test_failure_keeps_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(error), files.replacing(target) as staging:
        fail_halfway(staging, error)
    assert names(target) == ["old"]
    assert names(tmp_path) == ["target"]


def test_file_system_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        @staticmethod
        def renameat2(*_: object) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EINVAL)
    test_replacing_replaces_the_old_folder(tmp_path)


def test_forbidden_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        @staticmethod
        def renameat2(*_: object) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EACCES)
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(OutputError) as error, files.replacing(target):
        pass
    assert str(error.value) == (
        f"{target}: cannot be written (Permission denied). Choose a folder that you may write to."
    )
    assert names(tmp_path) == ["target"]


def test_link_or_copy(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("content")
    files.link_or_copy(source, tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target").samefile(source)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_copies_where_no_link_is_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    source = tmp_path / "source"
    source.write_text("content")
    files.link_or_copy(source, tmp_path / "target")
    assert (tmp_path / "target").read_text() == "content"
    assert not (tmp_path / "target").samefile(source)


def test_absent_source_keeps_its_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.link_or_copy(tmp_path / "absent", tmp_path / "target")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_source_keeps_its_error(tmp_path: Path) -> None:
    (tmp_path / "source").touch(0)
    (tmp_path / "source").chmod(0)
    with pytest.raises(PermissionError):
        files.link_or_copy(tmp_path / "source", tmp_path / "target")


def test_copy_to_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    (tmp_path / "source").write_text("content")
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError) as error:
        files.link_or_copy(tmp_path / "source", tmp_path / "target")
    assert str(error.value) == f"{tmp_path / 'target'}: {FULL}"


@pytest.mark.parametrize("size_bytes", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 1])
def test_digest_of_file(tmp_path: Path, size_bytes: int) -> None:
    content = bytes(range(256)) * (size_bytes // 256) + b"x" * (size_bytes % 256)
    (tmp_path / "file").write_bytes(content)
    assert digest.of_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_digest_of_value() -> None:
    assert digest.of_value({"a": 1, "b": [2, {"c": "ß"}]}) == digest.of_value({"b": [2, {"c": "ß"}], "a": 1})
    different: tuple[Any, ...] = ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": [1]}, {"b": 1}, {}, [], None)
    assert len({digest.of_value(value) for value in different}) == len(different)


def test_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    """An old folder without a lock is removed; the folder of a living process, which holds the lock, stays."""
    left = tmp_path / ".bundle.killed.partial"
    left.mkdir()
    os.utime(left, (0, 0))
    with files.replacing(tmp_path / "bundle") as ours:
        os.utime(ours, (0, 0))
        with files.replacing(tmp_path / "bundle"):
            assert ours.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_keeps_a_folder_that_was_just_made(tmp_path: Path) -> None:
    young = tmp_path / ".bundle.young.partial"
    young.mkdir()
    with files.replacing(tmp_path / "bundle"):
        pass
    assert young.is_dir()


def raising(target: Path, make: Callable[[Path], OSError]) -> None:
    with files.replacing(target) as staging:
        raise make(staging)


def test_full_disk_names_the_target(tmp_path: Path) -> None:
    """A write to a full disk fails without a file name."""
    with pytest.raises(OutputError) as error:
        raising(tmp_path / "bundle", lambda _: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert str(error.value) == f"{tmp_path / 'bundle'}: {FULL}"
    assert names(tmp_path) == []


def test_names_the_final_path_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as error, files.replacing(tmp_path / "bundle") as staging:
        files.write(staging / "deep" / "file", "new")
    assert str(error.value) == f"{tmp_path / 'bundle' / 'deep' / 'file'}: {FULL}"
    assert names(tmp_path) == []


def test_failed_write_below_the_folder_names_it(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as error:
        raising(tmp_path / "b", lambda it: OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(it / "model")))
    assert str(error.value) == (
        f"{tmp_path / 'b'}: cannot be written (File too large). Choose a folder that you may write to."
    )


def test_failed_copy_of_a_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("")
    with pytest.raises(OutputError) as error, files.replacing(tmp_path / "made") as staging:
        shutil.copytree(tmp_path / "tree", staging / "tree", copy_function=full)
    assert str(error.value) == (
        f"{tmp_path / 'made'}: cannot be written ([Errno 28] No space left on device). "
        "Choose a folder that you may write to."
    )
    assert names(tmp_path) == ["tree"]


@pytest.mark.parametrize(
    "make",
    [
        # A file of another folder was read; a file of this one should have been there; a defect without a path.
        lambda _: PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/etc/shadow"),
        lambda staging: FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(staging / "absent")),
        lambda _: OSError(errno.EBADF, os.strerror(errno.EBADF)),
    ],
)
def test_other_errors_pass_unchanged(tmp_path: Path, make: Callable[[Path], OSError]) -> None:
    with pytest.raises(OSError, match=r"^\[Errno \d+\]") as error:
        raising(tmp_path / "bundle", make)
    assert not isinstance(error.value, OutputError)
    assert names(tmp_path) == []


def test_remove(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    files.remove(tmp_path / "folder")
    assert names(tmp_path) == []


def test_later_process_replaces_the_folder_of_the_earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both processes found no folder; the later one replaces that of the earlier one."""
    target = tmp_path / "made"
    with files.replacing(target) as staging:
        (staging / "ours").write_text("")
        target.mkdir()
        (target / "theirs").write_text("")
        monkeypatch.setattr(Path, "exists", lambda _: False)
    monkeypatch.undo()
    assert [path.name for path in target.iterdir()] == ["ours"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
