"""Compute the SHA-256 of files and of JSON values."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

_BLOCK_BYTES = 1 << 20
# Of linux/fs.h.
_FICLONE = 0x40049409


def of_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()


def of_copy(source: Path, target: Path) -> str:
    """Copy a file to a new one, and return the SHA-256 of what the copy holds.

    On a file system that can, the copy shares its blocks with the source until one of them is written.
    """
    with source.open("rb", buffering=0) as file, target.open("xb", buffering=0) as copy:
        try:
            fcntl.ioctl(copy, _FICLONE, file.fileno())
        except OSError:
            return _copied(file, copy)
    return of_file(target)


def of_value(value: Any) -> str:
    """Return the SHA-256 of a JSON value as hexadecimal text; the order of keys does not change it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _copied(file: FileIO, copy: FileIO) -> str:
    digest = hashlib.sha256()
    for block in _blocks(file):
        digest.update(block)
        written = 0
        while written < len(block):
            written += copy.write(block[written:])
    return digest.hexdigest()


def _blocks(file: FileIO) -> Iterator[memoryview]:
    """Yield what a file holds; each block is valid until the next one."""
    # The system then reads further ahead: the disk works while this process hashes.
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
    block = bytearray(_BLOCK_BYTES)
    view = memoryview(block)
    while count := file.readinto(block):
        yield view[:count]
