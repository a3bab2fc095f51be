"""The storage of jobs in a folder and in a store that fsspec knows."""

import io
from pathlib import Path
from uuid import uuid4

import pytest

from contract.errors import SettingError
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
    with pytest.raises(OSError, match="No space"):
        storage.write("a/recording", Failing())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


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
