"""Write files and folders atomically: after a kill at any moment, the old or the new one is there, never a part.

Every failure to write is an OutputError that names the file or folder that was to be written.
"""

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.errors import ACCESS_ERRNOS, OutputError, as_output_error

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_PARTIAL = ".partial"
_OLD = ".old"
_RANDOM_CHARACTERS = 8  # of tempfile
_RANDOM = "?" * _RANDOM_CHARACTERS
# A file name has at most 255 bytes. A temporary one adds two dots, the random characters and these suffixes.
_MAX_STEM_BYTES = 255 - 2 - _RANDOM_CHARACTERS - len(_PARTIAL) - len(_OLD)
_GRACE_SECONDS = 10.0


def write(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write a file next to its target and rename it into place; raise OutputError where that fails."""
    content = data.encode() if isinstance(data, str) else data
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=_prefix(path), suffix=_PARTIAL, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).chmod(mode)
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise OutputError that names `target` for every OSError of the block, which must only write it."""
    try:
        yield
    except OSError as error:
        raise as_output_error(error, target) from error


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield an empty folder next to `target`; on success it takes the target's place, on any failure it is removed.

    Where `target` is a link to a folder, that folder is replaced, and the link stays. Files that an earlier, killed
    process left are removed as well. Raise OutputError where the folder or, inside the block, a file below it cannot be
    written; other errors of the block pass unchanged.
    """
    target = real(target)
    staging, lock = _make_staging(target)
    try:
        with _naming(staging, target):
            yield staging
        with writing(target):
            if target.exists() or not _rename_to_free_name(staging, target):
                _exchange(staging, target)
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)


def real(folder: Path) -> Path:
    """Return the folder that a link leads to, also where there is none yet; any other path unchanged."""
    return Path(os.path.realpath(folder)) if os.path.islink(folder) else folder  # noqa: PTH114 - False for a name that is too long


def make_folder(folder: Path) -> None:
    """Make a folder and its parents unless it exists; raise OutputError where that fails."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system cannot link; raise OutputError where that fails.

    A source that is absent or unreadable raises the system's own error.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(source, target)
    except OSError as error:
        if not os.access(source, os.R_OK):
            raise
        raise as_output_error(error, target) from error


def remove(folder: Path) -> None:
    """Remove a folder: its name is gone in one step, its content after that; raise OutputError where that fails."""
    with writing(folder):
        aside = Path(tempfile.mkdtemp(prefix=_prefix(folder), suffix=_PARTIAL, dir=folder.parent))
    folder.rename(aside / folder.name)
    shutil.rmtree(aside)


def remove_leftovers(targets: Iterable[Path]) -> None:
    """Remove the files that processes left beside `targets` which were killed while they wrote them."""
    beginnings: dict[Path, set[str]] = {}
    for target in targets:
        beginnings.setdefault(target.parent, set()).add(_prefix(target))
    for folder, prefixes in beginnings.items():
        for left in folder.glob(f".*.{_RANDOM}{_PARTIAL}"):
            if left.name[: -_RANDOM_CHARACTERS - len(_PARTIAL)] in prefixes:
                _remove_leftover(left)


def _remove_leftover(left: Path) -> None:
    with contextlib.suppress(OSError), left.open("rb") as file:
        # A living process holds the lock of its file. The grace covers the step between making and locking it.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.time() - left.stat().st_mtime > _GRACE_SECONDS:
            left.unlink()


def _prefix(target: Path) -> str:
    return f".{os.fsencode(target.name)[:_MAX_STEM_BYTES].decode(errors='ignore')}."


def _make_staging(target: Path) -> tuple[Path, int]:
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        staging = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=_PARTIAL, dir=target.parent))
        lock = os.open(staging, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        staging.chmod(0o755)
        return staging, lock


@contextmanager
def _naming(staging: Path, target: Path) -> Iterator[None]:
    """Raise OutputError for a failure to write below a staging folder; it names the path the file was to have."""
    try:
        yield
    except OutputError as error:
        subject = error.subject.replace(str(staging), str(target), 1)
        raise OutputError(subject, error.cause, error.remedy) from error
    except shutil.Error as error:
        # copytree collects its failures: (source, target, text of the error) of each file.
        *_, reason = error.args[0][0]
        raise as_output_error(OSError(reason), target) from error
    except OSError as error:
        if not _is_write_failure(error, staging):
            raise
        raise as_output_error(error, target) from error


def _is_write_failure(error: OSError, staging: Path) -> bool:
    # A write to a full disk fails without a file name.
    path = error.filename2 or error.filename
    below = path is None or (isinstance(path, str | bytes) and Path(os.fsdecode(path)).is_relative_to(staging))
    return below and error.errno in ACCESS_ERRNOS


def _remove_leftovers(target: Path) -> None:
    # A living process holds the lock of its folder. The grace covers the step between making and locking it.
    for left in target.parent.glob(f"{glob.escape(_prefix(target))}*{_PARTIAL}"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if left.is_dir() and time.time() - left.stat().st_mtime > _GRACE_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        shutil.copyfile(source, target)


def _rename_to_free_name(staging: Path, target: Path) -> bool:
    # Another process may have put its own folder there since this one looked.
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
    aside = first.with_name(f"{first.name}{_OLD}")
    second.rename(aside)
    first.rename(second)
    shutil.rmtree(aside, ignore_errors=True)
