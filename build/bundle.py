"""Makes a bundle: every engine compiled, gated and recorded, or taken over when nothing that decides it changed."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from build import gate, keys, quantisation, report, store, words
from build.compilers import Compiler, compiler
from build.job import Job
from build.options import Options
from contract import digest, files, verification
from contract.arch import Arch
from contract.differences import closest
from contract.errors import BundleError, CompileError, GraphError, ManifestError
from contract.manifest import MANIFEST_FILE, BundleFile, BundleManifest, Change, EngineRecord, Gate, load
from contract.platform import Platform

UNCHANGED, FROM_STORE, BUILT = "unchanged", "from the store", "built"
Place = tuple[str, str]
"""A model and a mode: where an engine stands in a bundle."""
Say = Callable[[Job, EngineRecord, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where a bundle goes and what makes it."""

    folder: Path
    platform: Platform
    arch: Arch
    compiler: Compiler
    store: Path
    options: Options = field(default_factory=Options)
    force: bool = False
    processes: int = 1
    """How many engines are made at once; on a GPU one, since timing tactics beside another build misleads it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What is to be done for one engine of a bundle: all that decides it, and what the bundle holds in its place."""

    job: Job
    parts: dict[str, Any]
    known: EngineRecord | None

    @property
    def key(self) -> str:
        """Give the engine's key."""
        return digest.of_value(self.parts)

    @property
    def place(self) -> Place:
        """Say where the engine stands in the bundle."""
        return self.job.record.model, self.job.mode.name

    def changes(self) -> tuple[Change, ...]:
        """List what changed since the engine in the bundle was made."""
        return keys.changes(self.known.key_parts, self.parts) if self.known else ()


def steps(target: Target, jobs: Sequence[Job]) -> list[Step]:
    """Say what a bundle would be made of, without making anything. Raises GraphError for a damaged graph."""
    for job in jobs:
        check_graph(job)
    old, toolchain = _engines(_old_bundle(target.folder)), target.compiler.toolchain()
    return [
        Step(
            job=job,
            parts=job.key_parts(target.compiler.NAME, toolchain, _options(target, job)),
            known=old.get((job.record.model, job.mode.name)),
        )
        for job in jobs
    ]


def _options(target: Target, job: Job) -> dict[str, Any]:
    return target.compiler.options(target.options) | quantisation.options(job, target.compiler.NAME)


def source(target: Target, step: Step) -> str | None:
    """Say where an engine would be taken from; None for one that would be built."""
    if target.force:
        return None
    if step.known is not None and step.known.key == step.key and _is_whole(target.folder, step.known):
        return UNCHANGED
    return FROM_STORE if store.find(target.store, step.key) else None


def make(target: Target, jobs: Sequence[Job], say: Say) -> BundleManifest:
    """Make or renew a bundle in one step; `say` hears of every engine as it is done.

    Engines of models that no job is about stay as they are, and so does a bundle of which nothing changed: with its
    report and its signature. Raises GraphError, CompileError or GateError, and then leaves the old bundle untouched;
    what was built before the failure is in the store.
    """
    target.compiler.prepare(target.options)
    planned = steps(target, jobs)
    # A folder that nobody may write to is better found before hours of building than after.
    target.folder.parent.mkdir(parents=True, exist_ok=True)
    before, toolchain = _old_bundle(target.folder), target.compiler.toolchain()
    old = _engines(before)
    made: dict[Place, EngineRecord] = {}
    outcomes: dict[Place, str] = {}
    for step, (record, outcome) in zip(planned, _obtained(target, toolchain, planned), strict=True):
        made[step.place], outcomes[step.place] = record, outcome
        say(step.job, record, outcome)
    for place, record in old.items():
        # An engine of an older toolchain must not end up under a manifest that names the new one.
        same_tools = record.key_parts.get("toolchain") == toolchain
        if place not in made and same_tools and _is_whole(target.folder, record):
            made[place] = record
    if before is not None and made == old and _holds(target.folder, before):
        return before
    manifest = BundleManifest(
        platform=target.platform.name,
        arch=target.arch,
        toolchain=toolchain,
        engines=tuple(record for _, record in sorted(made.items())),
    )
    known = words.Before(
        accuracy=before.accuracy if before else (),
        anew={place for place, outcome in outcomes.items() if outcome != UNCHANGED},
    )
    built = [place for place, outcome in outcomes.items() if outcome == BUILT]
    return _write(target, manifest, known, built, jobs[0].folder.parent)


def _write(
    target: Target, manifest: BundleManifest, known: words.Before, built: Sequence[Place], onnx: Path
) -> BundleManifest:
    with files.replacing(target.folder) as staging:
        for record in manifest.engines:
            store.link(store.holding(target.store, record) or target.folder, record, staging)
        accuracy = words.measure(staging, _engines(manifest), onnx, target.compiler, known)
        manifest = replace(manifest, accuracy=accuracy)
        manifest = report.add(manifest, _run(manifest, built), staging)
        files.write(staging / MANIFEST_FILE, manifest.to_json())
    return manifest


def check_graph(job: Job) -> None:
    """Raise GraphError unless the job's graphs are there and are what their record says."""
    for precision in dict.fromkeys(("fp32", job.exported)):
        graph = job.graph_file(precision)
        path = job.folder / graph.file
        remedy = f"Run `python -m export --model {job.record.model} --force`"
        if not path.is_file():
            raise GraphError(path, "the file is missing", remedy)
        if digest.of_file(path) != graph.sha256:
            raise GraphError(path, "it is damaged: its content is not what the export record says", remedy)


