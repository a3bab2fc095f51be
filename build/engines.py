"""`python -m build.engines`: build the engine bundle of one architecture, or of every architecture possible here."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from build import bundle, keys, preflight, results, store
from build.bundle import Step, Target
from build.compilers import COMPILERS, compiler
from build.job import Job
from build.options import Options
from build.planning import plan
from build.results import BundleResult, EngineResult
from build.units import GIBIBYTE, mebibytes
from contract import command_line, compatibility, files, verification
from contract.arch import Arch
from contract.catalogue import (
    CATALOGUE_FOLDER,
    CATALOGUE_SUBFOLDER,
    INT8,
    MODES,
    Catalogue,
    catalogue_files,
    check_replaceable,
)
from contract.errors import BuildError, CompilerUnavailableError
from contract.manifest import Accuracy, BundleManifest, EngineRecord
from contract.platform import platform

ALL = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The options of the command line, except the architecture."""

    catalogue: Catalogue
    compiler: str | None
    platform: str | None
    onnx: Path
    out: Path
    store: Path | None = None
    models: tuple[str, ...] = ()
    operating_point: str | None = None
    mode: str | None = None
    precision: str | None = None
    processes: int = 1
    compatibility: str = compatibility.NONE
    workspace_gib: float = 4.0
    optimization_level: int = 3
    force: bool = False
    dry_run: bool = False


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--arch", "arch_name", required=True, help=f"One of {', '.join(arch.value for arch in Arch)}, or {ALL}.")
@click.option("--compiler", help=f"One of {', '.join(COMPILERS)}. [default: the one whose engines a server runs]")
@click.option("--platform", help="The platform to build for. [default: the compiler's own]")
@click.option("--onnx", type=click.Path(path_type=Path), default=Path("dist/onnx"), show_default=True, help="Graphs.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("dist/engines"), show_default=True, help="Bundles."
)
@click.option(
    "--store", type=click.Path(path_type=Path), help="Folder of engines by key. [default: `store` next to --out]"
)
@click.option("--model", "models", multiple=True, help="A model such as body_standard; repeatable. [default: all]")
@click.option("--operating-point", help="Only the models of this point.")
@click.option("--mode", type=click.Choice(MODES), help="Only this mode. [default: all that the catalogue lists]")
@click.option(
    "--jobs", "processes", type=click.IntRange(min=1), default=1, show_default=True, help="Engines built in parallel."
)
@click.option(
    "--precision",
    type=click.Choice([INT8]),
    help="Quantise the models with an INT8 tolerance. [default: the precision of the compiler]",
)
@click.option(
    "--compatibility",
    type=click.Choice(compatibility.LEVELS),
    default=compatibility.NONE,
    show_default=True,
    help="Other GPUs that run the plan, at some cost in speed.",
)
@click.option(
    "--workspace-gib",
    type=click.FloatRange(0, min_open=True),
    default=4.0,
    show_default=True,
    help="The most device memory that one operation of a plan may use.",
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="How long TensorRT searches for fast kernels.",
)
@click.option(
    "--force", is_flag=True, help="Build unchanged engines again; replace a signed bundle of another precision."
)
@click.option("--dry-run", is_flag=True, help="Print what would be built and why; build nothing.")
@click.option("--json", "as_json", is_flag=True, help="Write the result of every engine as JSON to standard output.")
@command_line.catalogue_option("onnx")
@command_line.verbose_option()
def command(
    arch_name: str,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Build engines for one architecture into a bundle; unchanged engines are reused."""
    request = Request(**options)
    if request.operating_point is not None:
        request.catalogue.check_operating_point(request.operating_point, "--operating-point")
    found = run_all(request) if arch_name == ALL else [run(request, Arch.parse(arch_name))]
    if as_json:
        print(json.dumps(results.to_json(found), indent=2))
    fail(found)


def run_all(request: Request) -> list[BundleResult]:
    """Build a bundle for every architecture that this host can build for; print a table of all at the end."""
    found = []
    for arch in Arch:
        try:
            found.append(run(request, arch))
        except BuildError as refusal:
            place = platform(request.platform or compiler(request.compiler, arch).PLATFORM)
            folder = request.out / place.name / arch.value
            found.append(BundleResult(arch=arch, platform=place.name, folder=folder, refusal=refusal))
    print(*results.table(found), sep="\n", file=sys.stderr)
    return found


def fail(found: Sequence[BundleResult]) -> None:
    """Raise the first failure, and CompilerUnavailableError where this host can build for no architecture."""
    for each in found:
        if each.refusal is not None and not each.is_beyond_this_host:
            raise each.refusal
    if all(each.refusal is not None for each in found):
        remedy = "Run it on a host with a GPU in NVIDIA's TensorRT image, or omit --compiler and --platform"
        raise CompilerUnavailableError(f"--arch {ALL}", "this host can build engines for none of them", remedy)


def run(request: Request, arch: Arch) -> BundleResult:
    """Build the bundle of an architecture, or only list what would be built."""
    target = target_of(request, arch)
    verification.check_outside_bundles(request.out, "--out")
    verification.check_outside_bundles(target.store, "--store")
    if _replaces_catalogue(request):
        check_replaceable(request.out / CATALOGUE_SUBFOLDER, f"--out {request.out}")
    jobs = plan(
        request.catalogue,
        request.onnx,
        arch,
        target.compiler,
        names=request.models,
        operating_point=request.operating_point,
        mode=request.mode,
        precision=request.precision,
    )
    signed_by = bundle.signing_key(target.folder)
    engines = preview(target, jobs) if request.dry_run else build(target, jobs)
    if not request.dry_run:
        _keep_catalogue(request)
    return BundleResult(
        arch=arch,
        platform=target.platform.name,
        folder=target.folder,
        engines=tuple(engines),
        dropped_signature=None if bundle.signing_key(target.folder) else signed_by,
    )


def target_of(request: Request, arch: Arch) -> Target:
    """Return the folder of an architecture's bundle and its compiler.

    Raises CompilerUnavailableError where this host cannot build it, SettingError for an option that does not apply.
    """
    chosen = compiler(request.compiler, arch)
    place = platform(request.platform or chosen.PLATFORM)
    kept = request.store or request.out.parent / store.NAME
    options = Options(
        workspace_bytes=int(request.workspace_gib * GIBIBYTE),
        optimization_level=request.optimization_level,
        compatibility=request.compatibility,
        timing=kept / "timing",
    )
    chosen.check(arch, place, options)
    return Target(
        folder=request.out / place.name / arch.value,
        catalogue=request.catalogue,
        platform=place,
        arch=arch,
        compiler=chosen,
        store=kept,
        options=options,
        force=request.force,
        processes=request.processes,
    )


def preview(target: Target, jobs: Sequence[Job]) -> list[EngineResult]:
    """List where every engine would come from, and why it would be built; print each."""
    found = []
    for step in bundle.steps(target, jobs):
        source = bundle.source(target, step)
        detail = "" if source else _why(target, step)
        found.append(
            EngineResult(
                model=step.place[0],
                mode=step.place[1],
                precision=step.job.precision,
                outcome=source or results.WOULD_BUILD,
                detail=detail,
                key=step.key,
                changes=step.changes(),
            )
        )
        _print_engine(step.job, found[-1])
    signed_by = bundle.signing_key(target.folder)
    if signed_by is not None and any(each.outcome != bundle.UNCHANGED for each in found):
        sentence = f"a build would drop the signature of key {signed_by}"
        print(f"bundle {target.folder}: {sentence}", file=sys.stderr)
    return found


def build(target: Target, jobs: Sequence[Job]) -> list[EngineResult]:
    """Build the bundle; return and print the result of every engine."""
    found: list[EngineResult] = []
    preflight.check_disk(jobs, target.store)
    if target.compiler.NAME == "tensorrt":
        preflight.check_memory(_to_build(target, jobs), target.options)
        print(f"build {target.arch.value} on {preflight.gpu()}", file=sys.stderr, flush=True)

    def on_engine(job: Job, record: EngineRecord, outcome: str) -> None:
        found.append(_result(record, outcome))
        _print_engine(job, found[-1])

    manifest = bundle.make(target, jobs, on_engine)
    for each in manifest.accuracy:
        print(f"words {target.arch.value} {f'{each.model} {each.mode}':<24} {_word_errors(each)}", file=sys.stderr)
    print(f"bundle {target.folder}: {summary(manifest)}", file=sys.stderr)
    return found


def summary(manifest: BundleManifest) -> str:
    """Return number, precisions and size of a bundle's engines: `18 engines (10 int8, 8 fp32), 9.2 MiB`."""
    counts = Counter(record.precision for record in manifest.engines).most_common()
    precisions = ", ".join(f"{count} {precision}" for precision, count in counts) or "none"
    size_bytes = sum(record.total_bytes for record in manifest.engines)
    return f"{len(manifest.engines)} engines ({precisions}), {mebibytes(size_bytes)}"


def main() -> None:
    """Run the command line."""
    command_line.run(command)


def _replaces_catalogue(request: Request) -> bool:
    """Return whether the catalogue next to the bundles is another one than that of the build."""
    return request.catalogue.folder.resolve() != (request.out / CATALOGUE_SUBFOLDER).resolve()


def _keep_catalogue(request: Request) -> None:
    """Copy the catalogue of a user's own networks next to the bundles, where a server finds it."""
    source, kept = request.catalogue.folder, request.out / CATALOGUE_SUBFOLDER
    if source.resolve() == CATALOGUE_FOLDER.resolve():
        # One of networks that were built there before would hide the engines of this build.
        if kept.is_dir():
            files.remove(kept)
    elif _replaces_catalogue(request):
        # Only the files of the catalogue: --out may lie in its folder, and a copy of that would contain itself.
        with files.replacing(kept) as staging:
            for path in catalogue_files(source):
                files.write(staging / path.relative_to(source), path.read_bytes())


def _to_build(target: Target, jobs: Sequence[Job]) -> list[Job]:
    return [step.job for step in bundle.steps(target, jobs) if bundle.source(target, step) is None]


def _result(record: EngineRecord, outcome: str) -> EngineResult:
    details = []
    if outcome != bundle.UNCHANGED:
        details += [f"replaces {json.loads(each.before)}" for each in record.changes if each.part == "precision"]
    if outcome == bundle.BUILT:
        details.append(f"{mebibytes(record.total_bytes)} in {record.build_seconds:.1f} s")
        details.append(bundle.gate_summary(record.gate))
    return EngineResult(
        model=record.model,
        mode=record.mode,
        precision=record.precision,
        outcome=outcome,
        detail="; ".join(details),
        key=record.key,
        changes=record.changes,
        size_bytes=record.total_bytes,
        build_seconds=record.build_seconds,
    )


def _print_engine(job: Job, result: EngineResult) -> None:
    text = f"{result.outcome}: {result.detail}" if result.detail else result.outcome
    print(f"build {job.arch.value} {job.name:<24} {result.precision} {text}", file=sys.stderr, flush=True)


def _why(target: Target, step: Step) -> str:
    if step.known is None:
        return "it is not in the bundle"
    changed = step.changes()
    if changed:
        return "; ".join(map(keys.sentence, changed))
    return "--force" if target.force else "the one in the bundle is damaged"


def _word_errors(found: Accuracy) -> str:
    if not found.words:
        return found.reason
    counts = f"{found.wrong} of {found.words} wrong, {found.wrong_in_fp32} in FP32"
    return f"{counts}: {found.wer_increase:+.2f} points, allowed {found.allowed_points:g}; {found.reason}"


if __name__ == "__main__":
    main()
