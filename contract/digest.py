"""SHA-256 of files and of values: hashed while copying, so that nothing is read twice."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

_BLOCK_BYTES = 1 << 20


def of_file(path: Path) -> str:
    """Give the SHA-256 of a file as hexadecimal text."""
    digest, block = hashlib.sha256(), bytearray(_BLOCK_BYTES)
    view = memoryview(block)
    with path.open("rb", buffering=0) as file:
        # The system then reads further ahead, so that the disk works while this hashes.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := file.readinto(block):
            digest.update(view[:count])
    return digest.hexdigest()


def of_value(value: Any) -> str:
    """Give the SHA-256 of a JSON value; equal values give equal digests whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def copy(source: Path, target: Path) -> str:
    """Copy a file to a path that must not exist, flush it to the disk, and give its SHA-256."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while block := reader.read(_BLOCK_BYTES):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()
