"""Keep TensorRT's kernel timings in the store: one cache file for each TensorRT build and GPU model.

    dist/store/timing/<TensorRT build>-<GPU>.cache

contains a line of JSON with its owner (TensorRT build and GPU model), then TensorRT's own bytes.

TensorRT chooses kernels by the timings in the cache. A timing never changes once it is in the cache: later builds only
add timings. So the cache that an engine was built with determines the engine. Each cache has a random identity from the
time it is created: engines stay valid while their cache grows, and a new cache means new engines.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from contract import files
from contract.errors import CompilerUnavailableError

_REMEDY = "Remove the file: the next build measures the timings again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """The TensorRT build and GPU model whose timings a cache contains; others cannot use them."""

    tensorrt: str
    gpu: str

    def __str__(self) -> str:
        return f"TensorRT {self.tensorrt} on {self.gpu}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TimingCache:
    """The file of a cache, and the owner that a build expects in it."""

    path: Path
    owner: Owner

    def identity(self) -> str | None:
        """Return the cache's identity; None where there is no file yet."""
        return self._read()[0] if self.path.exists() else None

    def content(self) -> bytes:
        """Return TensorRT's own bytes, b"" before the first build; raise CompilerUnavailableError for another owner."""
        return self._read()[1] if self.path.exists() else b""

    def begin(self) -> None:
        """Create an empty cache where there is none."""
        with self.held():
            if not self.path.exists():
                self._write(secrets.token_hex(32), b"")

    def save(self, content: bytes) -> None:
        """Write the timings after a build, which include all earlier ones."""
        self._write(self.identity() or secrets.token_hex(32), content)

    def rejected(self) -> CompilerUnavailableError:
        """Return the error for a cache that TensorRT itself rejects, although its first line is correct."""
        cause = f"TensorRT {self.owner.tensorrt} rejects it as a timing cache for this {self.owner.gpu}"
        return CompilerUnavailableError(self.path, cause, _REMEDY)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the cache, because two builds that time kernels at once on one GPU distort each other's timings."""
        lock_file = self.path.with_suffix(".lock")
        with files.writing(lock_file):
            lock_file.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, identity: str, content: bytes) -> None:
        head = {"owner": asdict(self.owner), "identity": identity, "sha256": _digest(content)}
        files.write(self.path, json.dumps(head, sort_keys=True).encode() + b"\n" + content)

    def _read(self) -> tuple[str, bytes]:
        line, _, content = self.path.read_bytes().partition(b"\n")
        try:
            head = json.loads(line)
            owner, identity, digest = Owner(**head["owner"]), str(head["identity"]), head["sha256"]
        except (ValueError, TypeError, KeyError) as error:
            cause = "its first line does not name the owner of the timing cache"
            raise CompilerUnavailableError(self.path, cause, _REMEDY) from error
        if owner != self.owner:
            cause = f"it is the timing cache of {owner}, and this build is for {self.owner}"
            raise CompilerUnavailableError(self.path, cause, _REMEDY)
        if digest != _digest(content):
            raise CompilerUnavailableError(self.path, "the timing cache is damaged", _REMEDY)
        return identity, content


def cache(folder: Path, owner: Owner) -> TimingCache:
    """Return the cache of an owner in a folder."""
    gpu = re.sub(r"[^a-z0-9]+", "-", owner.gpu.lower()).strip("-")
    return TimingCache(path=folder / f"{owner.tensorrt}-{gpu}.cache", owner=owner)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
