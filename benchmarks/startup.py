"""A start with engines of production size: its duration against one read of their bytes, and the time of its parts."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measuring import Comparison, alternate, seconds
from benchmarks.server import BUNDLE, ensure_bundle
from contract import digest, files, verification
from contract.manifest import MANIFEST_FILE, BundleManifest, EngineRecord, load
from demo.ports import free_ports, port_options
from runtime import checks, decision, repository
from runtime.__main__ import parse
from runtime.selection import Selection

GIGABYTES, ROUNDS = 2.0, 5
FOLDER = Path("dist/benchmarks")
_GIGABYTE = 10**9
_BLOCK_BYTES = 1 << 20
_POLL_SECONDS = 0.002
_TIMEOUT_SECONDS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The duration of some work: wall time, which depends on the load of the machine, and processor time."""

    wall_seconds: float
    cpu_seconds: float


def measure() -> list[Comparison]:
    """Compare whole starts and their parts with one read, cold and warm, and hashing with that of openssl."""
    ensure_bundle()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="startup-") as name:
        folder = Path(name)
        manifest = write_large_bundle(folder / "embedded" / "cpu")
        paths = [folder / "embedded" / "cpu" / engine.file for engine in manifest.engines]
        return [
            *_start(folder, paths, "from the disk", drop_from_page_cache),
            *_start(folder, paths, "from memory", read),
            *_parts(folder, paths),
            _hashing(folder / "embedded" / "cpu", manifest, paths),
        ]


def write_large_bundle(folder: Path) -> BundleManifest:
    """Write a bundle like that of this machine, with random bytes in equal shares in place of its engines."""
    manifest = load(BUNDLE)
    served = [engine for engine in manifest.engines if engine.mode == "batch"]
    size = int(GIGABYTES * _GIGABYTE / len(served))
    engines = tuple(_random(folder, engine, size) for engine in served)
    large = replace(manifest, engines=engines, files=(), accuracy=(), signature=None)
    files.write(folder / MANIFEST_FILE, large.to_json())
    return large


def read(paths: list[Path]) -> None:
    """Read files once, in as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_read, paths))


def drop_from_page_cache(paths: list[Path]) -> None:
    """Drop files from the page cache, so that the next reader waits for the disk."""
    os.sync()
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_to_exec(command: list[str]) -> Cost:
    """Start a server and kill it at its exec of tritonserver; raise CalledProcessError when that does not come."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    image = Path(f"/proc/{child.pid}/exe")
    while child.poll() is None and image.resolve().name != "tritonserver":
        if time.perf_counter() - started > _TIMEOUT_SECONDS:
            break
        time.sleep(_POLL_SECONDS)
    wall = time.perf_counter() - started
    alive = child.poll() is None
    before = _children_seconds()
    child.kill()
    child.wait()
    if not alive or wall > _TIMEOUT_SECONDS:
        raise subprocess.CalledProcessError(child.returncode, command)
    return Cost(wall_seconds=wall, cpu_seconds=_children_seconds() - before)


def _start(
    folder: Path, paths: list[Path], where: str, before: Callable[[list[Path]], object]
) -> tuple[Comparison, Comparison]:
    command = [sys.executable, "-m", "runtime", "--platform", "embedded", "--engines", str(folder)]
    command += ["--repository", str(folder / "repository")]
    command += port_options(free_ports())

    def once(work: Callable[[], Cost]) -> Cost:
        before(paths)
        return work()

    pairs = alternate(
        ROUNDS, lambda: once(lambda: _cost(lambda: read(paths))), lambda: once(lambda: run_to_exec(command))
    )
    title = f"a start with {GIGABYTES:g} GB of engines {where}, to the exec of tritonserver"
    walls = [(first.wall_seconds, second.wall_seconds) for first, second in pairs]
    spent = [(first.cpu_seconds, second.cpu_seconds) for first, second in pairs]
    return (
        Comparison.of_pairs(walls, title=title, unit="seconds", first="one read", second="the start"),
        Comparison.of_pairs(spent, title=title, unit="CPU seconds", first="one read", second="the start"),
    )


def _hashing(bundle: Path, manifest: BundleManifest, paths: list[Path]) -> Comparison:
    rate = GIGABYTES
    openssl = ["openssl", "dgst", "-sha256", *map(str, paths)]
    pairs = alternate(
        ROUNDS,
        lambda: rate / seconds(lambda: subprocess.run(openssl, check=True, stdout=subprocess.DEVNULL)),
        lambda: rate / seconds(lambda: verification.check(bundle, manifest)),
    )
    title = "hashing a bundle in memory"
    return Comparison.of_pairs(
        pairs, title=title, unit="GB a second", first="openssl dgst -sha256", second="verification"
    )


def _parts(folder: Path, paths: list[Path]) -> list[Comparison]:
    settings = parse(["--platform", "embedded", "--engines", str(folder), "--repository", str(folder / "parts")])
    chosen: Selection = decision.observe(settings, os.environ).selection_or_raise()
    place = folder / "part"
    parts: dict[str, Callable[[], object]] = {
        "process start": lambda: subprocess.run(
            [sys.executable, "-m", "runtime", "--help"], check=True, stdout=subprocess.DEVNULL
        ),
        "decision": lambda: decision.observe(settings, os.environ),
        "render": lambda: repository.render(repository.configurations(chosen, settings.threads), place),
        "hash": lambda: checks.verify(chosen),
        "copy and hash": lambda: _copy(chosen, place),
    }

    def compare(name: str, work: Callable[[], object]) -> Comparison:
        def part() -> float:
            shutil.rmtree(place, ignore_errors=True)
            return seconds(work)

        pairs = alternate(ROUNDS, lambda: seconds(lambda: read(paths)), part)
        title = "part of a start from memory"
        return Comparison.of_pairs(pairs, title=title, unit="seconds", first="one read", second=name)

    return [compare(name, work) for name, work in parts.items()]


def _copy(chosen: Selection, place: Path) -> None:
    repository.render(repository.configurations(chosen, threads=1), place)
    for bundle in repository.sources(chosen):
        verification.check(bundle.folder, bundle.manifest, repository.placer(chosen, place))


def _cost(work: Callable[[], object]) -> Cost:
    before = time.process_time()
    wall = seconds(work)
    return Cost(wall_seconds=wall, cpu_seconds=time.process_time() - before)


def _children_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


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
