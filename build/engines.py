"""python -m build.engines: exported graphs to a bundle of engines for one architecture, or for every possible one."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from build import bundle, keys, preflight, results, store
from build.bundle import Step, Target
from build.compilers import COMPILERS, Compiler, compiler
from build.job import Job
from build.options import GIBIBYTE, Options
from build.quantisation import check_precision
from build.results import BundleResult, EngineResult
from contract import command_line, compatibility, graph
from contract.arch import Arch
from contract.catalogue import INT8, MODES, OPERATING_POINTS, Model, catalogue, models
from contract.errors import BuildError, CompilerUnavailableError, GraphError, SettingError
from contract.manifest import Accuracy, EngineRecord
from contract.platform import platform

ALL = "all"
_MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What was asked for on the command line, the architecture aside."""

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
    version_compatible: bool = False
    workspace_gib: float = 4.0
    optimization_level: int = 3
    force: bool = False
    dry_run: bool = False


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--arch", "arch_name", required=True, help=f"One of {', '.join(arch.value for arch in Arch)}, or {ALL}.")
@click.option("--compiler", help=f"One of {', '.join(COMPILERS)}. [default: what a server runs there]")
@click.option("--platform", help="The platform to build for. [default: the compiler's own]")
@click.option("--onnx", type=click.Path(path_type=Path), default=Path("dist/onnx"), show_default=True, help="Graphs.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("dist/engines"), show_default=True, help="Bundles."
)
@click.option("--store", type=click.Path(path_type=Path), help="Engines by their keys. [default: `store` beside --out]")
@click.option("--model", "models", multiple=True, help="A model such as body_standard; may be repeated. [default: all]")
@click.option("--operating-point", type=click.Choice(OPERATING_POINTS), help="Only the models of this point.")
@click.option("--mode", type=click.Choice(MODES), help="Only this mode. [default: all that the catalogue lists]")
@click.option("--jobs", "processes", type=click.IntRange(min=1), default=1, show_default=True, help="Engines at once.")
@click.option(
    "--precision", type=click.Choice([INT8]), help="Quantise what gains by it. [default: the precision of the compiler]"
)
@click.option(
    "--compatibility",
    type=click.Choice(compatibility.LEVELS),
    default=compatibility.NONE,
    show_default=True,
    help="Which other GPUs a plan is for: TensorRT gives up some speed for it.",
)
@click.option("--version-compatible", is_flag=True, help="Make plans that later TensorRT versions load, if asked to.")
@click.option(
    "--workspace-gib",
    type=click.FloatRange(0, min_open=True),
    default=4.0,
    show_default=True,
    help="The most device memory that one operation of a plan may take for itself.",
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="How long TensorRT searches for fast kernels.",
)
@click.option("--force", is_flag=True, help="Build again what is unchanged.")
@click.option("--dry-run", is_flag=True, help="Say what would be built and why, and build nothing.")
@click.option("--json", "as_json", is_flag=True, help="Say what became of every engine as JSON on standard output.")
@click.option("--verbose", is_flag=True, help="Add the traceback to a refusal.")
def command(
    arch_name: str,
    *,
    as_json: bool,
    verbose: bool,  # noqa: ARG001 - contract.errors.guard reads it
    **asked: Any,
) -> None:
    """Build engines for one architecture into a bundle; what is unchanged is taken over."""
    request = Request(**asked)
    found = run_all(request) if arch_name == ALL else [run(request, Arch.parse(arch_name))]
    if as_json:
        print(json.dumps(results.to_json(found), indent=2))
    fail(found)


def run_all(request: Request) -> list[BundleResult]:
    """Make a bundle for every architecture that this host can make one for, and say at the end what became of each."""
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
    """Raise the first refusal that is a failure, and that of a host which can make nothing at all."""
    for each in found:
        if each.refusal is not None and not each.is_beyond_this_host:
            raise each.refusal
    if all(each.refusal is not None for each in found):
        remedy = "Run it in the container of a platform on a host with a GPU, or leave --compiler and --platform out"
        raise CompilerUnavailableError(f"--arch {ALL}", "this host can make engines for none of them", remedy)


def run(request: Request, arch: Arch) -> BundleResult:
    """Make the bundle of an architecture, or say what it would be made of."""
    target = target_of(request, arch)
    jobs = plan(
        request.onnx, arch, target.compiler, request.models, request.operating_point, request.mode, request.precision
    )
    engines = preview(target, jobs) if request.dry_run else build(target, jobs)
    return BundleResult(arch=arch, platform=target.platform.name, folder=target.folder, engines=tuple(engines))


def target_of(request: Request, arch: Arch) -> Target:
    """Say where an architecture's bundle goes and what makes it; raise CompilerUnavailableError where nothing can."""
    chosen = compiler(request.compiler, arch)
    place = platform(request.platform or chosen.PLATFORM)
    kept = request.store or request.out.parent / store.NAME
    options = Options(
        workspace_bytes=int(request.workspace_gib * GIBIBYTE),
        optimization_level=request.optimization_level,
        compatibility=request.compatibility,
        version_compatible=request.version_compatible,
        timing=kept / "timing",
    )
    chosen.check(arch, place, options)
    return Target(
        folder=request.out / place.name / arch.value,
        platform=place,
        arch=arch,
        compiler=chosen,
        store=kept,
        options=options,
        force=request.force,
        processes=request.processes,
    )


