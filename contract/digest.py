"""Compute the SHA-256 of files and of JSON values."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

_BLOCK_BYTES = 1 << 20


def of_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    digest, block = hashlib.sha256(), bytearray(_BLOCK_BYTES)
    view = memoryview(block)
    with path.open("rb", buffering=0) as file:
        # The system then reads further ahead: the disk works while this process hashes.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := file.readinto(block):
            digest.update(view[:count])
    return digest.hexdigest()


def of_value(value: Any) -> str:
    """Return the SHA-256 of a JSON value as hexadecimal text; the order of keys does not change it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
