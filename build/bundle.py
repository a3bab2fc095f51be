"""Build a bundle: compile, gate and record every engine, or reuse one whose key has not changed."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from build import gate, keys, locks, quantisation, report, store, wer_gate
from build.compilers import Compiler, compiler
from build.job import Job
from build.options import Options
from contract import digest, files, verification
from contract.arch import Arch
from contract.catalogue import Catalogue
from contract.differences import closest
from contract.errors import BundleError, CompileError, GraphError, ManifestError, OutputError
from contract.manifest import MANIFEST_FILE, BundleFile, BundleManifest, Change, EngineRecord, Gate, load
from contract.platform import Platform

UNCHANGED, FROM_STORE, BUILT = "unchanged", "from the store", "built"
Place = tuple[str, str]
"""A model and a mode: the place of an engine in a bundle."""
OnEngine = Callable[[Job, EngineRecord, str], None]
"""Receives each finished engine: its job, its record and its outcome."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The folder of a bundle and what builds it."""

    folder: Path
    catalogue: Catalogue
    platform: Platform
    arch: Arch
    compiler: Compiler
    store: Path
    options: Options = field(default_factory=Options)
    force: bool = False
    processes: int = 1
    """How many engines are built in parallel. On a GPU: one, because a second build distorts the timing of kernels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One engine to build: its job, the parts of its key, and the record of the engine now in its place."""

    job: Job
    parts: dict[str, Any]
    known: EngineRecord | None

    @property
    def key(self) -> str:
        """Return the engine's key."""
        return digest.of_value(self.parts)

    @property
    def place(self) -> Place:
        """Return the place of the engine in the bundle."""
        return self.job.record.model, self.job.mode.name

    def changes(self) -> tuple[Change, ...]:
        """List the parts of the key that differ from those of the engine in the bundle."""
        return keys.changes(self.known.key_parts, self.parts) if self.known else ()


def steps(target: Target, jobs: Sequence[Job]) -> list[Step]:
    """List the engines of a bundle without building any.

    Raises GraphError for a damaged graph, and OutputError for a signed bundle of another precision (see
    `check_replaceable`).
    """
    for job in jobs:
        check_graph(job)
    return _planned(target, jobs)


def _planned(target: Target, jobs: Sequence[Job]) -> list[Step]:
    before, toolchain = _old_bundle(target.folder), target.compiler.toolchain()
    old = _engines(before)
    planned = [
        Step(
            job=job,
            parts=job.key_parts(target.compiler.NAME, toolchain, _options(target, job)),
            known=old.get((job.record.model, job.mode.name)),
        )
        for job in jobs
    ]
    check_replaceable(target, before, planned)
    return planned


def check_replaceable(target: Target, before: BundleManifest | None, planned: Sequence[Step]) -> None:
    """Raise OutputError for a signed bundle whose engines would be replaced by engines of another precision.

    A signature states that a person approved these engines. A forgotten or an additional `--precision` would replace
    most of them, so that such a build needs --force or another folder.
    """
    if before is None or before.signature is None or target.force:
        return
    for step in planned:
        if step.known is not None and step.known.precision != step.job.precision:
            name = f"{step.known.model} {step.known.mode}"
            cause = f"the bundle is signed, and this build would replace its {step.known.precision} engine {name} with"
            remedy = "Name another folder with --out, or replace the signed bundle with --force"
            raise OutputError(target.folder, f"{cause} {step.job.precision}", remedy)


