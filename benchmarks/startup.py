"""A start with engines of production size: what it takes against one read of their bytes, and where the time goes."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from benchmarks.measuring import Comparison, in_turns, seconds
from benchmarks.server import BUNDLE, make_bundle
from contract import digest, files, verification
from contract.manifest import MANIFEST_FILE, BundleManifest, EngineRecord, load
from runtime import decision, repository
from runtime.__main__ import parse
from runtime.selection import Selection

GIGABYTES, ROUNDS = 2.0, 5
PLACE = Path("dist/benchmarks")
_GIGABYTE = 10**9
_BLOCK_BYTES = 1 << 20


def measure() -> list[Comparison]:
    """Compare whole starts with one read, cold and warm, and hashing with openssl's."""
    make_bundle()
    PLACE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE, prefix="startup-") as name:
        folder = Path(name)
        manifest = enlarged(folder / "embedded" / "cpu")
        paths = [folder / "embedded" / "cpu" / engine.file for engine in manifest.engines]
        return [
            _start(folder, paths, "from the disk", forget),
            _start(folder, paths, "from memory", lambda _: None),
            _hashing(folder / "embedded" / "cpu", manifest, paths),
            _steps(folder, paths),
        ]


def enlarged(folder: Path) -> BundleManifest:
    """Write a bundle like this machine's own, each engine random bytes of the same share of the whole."""
    manifest = load(BUNDLE)
    size = int(GIGABYTES * _GIGABYTE / len(manifest.engines))
    engines = tuple(_random(folder, engine, size) for engine in manifest.engines)
    large = replace(manifest, engines=engines, files=(), accuracy=(), signature=None)
    files.write(folder / MANIFEST_FILE, large.to_json())
    return large


def read(paths: list[Path]) -> None:
    """Read files once, in as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_read, paths))


def forget(paths: list[Path]) -> None:
    """Drop files from the memory of the system, so that the next reader waits for the disk."""
    os.sync()
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _start(folder: Path, paths: list[Path], where: str, before: Callable[[list[Path]], None]) -> Comparison:
    command = [sys.executable, "-m", "runtime", "--platform", "embedded", "--engines", str(folder), "--assemble-only"]
    command += ["--repository", str(folder / "repository")]

    def once(work: Callable[[], object]) -> float:
        before(paths)
        return seconds(work)

    pairs = in_turns(
        ROUNDS,
        lambda: once(lambda: read(paths)),
        lambda: once(lambda: subprocess.run(command, check=True, stderr=subprocess.DEVNULL)),
    )
    return _comparison(f"a start with {GIGABYTES:g} GB of engines {where}", "seconds", pairs, "one read", "the start")


def _hashing(bundle: Path, manifest: BundleManifest, paths: list[Path]) -> Comparison:
    rate = GIGABYTES
    openssl = ["openssl", "dgst", "-sha256", *map(str, paths)]
    pairs = in_turns(
        ROUNDS,
        lambda: rate / seconds(lambda: subprocess.run(openssl, check=True, stdout=subprocess.DEVNULL)),
        lambda: rate / seconds(lambda: verification.check(bundle, manifest)),
    )
    return _comparison("hashing a bundle in memory", "GB a second", pairs, "openssl dgst -sha256", "verification")


def _steps(folder: Path, paths: list[Path]) -> Comparison:
    """Split an assembly in this process: all of it, and its hashing alone; the rest links and renders."""
    settings = parse(["--platform", "embedded", "--engines", str(folder), "--repository", str(folder / "steps")])
    chosen: Selection = decision.observe(settings, os.environ).agreed()
    read(paths)

    def check() -> None:
        for bundle in repository.sources(chosen):
            verification.check(bundle.folder, bundle.manifest)

    pairs = in_turns(
        ROUNDS,
        lambda: seconds(check),
        lambda: seconds(lambda: repository.assemble(chosen, settings.repository, settings.threads)),
    )
    return _comparison("assembling the repository", "seconds", pairs, "hashing alone", "hashing, linking, rendering")


def _comparison(title: str, unit: str, pairs: list[tuple[float, float]], first: str, second: str) -> Comparison:
    return Comparison(
        title=title,
        unit=unit,
        first_name=first,
        first=tuple(pair[0] for pair in pairs),
        second_name=second,
        second=tuple(pair[1] for pair in pairs),
    )


def _random(folder: Path, engine: EngineRecord, size: int) -> EngineRecord:
    path = folder / engine.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for left in range(size, 0, -_BLOCK_BYTES):
            file.write(os.urandom(min(left, _BLOCK_BYTES)))
    return replace(engine, sha256=digest.of_file(path), size_bytes=size, files=())


def _read(path: Path) -> None:
    block = bytearray(_BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass
