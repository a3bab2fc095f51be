"""Check the files of a bundle against its manifest: none changed, missing, unlisted or linked from elsewhere."""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from contract import digest
from contract.errors import BundleError, ManifestError, SettingError, SignatureError
from contract.manifest import MANIFEST_FILE, BundleFile, BundleManifest, load
from contract.signature import Verdict

_REBUILD = "Build the bundle again with `python -m build.engines`, or copy it again from an intact source"
# Reading and hashing release the interpreter's lock: while one thread of a core waits for the disk, the other hashes.
# More threads than the maximum only spend memory, a block each.
_THREADS_PER_CORE, _MAX_THREADS = 2, 32
_READ_ERRNOS = frozenset({errno.EIO, errno.ESTALE})
Reader = Callable[[Path], str]
"""Reads a file to its end and returns its SHA-256."""


def check(bundle: Path, manifest: BundleManifest, read: Reader = digest.of_file) -> None:
    """Raise BundleError that names the first file that does not match the manifest, and how many others do not.

    `read` is called once for each file that exists and has the listed size, from several threads.
    """
    found = list(findings(bundle, manifest, read))
    if found:
        file, cause = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise BundleError(bundle / file, f"{cause}{more}", _REBUILD)


def check_outside_bundles(path: Path, setting: str) -> None:
    """Raise SettingError for an output inside of a bundle: its manifest would not list the new files."""
    whole = path.resolve()
    for folder in (whole, *whole.parents):
        if _is_bundle(folder):
            cause = f"it is in the bundle {folder}, whose manifest contains the hash of every file"
            raise SettingError(f"{setting} {path}", cause, "Choose a place outside the bundle")


def _is_bundle(folder: Path) -> bool:
    # Other programs have a file of this name, too.
    try:
        load(folder)
    except (BundleError, ManifestError, OSError):
        return False
    return True


def check_signature(bundle: Path, verdict: Verdict) -> None:
    """Raise SignatureError unless a bundle with this verdict may be used."""
    error = signature_error(bundle, verdict)
    if error is not None:
        raise error


def signature_error(bundle: Path, verdict: Verdict) -> SignatureError | None:
    """Return the error for a bundle with this verdict; None where the bundle may be used."""
    if verdict.is_acceptable:
        return None
    remedy = "Sign it with `python -m build.sign`, trust the key that signed it, or copy it from a trusted source"
    return SignatureError(bundle, verdict.value, remedy)


def findings(bundle: Path, manifest: BundleManifest, read: Reader = digest.of_file) -> Iterator[tuple[str, str]]:
    """Yield every file that does not match the manifest, with the cause; every byte is read once, in parallel."""
    conflicts = list(_conflicts(manifest))
    yield from conflicts
    if conflicts:
        return
    listed = {each.file: each for each in manifest.every_file()}
    yield from _unlisted_files(bundle, {*listed, MANIFEST_FILE})
    causes = _causes(bundle, listed.values(), read)
    yield from ((file, causes[file]) for file in listed if causes[file])


def _conflicts(manifest: BundleManifest) -> Iterator[tuple[str, str]]:
    """Yield the files of which a server could load only one: a path that is listed twice, or equal names of an engine.

    A server has all files of an engine in one folder.
    """
    paths = Counter(each.file for each in manifest.every_file())
    yield from ((path, "the manifest lists it twice") for path, count in paths.items() if count > 1)
    for engine in manifest.engines:
        names: set[str] = set()
        for each in engine.served_files():
            name = PurePosixPath(each.file).name
            if name in names:
                yield each.file, f"another file of the engine {engine.model} {engine.mode} has the same name"
            names.add(name)


def _causes(bundle: Path, listed: Iterable[BundleFile], read: Reader) -> dict[str, str]:
    threads = min(_MAX_THREADS, _THREADS_PER_CORE * len(os.sched_getaffinity(0)))
    # Each file is read by one thread: if the largest came last, the other cores would wait for it.
    largest_first = sorted(listed, key=lambda each: each.size_bytes, reverse=True)
    with ThreadPoolExecutor(threads) as pool:
        causes = pool.map(lambda each: _cause(bundle, each, read), largest_first)
        return {each.file: cause for each, cause in zip(largest_first, causes, strict=True)}


def _unlisted_files(bundle: Path, known: set[str]) -> Iterator[tuple[str, str]]:
    for folder, folders, names in os.walk(bundle):
        for name in sorted([*folders, *names]):
            path = Path(folder, name)
            file = path.relative_to(bundle).as_posix()
            if path.is_symlink():
                yield file, f"it is a symbolic link to {path.readlink()}, and a bundle may hold only regular files"
            elif name in names and file not in known:
                yield file, "the manifest does not list it"


def _cause(bundle: Path, listed: BundleFile, read: Reader) -> str:
    path = bundle / listed.file
    if path.is_symlink():
        return ""  # _unlisted_files reports it
    if not path.is_file():
        return "it is missing"
    try:
        return _difference(path, listed, read)
    except PermissionError:
        return "this user has no permission to read it"
    except FileNotFoundError:
        return "it was removed while it was read"
    except OSError as error:
        # A reader also writes the file elsewhere: a full disk there is no defect of the bundle.
        if error.errno not in _READ_ERRNOS:
            raise
        return f"it cannot be read ({error.strerror})"


def _difference(path: Path, listed: BundleFile, read: Reader) -> str:
    size = path.stat().st_size
    if size != listed.size_bytes:
        return f"it has {size} bytes, and the manifest states {listed.size_bytes}"
    return "" if read(path) == listed.sha256 else "its content does not match the manifest"
