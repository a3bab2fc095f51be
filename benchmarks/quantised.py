"""INT8 against FP32 on this processor: engines of the same graphs on the same real inputs, in one process."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measuring import Comparison, alternate, seconds
from benchmarks.server import ensure_bundle
from build import bundle, gate, quantisation
from build.compilers import compiler
from build.engines import Request, target_of
from build.job import Job
from build.options import Options
from build.planning import plan
from build.reference import run_session, session
from contract.arch import Arch
from contract.catalogue import INT8, read_catalogue
from contract.manifest import Accuracy

ROUNDS = 15
ONNX = Path("dist/onnx")


def measure() -> list[Comparison]:
    """Compare both engines of every network with an INT8 tolerance in the catalogue, and their word errors."""
    ensure_bundle()
    return [*comparisons(ONNX), *words(ONNX)]


def words(onnx: Path) -> list[Comparison]:
    """Build a whole INT8 bundle through its gate, and compare its share of right words with that of the graphs."""
    with tempfile.TemporaryDirectory() as folder:
        request = Request(
            catalogue=read_catalogue(), compiler=None, platform=None, onnx=onnx, out=Path(folder, "engines")
        )
        target = target_of(request, Arch.CPU)
        jobs = plan(request.catalogue, onnx, Arch.CPU, target.compiler, mode="batch", precision=INT8)
        counted = bundle.make(target, jobs, lambda *_: None).accuracy
    return [_words(each) for each in counted if each.words]


def comparisons(onnx: Path, rounds: int = ROUNDS) -> Iterator[Comparison]:
    """Compile both engines of each network and run them on the longest real input of one item."""
    cpu = compiler(None, Arch.CPU)
    exact_jobs, quantised_jobs = (
        plan(read_catalogue(), onnx, Arch.CPU, cpu, mode="batch", precision=precision) for precision in (None, INT8)
    )
    pairs = zip(exact_jobs, quantised_jobs, strict=True)
    for exact, quantised in pairs:
        if quantised.precision == INT8:
            yield _comparison(exact, quantised, rounds)


def longest_input(job: Job) -> dict[str, Any]:
    """Return the longest real input with a batch size of one."""
    *_, longest = gate.single_inputs(gate.real_inputs(job)).values()
    return longest


def _words(counted: Accuracy) -> Comparison:
    right = [100.0 * (1.0 - wrong / counted.words) for wrong in (counted.wrong_in_fp32, counted.wrong)]
    return Comparison(
        title=f"{counted.model} {counted.mode}, {counted.words} words",
        unit="percent of words right",
        first_name="graphs in FP32",
        first=(right[0],),
        second_name=f"INT8 engines ({counted.wer_increase:+.2f} points of word error rate)",
        second=(right[1],),
    )


def _comparison(exact: Job, quantised: Job, rounds: int) -> Comparison:
    feed = longest_input(exact)
    first, second = _engine(exact), _engine(quantised)
    times = alternate(
        rounds,
        lambda: 1.0 / seconds(lambda: run_session(first, feed)),
        lambda: 1.0 / seconds(lambda: run_session(second, feed)),
    )
    title = f"{exact.name}, its longest real input"
    return Comparison.of_pairs(times, title=title, unit="runs a second", first="FP32", second="INT8")


def _engine(job: Job) -> Any:
    cpu = compiler(None, Arch.CPU)
    with tempfile.TemporaryDirectory() as folder, quantisation.prepared(job, cpu.NAME) as ready:
        target = Path(folder) / cpu.FILE
        cpu.compile(ready, target, Options())
        return session(target)
