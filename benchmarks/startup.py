"""A start with engines of production size: what it takes against one read of their bytes, and where the time goes."""

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

from benchmarks.measuring import Comparison, in_turns, seconds
from benchmarks.server import BUNDLE, make_bundle
from contract import digest, files, verification
from contract.manifest import MANIFEST_FILE, BundleManifest, EngineRecord, load
from demo.ports import free_ports
from runtime import checks, decision, repository
from runtime.__main__ import parse
from runtime.selection import Selection

GIGABYTES, ROUNDS = 2.0, 5
PLACE = Path("dist/benchmarks")
_GIGABYTE = 10**9
_BLOCK_BYTES = 1 << 20
_LOOK_SECONDS = 0.002
_MOST_SECONDS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a piece of work took: by the clock, which other work on the machine lengthens, and of the processors."""

    wall_seconds: float
    cpu_seconds: float


def measure() -> list[Comparison]:
    """Compare whole starts and their parts with one read, cold and warm, and hashing with openssl's."""
    make_bundle()
    PLACE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE, prefix="startup-") as name:
        folder = Path(name)
        manifest = enlarged(folder / "embedded" / "cpu")
        paths = [folder / "embedded" / "cpu" / engine.file for engine in manifest.engines]
        return [
            *_start(folder, paths, "from the disk", forget),
            *_start(folder, paths, "from memory", read),
            *_parts(folder, paths),
            _hashing(folder / "embedded" / "cpu", manifest, paths),
        ]


def enlarged(folder: Path) -> BundleManifest:
    """Write a bundle like this machine's own, each engine random bytes of the same share of the whole."""
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


def forget(paths: list[Path]) -> None:
    """Drop files from the memory of the system, so that the next reader waits for the disk."""
    os.sync()
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def to_exec(command: list[str]) -> Cost:
    """Start a server and end it when it becomes tritonserver; raise CalledProcessError if it never does."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    image = Path(f"/proc/{child.pid}/exe")
    while child.poll() is None and image.resolve().name != "tritonserver":
        if time.perf_counter() - started > _MOST_SECONDS:
            break
        time.sleep(_LOOK_SECONDS)
    wall = time.perf_counter() - started
    alive = child.poll() is None
    before = _children_seconds()
    child.kill()
    child.wait()
    if not alive or wall > _MOST_SECONDS:
        raise subprocess.CalledProcessError(child.returncode, command)
    return Cost(wall_seconds=wall, cpu_seconds=_children_seconds() - before)


def _start(
    folder: Path, paths: list[Path], where: str, before: Callable[[list[Path]], object]
) -> tuple[Comparison, Comparison]:
    command = [sys.executable, "-m", "runtime", "--platform", "embedded", "--engines", str(folder)]
    command += ["--repository", str(folder / "repository")]
    command += [text for name, port in free_ports().items() for text in (f"--{name}-port", str(port))]

    def once(work: Callable[[], Cost]) -> Cost:
        before(paths)
        return work()

    pairs = in_turns(ROUNDS, lambda: once(lambda: _cost(lambda: read(paths))), lambda: once(lambda: to_exec(command)))
    title = f"a start with {GIGABYTES:g} GB of engines {where}, to the exec of tritonserver"
    walls = [(first.wall_seconds, second.wall_seconds) for first, second in pairs]
    spent = [(first.cpu_seconds, second.cpu_seconds) for first, second in pairs]
    return (
        _comparison(title, "seconds", walls, "one read", "the start"),
        _comparison(title, "CPU seconds", spent, "one read", "the start"),
    )


def _hashing(bundle: Path, manifest: BundleManifest, paths: list[Path]) -> Comparison:
    rate = GIGABYTES
    openssl = ["openssl", "dgst", "-sha256", *map(str, paths)]
    pairs = in_turns(
        ROUNDS,
        lambda: rate / seconds(lambda: subprocess.run(openssl, check=True, stdout=subprocess.DEVNULL)),
        lambda: rate / seconds(lambda: verification.check(bundle, manifest)),
    )
    return _comparison("hashing a bundle in memory", "GB a second", pairs, "openssl dgst -sha256", "verification")


def _parts(folder: Path, paths: list[Path]) -> list[Comparison]:
    settings = parse(["--platform", "embedded", "--engines", str(folder), "--repository", str(folder / "parts")])
    chosen: Selection = decision.observe(settings, os.environ).agreed()
    place = folder / "part"
    parts: dict[str, Callable[[], object]] = {
        "process start": lambda: subprocess.run(
            [sys.executable, "-m", "runtime", "--help"], check=True, stdout=subprocess.DEVNULL
        ),
        "decision": lambda: decision.observe(settings, os.environ),
        "render": lambda: repository.render(repository.configurations(chosen, settings.threads), place),
        "link": lambda: _link(chosen, place),
        "hash": lambda: checks.verify(chosen),
    }

    def compare(name: str, work: Callable[[], object]) -> Comparison:
        def part() -> float:
            shutil.rmtree(place, ignore_errors=True)
            return seconds(work)

        pairs = in_turns(ROUNDS, lambda: seconds(lambda: read(paths)), part)
        return _comparison("part of a start from memory", "seconds", pairs, "one read", name)

    return [compare(name, work) for name, work in parts.items()]


def _link(chosen: Selection, place: Path) -> None:
    for choice in chosen.chosen:
        files.link_or_copy(choice.bundle.folder / choice.record.file, place / choice.model.name)


def _cost(work: Callable[[], object]) -> Cost:
    before = time.process_time()
    wall = seconds(work)
    return Cost(wall_seconds=wall, cpu_seconds=time.process_time() - before)


def _children_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


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
