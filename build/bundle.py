"""Makes a bundle: every engine compiled, gated and recorded, or taken over when nothing that decides it changed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from build import gate, quantisation, words
from build.compilers import Compiler
from build.job import Job
from contract import digest, files
from contract.agreement import closest
from contract.arch import Arch
from contract.errors import BundleError, CompileError, GraphError, ManifestError
from contract.manifest import MANIFEST_FILE, BundleManifest, EngineRecord, Gate, load
from contract.platform import Platform

Say = Callable[[Job, EngineRecord, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where a bundle goes and what makes it."""

    folder: Path
    platform: Platform
    arch: Arch
    compiler: Compiler
    force: bool = False


def make(target: Target, jobs: list[Job], say: Say) -> BundleManifest:
    """Make or renew a bundle in one step; `say` hears of every engine as it is done.

    Engines of models that no job is about stay as they are. Raises GraphError, CompileError or GateError, and then
    leaves the old bundle untouched.
    """
    for job in jobs:
        check_graph(job)
    before = _old_bundle(target.folder)
    old = {(record.model, record.mode): record for record in before.engines} if before else {}
    toolchain = target.compiler.toolchain()
    with files.replacing(target.folder) as staging:
        renewal = _Renewal(target=target, toolchain=toolchain, old=old, staging=staging, say=say)
        made = {(job.record.model, job.mode.name): renewal.engine(job) for job in jobs}
        for place, record in old.items():
            # An engine of an older toolchain must not end up under a manifest that names the new one.
            same_tools = record.key_parts.get("toolchain") == toolchain
            if place not in made and same_tools and _is_whole(target.folder, record):
                files.link_or_copy(target.folder / record.file, staging / record.file)
                made[place] = record
        known = words.Before(accuracy=before.accuracy if before else (), anew=renewal.anew)
        accuracy = words.measure(staging, made, jobs[0].folder.parent, target.compiler, known)
        manifest = BundleManifest(
            platform=target.platform.name,
            arch=target.arch,
            toolchain=toolchain,
            engines=tuple(record for _, record in sorted(made.items())),
            accuracy=accuracy,
        )
        files.write(staging / MANIFEST_FILE, manifest.to_json())
    return manifest


def check_graph(job: Job) -> None:
    """Raise GraphError unless the job's graphs are there and are what their record says."""
    for precision in dict.fromkeys(("fp32", job.exported)):
        if precision not in job.record.graphs:
            raise GraphError(
                job.folder,
                f"it holds no {precision} graph",
                f"Run `python -m export --model {job.record.model}`, which makes every precision",
            )
        graph = job.record.graphs[precision]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Renewal:
    """A bundle in the making: what it is, what the old one holds, where the new one grows."""

    target: Target
    toolchain: dict[str, str]
    old: dict[tuple[str, str], EngineRecord]
    staging: Path
    say: Say
    anew: set[tuple[str, str]] = field(default_factory=set)
    """Model and mode of what was not taken over."""

    def engine(self, job: Job) -> EngineRecord:
        """Take over the engine of a job, or make it."""
        compiler, folder = self.target.compiler, self.target.folder
        options = compiler.options() | quantisation.options(job, compiler.NAME)
        parts = job.key_parts(compiler.NAME, self.toolchain, options)
        known = self.old.get((job.record.model, job.mode.name))
        unchanged = known is not None and known.key == digest.of_value(parts) and not self.target.force
        if known is not None and unchanged and _is_whole(folder, known):
            files.link_or_copy(folder / known.file, self.staging / known.file)
            self.say(job, known, "unchanged")
            return known
        record = self._made(job, parts)
        self.anew.add((record.model, record.mode))
        self.say(job, record, _outcome(record.gate))
        return record

    def _made(self, job: Job, parts: dict[str, Any]) -> EngineRecord:
        compiler = self.target.compiler
        file = f"{job.record.model}/{job.mode.name}/{compiler.FILE}"
        path = self.staging / file
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with quantisation.prepared(job, compiler.NAME) as ready:
            inputs, outputs = compiler.compile(ready, path)
        seconds = time.monotonic() - started
        _check_tensors(job, {tensor.name: tensor.type for tensor in (*inputs, *outputs)})
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
            compiler=compiler.NAME,
            precision=job.precision,
            max_batch=job.mode.batch.max,
            inputs=inputs,
            outputs=outputs,
            dims=job.record.dims,
            parameters=job.record.parameters,
            build_seconds=round(seconds, 3),
            gate=gate.check(job, compiler, path),
        )


def _outcome(result: Gate) -> str:
    worst = closest(result.parity)
    return f"gate {result.outcome}: {worst}" if worst else f"compiled; gate {result.outcome}"


def _is_whole(folder: Path, record: EngineRecord) -> bool:
    path = folder / record.file
    return path.is_file() and digest.of_file(path) == record.sha256


def _check_tensors(job: Job, found: dict[str, str]) -> None:
    wanted = {tensor.name: tensor.type for tensor in (*job.family.inputs, *job.family.outputs)}
    if found != wanted:
        cause = f"the engine's tensors are {found}, and the catalogue's are {wanted}"
        raise CompileError(job.name, cause, "Make export and catalogue agree on names and types")