def preview(target: Target, jobs: Sequence[Job]) -> list[EngineResult]:
    """Say of every engine where it would come from, and why it would be built."""
    found = []
    for step in bundle.steps(target, jobs):
        source = bundle.source(target, step)
        detail = "" if source else _why(target, step)
        found.append(
            EngineResult(
                model=step.place[0],
                mode=step.place[1],
                outcome=source or results.WOULD_BUILD,
                detail=detail,
                key=step.key,
                changes=step.changes(),
            )
        )
        print(f"build {target.arch.value} {step.job.name:<24} {_joined(found[-1])}", file=sys.stderr)
    return found


def build(target: Target, jobs: Sequence[Job]) -> list[EngineResult]:
    """Make the bundle and say what became of every engine."""
    found: list[EngineResult] = []
    preflight.check_disk(jobs, target.store)
    if target.compiler.NAME == "tensorrt":
        preflight.check_memory(_to_build(target, jobs), target.options)
        print(f"build {target.arch.value} on {preflight.gpu()}", file=sys.stderr, flush=True)

    def say(job: Job, record: EngineRecord, outcome: str) -> None:
        found.append(_result(record, outcome))
        print(f"build {job.arch.value} {job.name:<24} {_joined(found[-1])}", file=sys.stderr, flush=True)

    manifest = bundle.make(target, jobs, say)
    total = sum(record.size_bytes for record in manifest.engines) / _MEBIBYTE
    for each in manifest.accuracy:
        print(f"words {target.arch.value} {f'{each.model} {each.mode}':<24} {_words(each)}", file=sys.stderr)
    print(f"bundle {target.folder}: {len(manifest.engines)} engines, {total:.1f} MiB", file=sys.stderr)
    return found


def plan(
    onnx: Path,
    arch: Arch,
    chosen: Compiler,
    names: tuple[str, ...] = (),
    operating_point: str | None = None,
    mode: str | None = None,
    precision: str | None = None,
) -> list[Job]:
    """List the engines to make: the exported models, or the named ones, in every mode that the catalogue lists.

    At a `precision` that is not the compiler's own, the models that state no tolerance for it keep the compiler's; to
    name one of them is an error.
    """
    check_precision(precision, chosen, arch)
    wanted = [
        model for model in _select(names, operating_point) if names or (onnx / model.name / graph.RECORD_FILE).is_file()
    ]
    jobs = [
        Job(
            family=model.family.at(each.name),
            record=graph.load(onnx / model.name),
            folder=onnx / model.name,
            mode=each,
            arch=arch,
            precision=_precision(model, precision, chosen, named=model.name in names),
        )
        for model in wanted
        for each in model.family.modes.values()
        if mode in (None, each.name)
    ]
    if not jobs:
        what = f"no graph for mode {mode} was exported there" if wanted else "no graph was exported there"
        raise GraphError(onnx, what, "Run `python -m export` first, or name its folder with --onnx")
    return jobs


def main() -> None:
    """Run the command line."""
    command_line.run(command)


def _to_build(target: Target, jobs: Sequence[Job]) -> list[Job]:
    return [step.job for step in bundle.steps(target, jobs) if bundle.source(target, step) is None]


def _select(names: tuple[str, ...], operating_point: str | None) -> list[Model]:
    known = {
        name: model for name, model in models(catalogue(), operating_point).items() if not model.family.is_ensemble
    }
    for name in names:
        if name not in known:
            raise SettingError(f"--model {name}", "no engine is made for that name", f"Choose from {', '.join(known)}")
    return [model for name, model in known.items() if not names or name in names]


def _result(record: EngineRecord, outcome: str) -> EngineResult:
    detail = ""
    if outcome == bundle.BUILT:
        size = f"{record.size_bytes / _MEBIBYTE:.1f} MiB in {record.build_seconds:.1f} s"
        detail = f"{size}; {bundle.gate_summary(record.gate)}"
    return EngineResult(
        model=record.model,
        mode=record.mode,
        outcome=outcome,
        detail=detail,
        key=record.key,
        changes=record.changes,
        size_bytes=record.size_bytes,
        build_seconds=record.build_seconds,
    )


def _joined(result: EngineResult) -> str:
    return f"{result.outcome}: {result.detail}" if result.detail else result.outcome


def _why(target: Target, step: Step) -> str:
    if step.known is None:
        return "the bundle has none"
    changed = step.changes()
    if changed:
        return "; ".join(map(keys.sentence, changed))
    return "--force" if target.force else "the one in the bundle is damaged"


def _words(found: Accuracy) -> str:
    if not found.words:
        return found.reason
    counts = f"{found.wrong} of {found.words} wrong, {found.wrong_in_fp32} in FP32"
    return f"{counts}: {found.points:+.2f} points, allowed {found.allowed_points:g}; {found.reason}"


def _precision(model: Model, wanted: str | None, chosen: Compiler, *, named: bool) -> str:
    if wanted is None or model.family.quantisable:
        return wanted or chosen.precision()
    if named:
        raise CompilerUnavailableError(
            f"--precision {wanted}",
            f"quantising {model.name} makes no sense: the catalogue states no {wanted} tolerance for it",
            f"Leave {model.name} out, or build it without --precision",
        )
    return chosen.precision()


if __name__ == "__main__":
    main()
