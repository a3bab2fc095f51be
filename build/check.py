"""python -m build.check: whether every exported graph compiles for every architecture, on a machine without a GPU."""

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
from build.compilers import compiler
from build.engines import plan
from build.job import Job
from build.options import Options
from contract import command_line
from contract.arch import Arch
from contract.catalogue import INT8
from contract.errors import BuildError, CompileError
from contract.manifest import EngineRecord
from contract.platform import platform

COMPILER = "tensorrt_rtx"
ARCHES = (Arch.SM75, Arch.SM80, Arch.SM86, Arch.SM89)
_MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one graph for one architecture; cause and remedy are empty where it compiled."""

    model: str
    mode: str
    arch: str
    precision: str
    compiles: bool
    unchanged: bool
    """Whether it had been compiled before, so that nothing was done."""
    seconds: float
    size_bytes: int
    cause: str = ""
    remedy: str = ""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--onnx", type=click.Path(path_type=Path), default=Path("dist/onnx"), show_default=True, help="Graphs.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("dist/engines"), show_default=True,
    help="Where what has compiled is kept, so that an unchanged graph is not compiled again.",
)  # fmt: skip
@click.option(
    "--arch", "arches", type=click.Choice([arch.value for arch in ARCHES]), multiple=True,
    help="May be repeated. [default: all]",
)  # fmt: skip
@click.option("--model", "names", multiple=True, help="A model such as body_standard; may be repeated. [default: all]")
@click.option(
    "--precision", type=click.Choice([INT8]),
    help="Check what quantising makes of the graphs, for all but sm75; nothing of it is kept. [default: fp16]",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Compile again what is unchanged.")
@click.option("--json", "as_json", is_flag=True, help="Write the outcomes as JSON instead of the table.")
@click.option("--verbose", is_flag=True, help="Add the traceback to a refusal.")
def command(
    onnx: Path,
    out: Path,
    arches: tuple[str, ...],
    names: tuple[str, ...],
    precision: str | None,
    *,
    force: bool,
    as_json: bool,
    verbose: bool,  # noqa: ARG001 - contract.errors.guard reads it
) -> None:
    """Compile every exported graph for every architecture with TensorRT-RTX; exit 0 only when all compile."""
    chosen = [Arch(name) for name in arches] or [arch for arch in ARCHES if not precision or arch is not Arch.SM75]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if precision else out
        outcomes = [each for arch in chosen for each in check(onnx, folder, arch, names, precision, force=force)]
    print(to_json(outcomes) if as_json else "\n".join(table(outcomes)))
    refuse_failures(outcomes)


def check(
    onnx: Path, out: Path, arch: Arch, names: tuple[str, ...], precision: str | None = None, *, force: bool = False
) -> Iterator[Outcome]:
    """Compile every graph for an architecture; one that fails keeps no other from being tried."""
    rtx = compiler(COMPILER, arch)
    place = platform(rtx.PLATFORM)
    rtx.check(arch, place, Options())
    target = Target(
        folder=out / place.name / arch.value,
        platform=place,
        arch=arch,
        compiler=rtx,
        store=out.parent / store.NAME,
        force=force,
    )
    for job in plan(onnx, arch, rtx, names, precision=precision):
        outcome = compile_one(target, job)
        sign = "compiles" if outcome.compiles else "FAILS"
        print(f"check {arch.value} {job.name:<24} {sign}", file=sys.stderr, flush=True)
        yield outcome


def compile_one(target: Target, job: Job) -> Outcome:
    """Compile one graph into the bundle of compile checks, unless that was done; it passes the gate as well."""
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
        size_bytes=made[0][0].size_bytes if made else 0,
        cause=cause,
        remedy=remedy,
    )


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Lay out a line a graph and a column an architecture, then every failure with its remedy."""
    arches = list(dict.fromkeys(each.arch for each in outcomes))
    cells = {(each.model, each.mode, each.arch): _cell(each) for each in outcomes}
    yield f"{'graph':<28}" + "".join(f"{arch:>12}" for arch in arches)
    for model, mode in dict.fromkeys((each.model, each.mode) for each in outcomes):
        yield f"{f'{model} {mode}':<28}" + "".join(f"{cells[model, mode, arch]:>12}" for arch in arches)
    for each in outcomes:
        if not each.compiles:
            yield f"{each.model} {each.mode} for {each.arch}: {each.cause}. {each.remedy}."


def to_json(outcomes: Sequence[Outcome]) -> str:
    """Write all outcomes as text."""
    whole = {"compiles": all(each.compiles for each in outcomes), "graphs": [asdict(each) for each in outcomes]}
    return json.dumps(whole, indent=2)


def refuse_failures(outcomes: Sequence[Outcome]) -> None:
    """Raise CompileError unless everything compiles; the first failure speaks for all."""
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
    return f"{outcome.size_bytes / _MEBIBYTE:.1f} MiB" if outcome.compiles else "FAILS"


if __name__ == "__main__":
    main()
