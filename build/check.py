"""`python -m build.check`: check that every exported graph compiles for every architecture, without a GPU."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from build import store
from build.bundle import UNCHANGED, Target, make
from build.compilers import compiler, tensorrt_rtx
from build.job import Job
from build.options import Options
from build.planning import plan
from build.units import mebibytes
from contract import command_line, verification
from contract.arch import Arch
from contract.catalogue import INT8, Catalogue
from contract.errors import BuildError, CompileError
from contract.manifest import EngineRecord
from contract.platform import platform

ARCHES = tensorrt_rtx.ARCHES


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result of one graph for one architecture; cause and remedy are empty where it compiled."""

    model: str
    mode: str
    arch: str
    precision: str
    compiles: bool
    unchanged: bool
    """Whether an earlier result was reused."""
    seconds: float
    size_bytes: int
    cause: str = ""
    remedy: str = ""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--onnx", type=click.Path(path_type=Path), default=Path("dist/onnx"), show_default=True, help="Graphs.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("dist/engines"), show_default=True,
    help="Folder of the compiled engines: an unchanged graph is not compiled again.",
)  # fmt: skip
@click.option(
    "--arch", "arches", type=click.Choice([arch.value for arch in ARCHES]), multiple=True,
    help="Repeatable. [default: all]",
)  # fmt: skip
@click.option("--model", "names", multiple=True, help="A model such as body_standard; repeatable. [default: all]")
@click.option(
    "--precision", type=click.Choice([INT8]),
    help="Check the quantised graphs, for all but sm75; the engines are not kept. [default: fp16]",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Compile unchanged graphs again.")
@click.option("--json", "as_json", is_flag=True, help="Write the results as JSON instead of the table.")
@command_line.catalogue_option("onnx")
@command_line.verbose_option()
def command(
    onnx: Path,
    out: Path,
    arches: tuple[str, ...],
    names: tuple[str, ...],
    precision: str | None,
    catalogue: Catalogue,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Compile every exported graph for every architecture with TensorRT-RTX; exit 0 only when all compile."""
    verification.check_outside_bundles(out, "--out")
    chosen = [Arch(name) for name in arches] or [arch for arch in ARCHES if not precision or arch is not Arch.SM75]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if precision else out
        outcomes = [
            each for arch in chosen for each in check(catalogue, onnx, folder, arch, names, precision, force=force)
        ]
    print(to_json(outcomes) if as_json else "\n".join(table(outcomes)))
    raise_failures(outcomes)


def check(
    catalogue: Catalogue,
    onnx: Path,
    out: Path,
    arch: Arch,
    names: tuple[str, ...],
    precision: str | None = None,
    *,
    force: bool = False,
) -> Iterator[Outcome]:
    """Compile every graph for an architecture; continue after a graph that fails."""
    rtx = compiler(tensorrt_rtx.NAME, arch)
    place = platform(rtx.PLATFORM)
    rtx.check(arch, place, Options())
    target = Target(
        folder=out / place.name / arch.value,
        catalogue=catalogue,
        platform=place,
        arch=arch,
        compiler=rtx,
        store=out.parent / store.NAME,
        force=force,
    )
    for job in plan(catalogue, onnx, arch, rtx, names, precision=precision):
        outcome = compile_one(target, job)
        sign = "compiles" if outcome.compiles else "FAILS"
        print(f"check {arch.value} {job.name:<24} {sign}", file=sys.stderr, flush=True)
        yield outcome


def compile_one(target: Target, job: Job) -> Outcome:
    """Compile one graph into the bundle of compile checks, unless it is unchanged; apply the gate to its FP16 graph."""
    made: list[tuple[EngineRecord, str]] = []
    started = time.monotonic()
    cause = remedy = ""
    try:
        make(target, [job], lambda _, record, outcome: made.append((record, outcome)))
    except BuildError as refusal:
        cause, remedy = refusal.cause, refusal.remedy
    return Outcome(
        model=job.record.model,
        mode=job.mode.name,
        arch=job.arch.value,
        precision=job.precision,
        compiles=not cause,
        unchanged=any(outcome == UNCHANGED for _, outcome in made),
        seconds=round(time.monotonic() - started, 3),
        size_bytes=made[0][0].total_bytes if made else 0,
        cause=cause,
        remedy=remedy,
    )


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the lines of a table: a row for each graph, a column for each architecture, then every failure."""
    arches = list(dict.fromkeys(each.arch for each in outcomes))
    cells = {(each.model, each.mode, each.arch): _cell(each) for each in outcomes}
    yield f"{'graph':<28}" + "".join(f"{arch:>12}" for arch in arches)
    for model, mode in dict.fromkeys((each.model, each.mode) for each in outcomes):
        yield f"{f'{model} {mode}':<28}" + "".join(f"{cells[model, mode, arch]:>12}" for arch in arches)
    for each in outcomes:
        if not each.compiles:
            yield f"{each.model} {each.mode} for {each.arch}: {each.cause}. {each.remedy}."


def to_json(outcomes: Sequence[Outcome]) -> str:
    """Return all results as JSON text."""
    whole = {"compiles": all(each.compiles for each in outcomes), "graphs": [asdict(each) for each in outcomes]}
    return json.dumps(whole, indent=2)


def raise_failures(outcomes: Sequence[Outcome]) -> None:
    """Raise CompileError with the first failure and the number of others, unless everything compiles."""
    failed = [each for each in outcomes if not each.compiles]
    if failed:
        first = failed[0]
        subject = f"{first.model} {first.mode} for {first.arch}"
        more = f", and {len(failed) - 1} more of {len(outcomes)} fail" if len(failed) > 1 else ""
        raise CompileError(subject, f"{first.cause}{more}", first.remedy)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


def _cell(outcome: Outcome) -> str:
    return mebibytes(outcome.size_bytes) if outcome.compiles else "FAILS"


if __name__ == "__main__":
    main()
