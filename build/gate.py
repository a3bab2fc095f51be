"""The accuracy gate: every engine that can run here is held against its graph in FP32 before it may ship."""

from pathlib import Path
from typing import Any

import numpy as np

from build.compilers import Compiler
from build.compilers import onnxruntime as reference
from build.job import Job
from contract import probes
from contract.agreement import compare, worst
from contract.errors import GateError
from contract.graph import SAMPLES_FILE
from contract.manifest import NOT_RUN, PASSED, Gate

_SEED = 11


def check(job: Job, compiler: Compiler, engine: Path) -> Gate:
    """Hold an engine against ONNX Runtime in FP32 at every corner of its profile and on real inputs.

    Raises GateError that names the worst place of every output beyond tolerance.
    """
    if not compiler.RUNS_HERE:
        return Gate(outcome=NOT_RUN, reason=f"{compiler.NAME} engines run on an {job.arch.value} GPU only", parity=())
    cases = gate_inputs(job)
    feeds = list(cases.values())
    actual, expected = compiler.run(engine, feeds), reference.run_as_written(job.reference, feeds)
    found = [
        (compare(tensor, ours[tensor.name], theirs[tensor.name], job.precision), case)
        for case, ours, theirs in zip(cases, actual, expected, strict=True)
        for tensor in job.family.outputs
    ]
    failed = [f"{agreement} ({case})" for agreement, case in found if not agreement.holds]
    if failed:
        remedy = "Look at that output, or state a wider tolerance in the catalogue"
        raise GateError(f"{job.name} for {job.arch.value}", f"the engine differs from its graph: {failed[0]}", remedy)
    return Gate(outcome=PASSED, reason=f"{len(cases)} inputs", parity=worst(each for each, _ in found))


def gate_inputs(job: Job) -> dict[str, dict[str, Any]]:
    """Give every input of the gate by the name of its case: made-up ones at every corner, then the real ones."""
    generator = np.random.default_rng(_SEED)
    cases = {
        "random " + " ".join(f"{axis} {size}" for axis, size in corner.items()): probes.inputs(
            job.family, {**job.record.dims, **corner}, generator
        )
        for corner in probes.corners(job.mode)
    }
    return cases | real_inputs(job)


def real_inputs(job: Job) -> dict[str, dict[str, Any]]:
    """Load the real inputs that export left beside the graph."""
    with np.load(job.folder / SAMPLES_FILE) as arrays:
        numbers = sorted({int(key.rpartition(".")[2]) for key in arrays.files})
        return {
            f"real sample {number}": {tensor.name: arrays[f"{tensor.name}.{number}"] for tensor in job.family.inputs}
            for number in numbers
        }
