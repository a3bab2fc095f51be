"""Check accuracy (the gate): compare every engine that this host can run with its graph in FP32.

The FP16 graph of every network also runs on the CPU, so that an overflow is found without a GPU.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from build import arrays, observations, reference
from build.arrays import Arrays
from build.compilers import Compiler
from build.job import Job
from build.observations import Observed
from contract import synthetic_inputs
from contract.catalogue import BATCH
from contract.differences import Difference, compare_all, distance, worst
from contract.errors import BuildError, GateError, GraphError
from contract.manifest import FP16_MAX, NOT_RUN, PASSED, Gate, GateCase, Measurement

FP16 = "fp16"
_SEED = 11


def check(job: Job, compiler: Compiler, engine: Path, store: Path | None = None, *, fresh: bool = False) -> Gate:
    """Compare an engine with ONNX Runtime in FP32 at every corner of its profile and on real inputs.

    Raises GateError for an output beyond its tolerance; the error names the output with the largest value/limit ratio
    of all inputs, and NaN ranks highest. The graph of an FP16 engine must also pass `check_half`, whether or not this
    host can run the engine. `store` and `fresh` are those of `observe`.
    """
    observed = observe(job, store, fresh=fresh)
    if job.precision == FP16 and observed:
        check_half(job, observed)
    activation = observed.activation if observed else None
    graph_cases = observed.cases if job.precision == FP16 and observed else ()
    if not compiler.RUNS_HERE:
        reason = f"{compiler.NAME} engines run only on an {job.arch.value} GPU"
        return Gate(outcome=NOT_RUN, reason=reason, parity=(), cases=graph_cases, activation=activation)
    inputs = gate_inputs(job)
    feeds = list(inputs.values())
    actual, expected = _run(job, compiler, engine, feeds), reference.run_as_written(job.reference, feeds)
    cases = tuple(
        measured(job, name, job.precision, ours, theirs)
        for name, ours, theirs in zip(inputs, actual, expected, strict=True)
    )
    check_tolerances(job, "the engine differs from its graph", cases)
    parity = worst(each for case in cases for each in case.parity)
    reason = f"{len(cases)} inputs"
    return Gate(outcome=PASSED, reason=reason, parity=parity, cases=cases + graph_cases, activation=activation)


def measured(job: Job, name: str, precision: str, actual: Arrays, expected: Arrays) -> GateCase:
    """Measure every output for one input: against the catalogue's tolerance at a precision, and its other figures."""
    return GateCase(
        name=name,
        parity=compare_all(job.family.outputs, actual, expected, precision),
        figures=tuple(
            Measurement(
                output=tensor.name,
                measure=measure,
                value=distance(measure, actual[tensor.name], expected[tensor.name]),
            )
            for tensor in job.family.outputs
            for measure in tensor.figures
        ),
    )


def check_half(job: Job, observed: Observed) -> None:
    """Raise GateError for an FP16 graph that overflows, or that differs from the FP32 graph beyond tolerance."""
    activation = observed.activation
    if activation and math.isinf(activation.value):
        cause = f"its FP16 graph exceeds {FP16_MAX:.0f} at {activation.node} ({activation.operator})"
        raise GateError(_subject(job), cause, "Compute that node in FP32, or scale its inputs, and export again")
    check_tolerances(job, "its FP16 graph differs from its FP32 graph", observed.cases)


def check_tolerances(job: Job, what: str, cases: Iterable[GateCase]) -> None:
    """Raise GateError for an output beyond its tolerance; name the one with the largest value/limit ratio."""
    found = [(difference, case.name) for case in cases for difference in case.parity]
    difference, name = max(found, key=lambda each: (each[0].limit_ratio, _order(each[0])))
    if not difference.within_limit:
        remedy = "Correct the computation of that output, or set a wider tolerance in the catalogue"
        raise GateError(_subject(job), f"{what}: {difference} ({name})", remedy)


def observe(job: Job, store: Path | None = None, *, fresh: bool = False) -> Observed | None:
    """Run a model's FP16 graph on the CPU as written and compare it with the FP32 graph; None without an FP16 graph.

    A run costs many times that of an engine. So the inputs are the smallest corner, the longest corner with a batch of
    one item, and real inputs of one item: an overflow depends on values and on lengths, never on the batch.
    The result is the same for every architecture. It is kept for the life of the process, and in the store, if one is
    named, for later processes. `fresh` ignores the result in the store.
    """
    if job.known_graph(FP16) is None:
        return None
    graphs = [job.graph_file(precision).digest for precision in ("fp32", FP16)]
    return _observe(_Observation(key=(str(job.folder), *graphs, job.mode.name), job=job, store=store, fresh=fresh))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Observation:
    """A job, compared by its graphs and mode: jobs for several architectures share one observation."""

    key: tuple[str, ...]
    job: Job = field(compare=False)
    store: Path | None = field(compare=False)
    fresh: bool = field(compare=False)


