"""Writes files and folders so that a reader, or a kill at any moment, finds the old or the new one, never a part."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_PARTIAL = ".partial"
_GRACE_SECONDS = 10.0


def write(path: Path, data: bytes | str) -> None:
    """Write a file beside its target and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = data.encode() if isinstance(data, str) else data
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PARTIAL, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        Path(partial).unlink(missing_ok=True)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target`; on success it takes the target's place, on any failure it is removed.

    What a killed process left of an earlier try is removed as well.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_PARTIAL, dir=target.parent))
    lock = os.open(staging, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        staging.chmod(0o755)
        yield staging
        if target.exists() or not _first(staging, target):
            _exchange(staging, target)
    except OSError as error:
        _name(error, target)
        raise
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file; copy it where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        shutil.copyfile(source, target)


def remove(folder: Path) -> None:
    """Remove a folder: its name is gone in one step, its content after that."""
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=_PARTIAL, dir=folder.parent))
    folder.rename(aside / folder.name)
    shutil.rmtree(aside)


def _name(error: OSError, target: Path) -> None:
    # A write to a full disk fails without saying where; whoever reads the refusal needs to know.
    if error.filename is None:
        error.filename = str(target)


def _sweep(target: Path) -> None:
    # A living process holds the lock of its folder; a moment's grace covers the step between making and locking it.
    for left in target.parent.glob(f".{target.name}.*{_PARTIAL}"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if left.is_dir() and time.time() - left.stat().st_mtime > _GRACE_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)


def _first(staging: Path, target: Path) -> bool:
    # Another process may have put its own there since this one looked.
    try:
        staging.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _exchange(first: Path, second: Path) -> None:
    import ctypes  # noqa: PLC0415 - a container's first start replaces nothing

    # rename(2) cannot replace a folder that has content; renameat2(2) swaps two names in one step.
    libc = ctypes.CDLL(None, use_errno=True)
    swapped = libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if swapped == 0:
        return
    if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(second))
    # A file system without the exchange: for an instant the target is absent, never half there.
    aside = first.with_name(f"{first.name}.old")
    second.rename(aside)
    first.rename(second)
    shutil.rmtree(aside, ignore_errors=True)