def _old_bundle(folder: Path) -> BundleManifest | None:
    try:
        return load(folder)
    except (BundleError, ManifestError):
        # Nothing there, or nothing of use: everything is built anew.
        return None


def _engines(manifest: BundleManifest | None) -> dict[Place, EngineRecord]:
    return {(record.model, record.mode): record for record in manifest.engines} if manifest else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """What a process needs to make an engine; it finds the compiler by its name, since no module can be sent to it."""

    step: Step
    platform: str
    toolchain: dict[str, str]
    compiler: str
    options: Options
    bundle: Path
    store: Path
    force: bool


def _obtained(target: Target, toolchain: dict[str, str], planned: Sequence[Step]) -> Iterator[tuple[EngineRecord, str]]:
    orders = [
        _Order(
            step=step,
            platform=target.platform.name,
            toolchain=toolchain,
            compiler=target.compiler.NAME,
            options=target.options,
            bundle=target.folder,
            store=target.store,
            force=target.force,
        )
        for step in planned
    ]
    with ExitStack() as stack:
        if target.processes == 1 or len(orders) == 1:
            yield from map(_obtain, orders)
            return
        context = get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(target.processes, mp_context=context))
        # The first failure is reported at once: what has not begun by then never begins.
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        yield from pool.map(_obtain, orders)


def _obtain(order: _Order) -> tuple[EngineRecord, str]:
    """Give an engine's record, the engine being in the store from then on, and where it came from."""
    step, known = order.step, order.step.known
    with store.locked(order.store, step.key):
        entry = None if order.force else store.find(order.store, step.key)
        if known is not None and known.key == step.key and not order.force and _is_whole(order.bundle, known):
            if entry is None:
                store.adopt(order.store, order.bundle, _alone(order, known))
            return known, UNCHANGED
        if entry:
            return replace(entry.record, changes=step.changes()), FROM_STORE
        with files.replacing(store.entry_folder(order.store, step.key)) as staging:
            record = replace(_made(order, staging), changes=step.changes())
            store.add(staging, _alone(order, record))
    return record, BUILT


def _alone(order: _Order, record: EngineRecord) -> BundleManifest:
    arch = Arch(order.step.parts["arch"])
    return BundleManifest(platform=order.platform, arch=arch, toolchain=order.toolchain, engines=(record,))


def _made(order: _Order, staging: Path) -> EngineRecord:
    job, parts = order.step.job, order.step.parts
    chosen = compiler(order.compiler, job.arch)
    file = f"{job.record.model}/{job.mode.name}/{chosen.FILE}"
    path = staging / file
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with quantisation.prepared(job, chosen.NAME) as ready:
        compiled = chosen.compile(ready, path, order.options)
    seconds = time.monotonic() - started
    _check_tensors(job, {tensor.name: tensor.type for tensor in (*compiled.inputs, *compiled.outputs)})
    return EngineRecord(
        model=job.record.model,
        family=job.record.family,
        operating_point=job.record.operating_point,
        mode=job.mode.name,
        file=file,
        sha256=digest.of_file(path),
        size_bytes=path.stat().st_size,
        key=digest.of_value(parts),
        key_parts=parts,
        compiler=chosen.NAME,
        precision=job.precision,
        max_batch=job.mode.batch.max,
        inputs=compiled.inputs,
        outputs=compiled.outputs,
        dims=job.record.dims,
        parameters=job.record.parameters,
        build_seconds=round(seconds, 3),
        gate=gate.check(job, chosen, path),
        profiles=compiled.profiles,
        device_memory_bytes=compiled.device_memory_bytes,
        built_on=chosen.host(),
        files=tuple(_bundle_file(staging, each) for each in compiled.files),
    )


def _bundle_file(folder: Path, path: Path) -> BundleFile:
    file = path.relative_to(folder).as_posix()
    return BundleFile(file=file, sha256=digest.of_file(path), size_bytes=path.stat().st_size)


def _run(manifest: BundleManifest, built: Sequence[Place]) -> report.Run:
    places = [(record, (record.model, record.mode) in built) for record in manifest.engines]
    return report.Run.here(
        built=(report.place(record) for record, is_new in places if is_new),
        reused=(report.place(record) for record, is_new in places if not is_new),
    )


def gate_summary(result: Gate) -> str:
    """Say in a few words what the gate saw: how it ended, and the output that came closest to its limit."""
    worst = closest(result.parity)
    return f"gate {result.outcome}: {worst}" if worst else f"compiled; gate {result.outcome}"


def _is_whole(folder: Path, record: EngineRecord) -> bool:
    return all(
        (folder / each.file).is_file() and digest.of_file(folder / each.file) == each.sha256
        for each in store.engine_files(record)
    )


def _holds(folder: Path, manifest: BundleManifest) -> bool:
    try:
        verification.check(folder, manifest)
    except BundleError:
        return False
    return True


def _check_tensors(job: Job, found: dict[str, str]) -> None:
    wanted = {tensor.name: tensor.type for tensor in (*job.family.inputs, *job.family.outputs)}
    if found != wanted:
        cause = f"the engine's tensors are {found}, and the catalogue's are {wanted}"
        raise CompileError(job.name, cause, "Make export and catalogue agree on names and types")
