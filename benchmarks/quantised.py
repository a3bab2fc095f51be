"""INT8 against FP32 on this processor: engines of the same graphs on the same real inputs, in turns in one process."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measuring import Comparison, in_turns, seconds
from benchmarks.server import make_bundle
from build import gate, quantisation
from build.compilers import compiler
from build.compilers.onnxruntime import run_session, session
from build.engines import plan
from build.job import Job
from build.options import Options
from contract.arch import Arch
from contract.catalogue import INT8

ROUNDS = 15
ONNX = Path("dist/onnx")


def measure() -> list[Comparison]:
    """Compare both engines of every network that the catalogue states an INT8 tolerance for."""
    make_bundle()
    return list(comparisons(ONNX))


def comparisons(onnx: Path, rounds: int = ROUNDS) -> Iterator[Comparison]:
    """Compile both engines of each network and run them on the longest real input of one item."""
    cpu = compiler(None, Arch.CPU)
    pairs = zip(plan(onnx, Arch.CPU, cpu), plan(onnx, Arch.CPU, cpu, precision=INT8), strict=True)
    for exact, quantised in pairs:
        if quantised.precision == INT8:
            yield _comparison(exact, quantised, rounds)


def longest_input(job: Job) -> dict[str, Any]:
    """Give the longest real input of one item."""
    *_, longest = gate.single_inputs(gate.real_inputs(job)).values()
    return longest


def _comparison(exact: Job, quantised: Job, rounds: int) -> Comparison:
    feed = longest_input(exact)
    first, second = _engine(exact), _engine(quantised)
    times = in_turns(
        rounds,
        lambda: 1.0 / seconds(lambda: run_session(first, feed)),
        lambda: 1.0 / seconds(lambda: run_session(second, feed)),
    )
    return Comparison(
        title=f"{exact.name}, its longest real input",
        unit="runs a second",
        first_name="FP32",
        first=tuple(first for first, _ in times),
        second_name="INT8",
        second=tuple(second for _, second in times),
    )


def _engine(job: Job) -> Any:
    cpu = compiler(None, Arch.CPU)
    with tempfile.TemporaryDirectory() as folder, quantisation.prepared(job, cpu.NAME) as ready:
        target = Path(folder) / cpu.FILE
        cpu.compile(ready, target, Options())
        return session(target)