def signing_key(folder: Path) -> str | None:
    """Return the key that signed the bundle in a folder; None for an unsigned bundle, or where there is none.

    It also reads the manifest of an older schema, so that the loss of its signature can be reported.
    """
    try:
        return str(json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["signature"]["key"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _options(target: Target, job: Job) -> dict[str, Any]:
    return target.compiler.options(target.options) | quantisation.options(job, target.compiler.NAME)


def source(target: Target, step: Step) -> str | None:
    """Return where an existing engine would be taken from; None for one that would be built."""
    if target.force:
        return None
    if step.known is not None and step.known.key == step.key and _is_intact_engine(target.folder, step.known):
        return UNCHANGED
    return FROM_STORE if store.find(target.store, step.key) else None


def make(target: Target, jobs: Sequence[Job], on_engine: OnEngine) -> BundleManifest:
    """Build or update a bundle in one step; call `on_engine` for every finished engine.

    Engines of models without a job stay as they are. A bundle in which nothing changed keeps its files, its report and
    its signature. When a signed bundle changes, its signature is dropped, and a line on stderr states it.
    Raises GraphError, CompileError, GateError or OutputError, and then leaves the old bundle untouched; engines that
    were built before the failure are in the store. A bundle that another command changes is an OutputError.
    """
    target.compiler.prepare(target.options)
    for job in jobs:
        check_graph(job)
    # Detect a folder that is not writable before hours of building, not after.
    files.make_folder(target.folder.parent)
    # A second build would read the same old manifest, and the later of the two would drop the engines of the other.
    with locks.bundle(target.folder), locks.store_in_use(target.store):
        return _update(target, jobs, on_engine)


def _update(target: Target, jobs: Sequence[Job], on_engine: OnEngine) -> BundleManifest:
    planned = _planned(target, jobs)
    before, toolchain = _old_bundle(target.folder), target.compiler.toolchain()
    old, signed_by = _engines(before), signing_key(target.folder)
    records: dict[Place, EngineRecord] = {}
    outcomes: dict[Place, str] = {}
    for step, (record, outcome) in zip(planned, _results(target, toolchain, planned), strict=True):
        records[step.place], outcomes[step.place] = record, outcome
        on_engine(step.job, record, outcome)
    for place, record in old.items():
        # An engine of an older toolchain must not end up under a manifest that names the new one.
        same_tools = record.key_parts.get("toolchain") == toolchain
        if place not in records and same_tools and _is_intact_engine(target.folder, record):
            records[place] = record
    records = {place: replace(record, languages=_languages(target, record)) for place, record in records.items()}
    onnx = jobs[0].folder.parent
    # Records alone do not decide: an engine that was built again may have a record that is equal to the old one.
    kept = BUILT not in outcomes.values() and records == old
    if before is not None and kept and _is_intact(target.folder, before) and _is_measured(target, before, onnx):
        return before
    manifest = BundleManifest(
        platform=target.platform.name,
        arch=target.arch,
        toolchain=toolchain,
        engines=tuple(record for _, record in sorted(records.items())),
    )
    previous = wer_gate.PreviousAccuracy(
        accuracy=before.accuracy if before else (),
        rebuilt={place for place, outcome in outcomes.items() if outcome != UNCHANGED},
    )
    built = [place for place, outcome in outcomes.items() if outcome == BUILT]
    manifest = _write(target, manifest, previous, built, onnx)
    if signed_by is not None:
        _report_dropped_signature(target.folder, signed_by)
    return manifest


def _languages(target: Target, record: EngineRecord) -> tuple[str, ...]:
    """Return the language of an engine's family: signed with the manifest, a catalogue cannot change it."""
    family = target.catalogue.families.get(record.family)
    return () if family is None or family.language is None else (family.language,)


def _is_measured(target: Target, manifest: BundleManifest, onnx: Path) -> bool:
    """Return whether the word errors in a bundle are of the limits in the catalogue and of the recordings there now."""
    known = wer_gate.PreviousAccuracy(accuracy=manifest.accuracy, rebuilt=set())
    gated = wer_gate.gated_ensembles(target.catalogue, _engines(manifest)) if target.compiler.RUNS_HERE else ()
    return all(known.find(ensemble, onnx) for ensemble in gated)


def _report_dropped_signature(folder: Path, key: str) -> None:
    sentence = f"the signature of key {key} was dropped, because the bundle has changed"
    remedy = f"Sign it again with `python -m build.sign {folder} --key PRIVATE_KEY`"
    print(f"warning: {folder}: {sentence}. {remedy}.", file=sys.stderr, flush=True)


def _write(
    target: Target,
    manifest: BundleManifest,
    previous: wer_gate.PreviousAccuracy,
    built: Sequence[Place],
    onnx: Path,
) -> BundleManifest:
    with files.replacing(target.folder) as staging:
        for record in manifest.engines:
            store.link(store.holding(target.store, record) or target.folder, record, staging)
        ensembles = wer_gate.gated_ensembles(target.catalogue, _engines(manifest))
        accuracy = wer_gate.measure(staging, ensembles, onnx, target.compiler, previous)
        manifest = replace(manifest, accuracy=accuracy)
        manifest = report.add(manifest, _run(manifest, built), staging)
        files.write(staging / MANIFEST_FILE, manifest.to_json())
    return manifest


def check_graph(job: Job) -> None:
    """Raise GraphError unless the job's graphs exist and have the digests of their record."""
    for precision in dict.fromkeys(("fp32", job.exported)):
        defect = job.graph_file(precision).defect(job.folder)
        if defect is not None:
            path, cause = defect
            raise GraphError(path, cause, f"Run `python -m export --model {job.record.model} --force`")


def _old_bundle(folder: Path) -> BundleManifest | None:
    try:
        return load(folder)
    except (BundleError, ManifestError):
        # No bundle, or an unreadable one: everything is built again.
        return None


def _engines(manifest: BundleManifest | None) -> dict[Place, EngineRecord]:
    return {(record.model, record.mode): record for record in manifest.engines} if manifest else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildTask:
    """What a worker process needs to build an engine; the compiler is named, because a module cannot be pickled."""

    step: Step
    platform: str
    toolchain: dict[str, str]
    compiler: str
    options: Options
    bundle: Path
    store: Path
    force: bool


def _results(target: Target, toolchain: dict[str, str], planned: Sequence[Step]) -> Iterator[tuple[EngineRecord, str]]:
    tasks = [
        BuildTask(
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
        if target.processes == 1 or len(tasks) == 1:
            yield from map(_fetch_or_build, tasks)
            return
        context = get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(target.processes, mp_context=context))
        # Report the first failure at once: tasks that have not started by then are cancelled.
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        yield from pool.map(_fetch_or_build, tasks)


def _fetch_or_build(task: BuildTask) -> tuple[EngineRecord, str]:
    """Return an engine's record and its outcome; afterwards the engine is in the store."""
    step, known = task.step, task.step.known
    with store.locked(task.store, step.key):
        entry = None if task.force else store.find(task.store, step.key)
        if known is not None and known.key == step.key and not task.force and _is_intact_engine(task.bundle, known):
            if entry is None:
                store.adopt(task.store, task.bundle, _single_engine_manifest(task, known))
            return known, UNCHANGED
        if entry:
            return replace(entry.record, changes=step.changes()), FROM_STORE
        with files.replacing(store.entry_folder(task.store, step.key)) as staging:
            record = replace(_build(task, staging), changes=step.changes())
            store.add(staging, _single_engine_manifest(task, record))
    return record, BUILT


def _single_engine_manifest(task: BuildTask, record: EngineRecord) -> BundleManifest:
    arch = Arch(task.step.parts["arch"])
    return BundleManifest(platform=task.platform, arch=arch, toolchain=task.toolchain, engines=(record,))


def _build(task: BuildTask, staging: Path) -> EngineRecord:
    job, parts = task.step.job, task.step.parts
    chosen = compiler(task.compiler, job.arch)
    file = f"{job.record.model}/{job.mode.name}/{chosen.FILE}"
    path = staging / file
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with quantisation.prepared(job, chosen.NAME) as ready:
        compiled = chosen.compile(ready, path, task.options)
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
        client=job.record.client,
        build_seconds=round(seconds, 3),
        gate=gate.check(job, chosen, path, task.store, fresh=task.force),
        profile=compiled.profile,
        device_memory_bytes=compiled.device_memory_bytes,
        built_on=chosen.host(),
        data=() if compiled.data is None else (_bundle_file(staging, compiled.data),),
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
    """Return the outcome of the gate and the output that came closest to its limit, for a log line."""
    worst = closest(result.parity)
    return f"gate {result.outcome}: {worst}" if worst else f"compiled; gate {result.outcome}"


def _is_intact_engine(folder: Path, record: EngineRecord) -> bool:
    return all(
        (folder / each.file).is_file() and digest.of_file(folder / each.file) == each.sha256
        for each in record.every_file()
    )


def _is_intact(folder: Path, manifest: BundleManifest) -> bool:
    try:
        verification.check(folder, manifest)
    except BundleError:
        return False
    return True


def _check_tensors(job: Job, found: dict[str, str]) -> None:
    expected = {tensor.name: tensor.type for tensor in (*job.family.inputs, *job.family.outputs)}
    if found != expected:
        cause = f"the engine's tensors are {found}, and the catalogue's are {expected}"
        raise CompileError(job.name, cause, "Correct the network or model.toml, so that names and types are equal")
