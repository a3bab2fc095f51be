"""Holds the files of a bundle against its manifest: none changed, none missing, none beside them, none elsewhere."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from contract import digest
from contract.errors import BundleError, SignatureError
from contract.manifest import MANIFEST_FILE, BundleFile, BundleManifest
from contract.signature import Verdict

_REBUILD = "Build the bundle again with `python -m build.engines`, or copy it again from where it is whole"
# Reading and hashing let go of the interpreter's lock: while some threads wait for the disk, as many others hash as
# there are cores. More than the most only spend memory, a block each.
_THREADS_A_CORE, _MOST_THREADS = 2, 32
Reader = Callable[[Path], str]
"""Reads a file to its end, and gives its SHA-256."""


def check(bundle: Path, manifest: BundleManifest, read: Reader = digest.of_file) -> None:
    """Raise BundleError that names the first file which is not what the manifest says, and how many there are.

    `read` is asked once for each file that is there and as long as it should be, from several threads.
    """
    found = list(findings(bundle, manifest, read))
    if found:
        file, cause = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise BundleError(bundle / file, f"{cause}{more}", _REBUILD)


def check_signature(bundle: Path, verdict: Verdict) -> None:
    """Raise SignatureError unless a bundle with this verdict may be used."""
    refusal = signature_refusal(bundle, verdict)
    if refusal is not None:
        raise refusal


def signature_refusal(bundle: Path, verdict: Verdict) -> SignatureError | None:
    """Say why a bundle with this verdict may not be used; None where it may."""
    if verdict.is_acceptable:
        return None
    remedy = "Sign it with `python -m build.sign`, trust the key that signed it, or take it from where it is genuine"
    return SignatureError(bundle, verdict.value, remedy)


def findings(bundle: Path, manifest: BundleManifest, read: Reader = digest.of_file) -> Iterator[tuple[str, str]]:
    """List every file that is not as it should be, with what is wrong; every byte is read once, in parallel."""
    wanted = {each.file: each for each in manifest.every_file()}
    yield from _unlisted_files(bundle, {*wanted, MANIFEST_FILE})
    causes = _causes(bundle, wanted.values(), read)
    yield from ((file, causes[file]) for file in wanted if causes[file])


def _causes(bundle: Path, wanted: Iterable[BundleFile], read: Reader) -> dict[str, str]:
    threads = min(_MOST_THREADS, _THREADS_A_CORE * len(os.sched_getaffinity(0)))
    # One thread reads a file: were the largest the last, the other cores would wait for it.
    largest_first = sorted(wanted, key=lambda each: each.size_bytes, reverse=True)
    with ThreadPoolExecutor(threads) as pool:
        causes = pool.map(lambda each: _cause(bundle, each, read), largest_first)
        return {each.file: cause for each, cause in zip(largest_first, causes, strict=True)}


def _unlisted_files(bundle: Path, known: set[str]) -> Iterator[tuple[str, str]]:
    for folder, folders, names in os.walk(bundle):
        for name in sorted([*folders, *names]):
            path = Path(folder, name)
            file = path.relative_to(bundle).as_posix()
            if path.is_symlink():
                yield file, f"it is a link to {path.readlink()}, and a bundle holds files only"
            elif name in names and file not in known:
                yield file, "the manifest does not name it"


def _cause(bundle: Path, wanted: BundleFile, read: Reader) -> str:
    path = bundle / wanted.file
    if path.is_symlink():
        return ""  # said already
    if not path.is_file():
        return "it is missing"
    size = path.stat().st_size
    if size != wanted.size_bytes:
        return f"it has {size} bytes, and the manifest says {wanted.size_bytes}"
    try:
        return "" if read(path) == wanted.sha256 else "its content is not what the manifest says"
    except PermissionError:
        return "this user may not read it"
