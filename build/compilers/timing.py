"""Timing caches: what TensorRT measured of each kernel, one file a TensorRT build and GPU model, beside the engines.

    dist/store/timing/<TensorRT build>-<GPU>.cache

holds a line of JSON that says whose it is, then TensorRT's own bytes.

Kernels are chosen by the times in the cache, and those never change once they are in it: later builds only add. What
decides an engine is therefore which cache it was built with. Each has an identity, drawn when it is begun: a cache that
grows keeps the engines that it made, and a new cache means new ones.
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

_REMEDY = "Remove the file, and the build measures anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """Whose times a cache holds: they are of no use to any other build or GPU model."""

    tensorrt: str
    gpu: str

    def __str__(self) -> str:
        return f"TensorRT {self.tensorrt} on {self.gpu}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TimingCache:
    """A cache's file, and who asks for it."""

    path: Path
    owner: Owner

    def identity(self) -> str | None:
        """Say which cache it is; None where there is no file yet."""
        return self._read()[0] if self.path.exists() else None

    def content(self) -> bytes:
        """Give TensorRT's own bytes, none where nothing was measured; raise CompilerUnavailableError for another's."""
        return self._read()[1] if self.path.exists() else b""

    def begin(self) -> None:
        """Make an empty cache where there is none."""
        with self.held():
            if not self.path.exists():
                self._write(secrets.token_hex(32), b"")

    def save(self, content: bytes) -> None:
        """Write what a build left, which holds all that was there before."""
        self._write(self.identity() or secrets.token_hex(32), content)

    def foreign(self) -> CompilerUnavailableError:
        """Make the refusal for a cache that TensorRT itself does not take, whatever its first line says."""
        cause = f"TensorRT {self.owner.tensorrt} does not take it as a timing cache of this {self.owner.gpu}"
        return CompilerUnavailableError(self.path, cause, _REMEDY)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other builds for this GPU waiting: two that measure at once measure each other."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
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
            cause = "it does not say whose timing cache it is"
            raise CompilerUnavailableError(self.path, cause, _REMEDY) from error
        if owner != self.owner:
            cause = f"it is the timing cache of {owner}, and this build is for {self.owner}"
            raise CompilerUnavailableError(self.path, cause, _REMEDY)
        if digest != _digest(content):
            raise CompilerUnavailableError(self.path, "the timing cache is damaged", _REMEDY)
        return identity, content


def cache(folder: Path, owner: Owner) -> TimingCache:
    """Name the cache of an owner in a folder."""
    gpu = re.sub(r"[^a-z0-9]+", "-", owner.gpu.lower()).strip("-")
    return TimingCache(path=folder / f"{owner.tensorrt}-{gpu}.cache", owner=owner)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