@cache
def _observe(observation: _Observation) -> Observed:
    job, inputs = observation.job, half_inputs(observation.job)
    if observation.store is None:
        return _measure_half(job, inputs)
    key = observations.key(job, inputs)
    return observations.get(observation.store, key, lambda: _measure_half(job, inputs), fresh=observation.fresh)


def _measure_half(job: Job, inputs: dict[str, Arrays]) -> Observed:
    # ONNX is slow to import, and --help does not need it.
    from build import activations  # noqa: PLC0415

    graph = activations.ObservedGraph(job.folder / job.graph_file(FP16).file)
    expected = reference.run_as_written(job.reference, list(inputs.values()))
    cases = tuple(
        measured(job, f"FP16 graph, {name}", FP16, graph.run(feed), theirs)
        for (name, feed), theirs in zip(inputs.items(), expected, strict=True)
    )
    return Observed(cases=cases, activation=graph.largest(activations.FP16))


def gate_inputs(job: Job) -> dict[str, Arrays]:
    """Return every input of the gate by the name of its case: random inputs at every corner, then real inputs."""
    return random_inputs(job, synthetic_inputs.corners(job.mode)) | real_inputs(job)


def half_inputs(job: Job) -> dict[str, Arrays]:
    """Return the inputs that an FP16 graph is observed on, by the name of their case."""
    corners = synthetic_inputs.corners(job.mode)
    alone = {**corners[-1], "batch": job.mode.batch.min}
    return random_inputs(job, [corners[0], alone]) | single_inputs(real_inputs(job))


def single_inputs(inputs: dict[str, Arrays]) -> dict[str, Arrays]:
    """Return the inputs with a batch of one item; all inputs where there are none."""
    return {name: feed for name, feed in inputs.items() if len(next(iter(feed.values()))) == 1} or inputs


def random_inputs(job: Job, corners: Iterable[dict[str, int]]) -> dict[str, Arrays]:
    """Return random inputs at corners of a profile, the same at every call."""
    generator = np.random.default_rng(_SEED)
    # Only the axes of inputs: a corner also has the encoder frames that the network makes.
    axes = (BATCH, *dict.fromkeys(axis for tensor in job.family.inputs for axis in tensor.shape))
    return {
        "random " + " ".join(f"{axis} {corner[axis]}" for axis in map(str, axes) if axis in corner): (
            synthetic_inputs.make_inputs(job.family, {**job.record.dims, **corner}, generator)
        )
        for corner in corners
    }


def real_inputs(job: Job) -> dict[str, Arrays]:
    """Load the real inputs that export wrote next to the graph; raise GraphError where they are of another network."""
    found = arrays.read(job.samples)
    wanted, names = {tensor.name for tensor in job.family.inputs}, {name for feed in found.values() for name in feed}
    if names != wanted:
        cause = f"it holds {', '.join(sorted(names))}, and the catalogue's inputs are {', '.join(sorted(wanted))}"
        raise GraphError(job.samples, cause, f"Run `python -m export --model {job.record.model} --force`")
    return {
        f"real sample {number}": {tensor.name: feed[tensor.name] for tensor in job.family.inputs}
        for number, feed in found.items()
    }


def _run(job: Job, compiler: Compiler, engine: Path, feeds: list[Arrays]) -> list[Arrays]:
    try:
        return compiler.run(engine, feeds)
    except BuildError:
        raise
    except Exception as error:
        # The libraries' exceptions have no common base but Exception. An engine must run on valid inputs.
        reason = " ".join(str(error).split())
        remedy = "Build it again with --force, and report the graph if the error remains"
        raise GateError(_subject(job), f"the engine fails on inputs of its profile ({reason})", remedy) from error


def _order(difference: Difference) -> float:
    # NaN compares with no number; here it ranks above all.
    return math.inf if math.isnan(difference.value) else difference.value


def _subject(job: Job) -> str:
    return f"{job.name} for {job.arch.value}"
