"""The storage of jobs in a folder and in a store that fsspec knows."""

import errno
import io
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from contract.errors import SettingError
from service.errors import StorageError
from service.jobs.storage import Storage


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "files") if request.param == "folder" else f"memory://{uuid4()}")


def test_objects_are_kept(storage: Storage) -> None:
    storage.write("a/recording", io.BytesIO(b"x" * 3_000_000))
    storage.write_bytes("a/transcript", b"words")
    assert b"".join(storage.blocks("a/recording")) == b"x" * 3_000_000
    assert storage.size("a/recording") == 3_000_000
    assert storage.read_bytes("a/transcript") == b"words"
    with storage.as_file("a/recording") as path:
        assert path.stat().st_size == 3_000_000
    storage.discard("a/transcript")
    storage.discard("a/transcript")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("a/transcript")
    storage.remove("a")
    storage.remove("a")
    with pytest.raises(FileNotFoundError):
        storage.size("a/recording")


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(28, "No space left on device")

    storage = Storage(str(tmp_path))
    with pytest.raises(StorageError, match="No space"):
        storage.write("a/recording", Failing())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class StoreError(Exception):
    """An error of an object store, such as those of aiohttp and botocore."""


CALLS: dict[str, tuple[str, Callable[[Storage], object]]] = {
    "write": ("open", lambda storage: storage.write("a/b", io.BytesIO(b"x"))),
    "write_bytes": ("pipe_file", lambda storage: storage.write_bytes("a/b", b"x")),
    "read_bytes": ("cat_file", lambda storage: storage.read_bytes("a/b")),
    "blocks": ("open", lambda storage: list(storage.blocks("a/b"))),
    "size": ("size", lambda storage: storage.size("a/b")),
    "as_file": ("get_file", lambda storage: storage.as_file("a/b").__enter__()),
    "discard": ("rm_file", lambda storage: storage.discard("a/b")),
    "remove": ("rm", lambda storage: storage.remove("a")),
}


@pytest.mark.parametrize("name", CALLS)
def test_errors_of_a_store_are_storage_errors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker gives a job back after an OSError, and rejects it after what it does not know."""

    def fail(*_: object, **__: object) -> None:
        raise StoreError("503\nSlow Down")

    storage = Storage(f"memory://{uuid4()}")
    method, call = CALLS[name]
    monkeypatch.setattr(storage._files, method, fail)
    with pytest.raises(StorageError, match=r"^StoreError 503 Slow Down$"):
        call(storage)


@pytest.mark.parametrize("name", ["write", "write_bytes"])
def test_errors_of_a_folder_keep_their_number(name: str, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    (tmp_path / "a").touch()
    with pytest.raises(StorageError) as caught:
        CALLS[name][1](storage)
    assert caught.value.errno in (errno.EEXIST, errno.ENOTDIR)


def test_error_of_what_uses_a_file_is_not_one_of_the_store() -> None:
    storage = Storage(f"memory://{uuid4()}")
    storage.write_bytes("a/b", b"x")
    with pytest.raises(ZeroDivisionError), storage.as_file("a/b"):
        raise ZeroDivisionError


def test_jobs_by_age(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("a/recording", b"x")
    assert storage.jobs(60.0) == []
    assert storage.jobs(-60.0) == ["a"]


def test_jobs_that_another_service_removes_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("a/recording", b"x")
    monkeypatch.setattr(Path, "iterdir", lambda _: iter([tmp_path / "a", tmp_path / "gone"]))
    assert storage.jobs(-60.0) == ["a"]


def test_removal_that_another_service_disturbs_is_no_success(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def disturbed(*_: object, **__: object) -> None:
        raise FileNotFoundError("a/transcript")

    storage.write_bytes("a/recording", b"x")
    with monkeypatch.context() as patched:
        patched.setattr(storage._files, "rm", disturbed)
        with pytest.raises(FileNotFoundError):
            storage.remove("a")
    storage.remove("a")
    storage.remove("a")


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("{folder}/file/below", "cannot be written"),
        ("nonsense://a", "Protocol not known: nonsense"),
        ("s3://bucket", "needs another package"),
    ],
)
def test_stores_that_cannot_be_used(url: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match=cause):
        Storage(url.format(folder=tmp_path))
