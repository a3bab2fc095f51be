"""Keep recordings and transcripts in a folder, or in any store that fsspec knows by its URL."""

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from contract.errors import OutputError, SettingError
from contract.files import write as write_file
from service.errors import StorageError

_BLOCK_BYTES = 2**20
_PARTIAL = ".partial"


@contextlib.contextmanager
def _as_storage_error() -> Iterator[None]:
    """Raise what a store raises as StorageError, but FileNotFoundError: each kind of store has errors of its own."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, OutputError) else error
        if isinstance(cause, OSError) and cause.errno is not None:
            raise StorageError(cause.errno, cause.strerror) from error
        reason = " ".join(str(error).split())
        raise StorageError(f"{type(error).__name__} {reason}".rstrip()) from error


class Storage:
    """Objects by key: `<job>/<name>`. An object is there as a whole or not at all. Its methods raise StorageError."""

    def __init__(self, url: str) -> None:
        """Open the store and try it; raise SettingError where it cannot be used."""
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
            # Written and removed, so that wrong rights end the start and not the first job.
            probe = f"start-{uuid4()}"
            self.write_bytes(f"{probe}/probe", b"probe")
            self.remove(probe)
        except ImportError as error:
            cause = f"{url} needs another package ({error})"
            raise SettingError("--storage", cause, "Install it, or name a folder") from error
        except Exception as error:
            # Each kind of store has errors of its own.
            reason = " ".join(str(error).split()) or type(error).__name__
            cause = f"{url} cannot be written ({reason})"
            raise SettingError("--storage", cause, "Name a folder or a URL that may be written to") from error

    @property
    def is_local(self) -> bool:
        """Whether objects are files of this machine."""
        return isinstance(self._files, LocalFileSystem)

    @_as_storage_error()
    def write(self, key: str, source: BinaryIO) -> None:
        """Store what can be read from a file that is open at its beginning."""
        if self.is_local:
            self._write_local(Path(self._path(key)), source)
            return
        self._files.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)
        # A store of objects shows one only when it is complete.
        with self._files.open(self._path(key), "wb") as target:
            shutil.copyfileobj(source, target, _BLOCK_BYTES)

    @_as_storage_error()
    def write_bytes(self, key: str, content: bytes) -> None:
        """Store a small object."""
        if self.is_local:
            write_file(Path(self._path(key)), content)
            return
        self._files.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(self._path(key), content)

    @_as_storage_error()
    def read_bytes(self, key: str) -> bytes:
        """Return a small object; raise FileNotFoundError where there is none."""
        content: bytes = self._files.cat_file(self._path(key))
        return content

    def blocks(self, key: str) -> Iterator[bytes]:
        """Yield an object in parts; raise FileNotFoundError where there is none."""
        with _as_storage_error():
            opened = self._files.open(self._path(key), "rb")
        with opened as file:
            while block := self._block(file):
                yield block

    @staticmethod
    @_as_storage_error()
    def _block(file: BinaryIO) -> bytes:
        return file.read(_BLOCK_BYTES)

    @_as_storage_error()
    def size(self, key: str) -> int:
        """Return the bytes of an object; raise FileNotFoundError where there is none."""
        return int(self._files.size(self._path(key)))

    @contextlib.contextmanager
    def as_file(self, key: str) -> Iterator[Path]:
        """Yield an object as a file of this machine, which is a copy unless the store is a folder."""
        if self.is_local:
            yield Path(self._path(key))
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recording"
            with _as_storage_error():
                self._files.get_file(self._path(key), str(path))
            yield path

    @_as_storage_error()
    def discard(self, key: str) -> None:
        """Remove an object; it is no error where there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(key))

    @_as_storage_error()
    def remove(self, job: str) -> None:
        """Remove all objects of a job; it is no error where there are none."""
        path = self._path(job)
        try:
            self._files.rm(path, recursive=True)
        except FileNotFoundError:
            # Either there are none, or another service removed one of them at the same time, and the rest is left.
            self._files.invalidate_cache(path)
            if self._files.exists(path):
                raise

    def jobs(self, older_than_s: float) -> list[str]:
        """Return the names of jobs whose objects are older than an age, in a folder of this machine; else none."""
        if not self.is_local or not Path(self._root).is_dir():
            return []
        oldest = time.time() - older_than_s
        return [path.name for path in Path(self._root).iterdir() if _is_folder_before(path, oldest)]

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @staticmethod
    def _write_local(path: Path, source: BinaryIO) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(suffix=_PARTIAL, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as target:
                shutil.copyfileobj(source, target, _BLOCK_BYTES)
                target.flush()
                os.fsync(target.fileno())
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)


def _is_folder_before(path: Path, time_s: float) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        # Another service removed it a moment ago.
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_mtime < time_s
