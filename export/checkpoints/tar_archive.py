"""Read a tar archive that others made, within limits; nothing is written to a path that the archive names."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath

from contract import files
from contract.errors import CheckpointError
from export.checkpoints.weights import DAMAGED

MOST_MEMBERS = 1_000
LARGEST_TEXT_BYTES = 64 << 20
"""The largest member that is read into memory."""
# Weights hardly compress: what expands further than this is a bomb.
MOST_EXPANSION = 100
_FOREIGN = "Use an archive that NeMo's save_to wrote"
_ERRORS = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)
# Long names and other additions to a header, which tarfile reads into memory as a whole.
_ADDITIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_LARGEST_ADDITION_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20


class _Member(tarfile.TarInfo):
    """A header that is refused, before its data are read, when it announces a very long name or comment."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        """Return the header of a block of 512 bytes; raise tarfile.ReadError for such a one."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in _ADDITIONS and found.size > _LARGEST_ADDITION_BYTES:
            raise tarfile.ReadError(f"a header of {found.size} bytes")
        return found


class Archive:
    """An open archive whose members have been checked."""

    def __init__(self, path: Path, archive: tarfile.TarFile) -> None:
        self.path, self._archive = path, archive
        self._members = _checked(path, archive)

    def names(self) -> list[str]:
        """Return the names of the files."""
        return list(self._members)

    def read(self, name: str) -> bytes:
        """Return the content of a small file; raise CheckpointError when it is missing or large."""
        member = self._member(name)
        if member.size > LARGEST_TEXT_BYTES:
            cause = f"its file {name} has {member.size} bytes, more than {LARGEST_TEXT_BYTES}"
            raise CheckpointError(self.path, cause, _FOREIGN)
        with _damage(self.path):
            source = self._archive.extractfile(member)
            return b"" if source is None else source.read()

    def extract(self, name: str, target: Path) -> None:
        """Write a file to a path of the caller's; raise OutputError where that fails."""
        with files.writing(target), target.open("wb") as file:
            for block in self._blocks(self._member(name)):
                file.write(block)

    def _blocks(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        with _damage(self.path):
            source = self._archive.extractfile(member)
        while source is not None:
            with _damage(self.path):
                block = source.read(_BLOCK_BYTES)
            if not block:
                return
            yield block

    def _member(self, name: str) -> tarfile.TarInfo:
        if name not in self._members:
            raise CheckpointError(self.path, f"it holds no file {name}", _FOREIGN)
        return self._members[name]


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a plain or compressed tar; raise CheckpointError for one that is damaged, hostile or too large."""
    with ExitStack() as stack:
        with _damage(path):
            archive = stack.enter_context(tarfile.open(path, tarinfo=_Member))
        yield Archive(path, archive)


def first_names(path: Path, count: int) -> list[str]:
    """Return the names of the first members of a tar; none for any other file.

    Members behind the limit of expansion are not listed: to find the next one, a compressed one is unpacked.
    """
    most_bytes, total = path.stat().st_size * MOST_EXPANSION, 0
    found: list[str] = []
    try:
        with tarfile.open(path, tarinfo=_Member) as archive:
            for member in islice(archive, count):
                found.append(_name(member))
                total += member.size
                if total > most_bytes:
                    break
    except _ERRORS:
        return []
    return found


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(path, f"it is a damaged archive ({line.removesuffix(':')})", DAMAGED) from error


def _checked(path: Path, archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    most_bytes, total = path.stat().st_size * MOST_EXPANSION, 0
    found: dict[str, tarfile.TarInfo] = {}
    with _damage(path):
        # One by one: a bomb is refused at its header, before it is unpacked to find the next one.
        for count, member in enumerate(archive, 1):
            name, total = _name(member), total + member.size
            if count > MOST_MEMBERS:
                raise CheckpointError(path, f"it has more than {MOST_MEMBERS} members", _FOREIGN)
            if total > most_bytes:
                raise CheckpointError(path, f"it expands to more than {MOST_EXPANSION} times its size", _FOREIGN)
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise CheckpointError(path, f"its member {name!r} leads out of the archive", _FOREIGN)
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise CheckpointError(path, f"its member {name!r} is not a plain file", _FOREIGN)
            if name in found:
                raise CheckpointError(path, f"it has two members {name!r}", _FOREIGN)
            found[name] = member
    return found


def _name(member: tarfile.TarInfo) -> str:
    return member.name.removeprefix("./")
