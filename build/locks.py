"""Lock what two commands must not change at the same time: a bundle, and the engines of the store.

A killed process releases its locks.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract import files
from contract.errors import OutputError


@contextmanager
def bundle(folder: Path) -> Iterator[None]:
    """Lock a bundle from the read of its manifest to the write; raise OutputError where another command holds the lock.

    The lock is on a file next to the bundle: its folder is replaced, and may not exist yet.
    """
    whole = folder.resolve()
    path = whole.with_name(f".{whole.name}.lock")
    with files.writing(folder):
        descriptor = _lock_file(path)
    if descriptor is None:
        cause = "another build, or build.sign, changes this bundle at the moment"
        raise OutputError(folder, cause, "Run the command again after that one has ended, or name another folder")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def store_in_use(store: Path) -> Iterator[None]:
    """Keep the engines of the store from being removed: a build links them into a bundle at its end.

    Several builds share the lock. It waits while `store_alone` is held.
    """
    files.make_folder(store)
    with _locked(store, fcntl.LOCK_SH):
        yield


@contextmanager
def folder_alone(folder: Path) -> Iterator[None]:
    """Lock a folder, made if it is absent; wait while another process holds the lock."""
    files.make_folder(folder)
    with _locked(folder, fcntl.LOCK_EX):
        yield


@contextmanager
def store_alone(store: Path) -> Iterator[None]:
    """Lock the store to remove engines; raise OutputError where a build uses it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_locked(store, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError as error:
            cause = "a build uses this store at the moment, and its engines are in no bundle yet"
            raise OutputError(store, cause, "Run the command again after the build has ended") from error
        yield


@contextmanager
def _locked(folder: Path, operation: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


def _lock_file(path: Path) -> int | None:
    """Return the descriptor of a lock file, made and locked; None where another process holds the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        # Its last owner may have removed the file between the two calls: that lock would hold off no other command.
        if _is_same(path, descriptor):
            return descriptor
        os.close(descriptor)


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
