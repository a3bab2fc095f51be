"""python -m build.engines: exported graphs to a bundle of engines for one architecture."""

import sys
from pathlib import Path

import click

from build.bundle import Target, make
from build.compilers import COMPILERS, Compiler, compiler
from build.job import Job
from build.quantisation import check_precision
from contract import graph
from contract.arch import Arch
from contract.catalogue import INT8, MODES, OPERATING_POINTS, Model, catalogue, models
from contract.errors import CompilerUnavailableError, GraphError, SettingError, guard
from contract.manifest import Accuracy, EngineRecord
from contract.platform import platform

_MEBIBYTE = 1 << 20


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--arch", "arch_name", required=True, help=f"One of {', '.join(arch.value for arch in Arch)}.")
@click.option("--compiler", "compiler_name", help=f"One of {', '.join(COMPILERS)}. [default: what a server runs there]")
@click.option("--platform", "platform_name", help="The platform to build for. [default: the compiler's own]")
@click.option("--onnx", type=click.Path(path_type=Path), default=Path("dist/onnx"), show_default=True, help="Graphs.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("dist/engines"), show_default=True, help="Bundles."
)
@click.option("--model", "names", multiple=True, help="A model such as body_standard; may be repeated. [default: all]")
@click.option("--operating-point", type=click.Choice(OPERATING_POINTS), help="Only the models of this point.")
@click.option("--mode", type=click.Choice(MODES), help="Only this mode. [default: all that the catalogue lists]")
@click.option(
    "--precision", type=click.Choice([INT8]), help="Quantise what gains by it. [default: the precision of the compiler]"
)
@click.option("--force", is_flag=True, help="Build again what is unchanged.")
@click.option("--verbose", is_flag=True, help="Add the traceback to a refusal.")
def command(
    arch_name: str,
    compiler_name: str | None,
    platform_name: str | None,
    onnx: Path,
    out: Path,
    names: tuple[str, ...],
    operating_point: str | None,
    mode: str | None,
    precision: str | None,
    *,
    force: bool,
    verbose: bool,  # noqa: ARG001 - contract.errors.guard reads it
) -> None:
    """Build engines for one architecture into a bundle; what is unchanged is taken over."""
    arch = Arch.parse(arch_name)
    chosen = compiler(compiler_name, arch)
    place = platform(platform_name or chosen.PLATFORM)
    chosen.check(arch, place)
    jobs = plan(onnx, arch, chosen, names, operating_point, mode, precision)
    folder = out / place.name / arch.value
    run(Target(folder=folder, platform=place, arch=arch, compiler=chosen, force=force), jobs)


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
            family=model.family,
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


def run(target: Target, jobs: list[Job]) -> None:
    """Make the bundle and say what became of every engine."""
    manifest = make(target, jobs, _say)
    total = sum(record.size_bytes for record in manifest.engines) / _MEBIBYTE
    for each in manifest.accuracy:
        print(f"words {target.arch.value} {f'{each.model} {each.mode}':<24} {_words(each)}", file=sys.stderr)
    print(f"bundle {target.folder}: {len(manifest.engines)} engines, {total:.1f} MiB", file=sys.stderr)


def main() -> None:
    """Run the command line."""
    guard(_parse_and_run)


def _parse_and_run() -> None:
    try:
        command.main(standalone_mode=False)
    except click.ClickException as misuse:
        misuse.show()
        sys.exit(misuse.exit_code)
    except click.Abort as interrupt:
        # click's own ending would be exit code 1.
        raise KeyboardInterrupt from interrupt


def _select(names: tuple[str, ...], operating_point: str | None) -> list[Model]:
    known = {
        name: model for name, model in models(catalogue(), operating_point).items() if not model.family.is_ensemble
    }
    for name in names:
        if name not in known:
            raise SettingError(f"--model {name}", "no engine is made for that name", f"Choose from {', '.join(known)}")
    return [model for name, model in known.items() if not names or name in names]


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


def _say(job: Job, record: EngineRecord, outcome: str) -> None:
    size = f"{record.size_bytes / _MEBIBYTE:.1f} MiB in {record.build_seconds:.1f} s; "
    text = outcome if outcome == "unchanged" else size + outcome
    print(f"build {job.arch.value} {job.name:<24} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
