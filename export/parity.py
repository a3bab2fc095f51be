"""Holds an exported graph against the torch network it came from, on made-up and on real inputs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from contract import synthetic_inputs
from contract.catalogue import Family
from contract.differences import Difference, compare, worst
from contract.errors import ParityError
from export.job import Job
from export.samples import Sample
from export.tracing import Boundary

_SEED = 7
_QUIET = 3


def check(job: Job, graph: Path, real: list[Sample]) -> tuple[Difference, ...]:
    """Compare a graph with its network in FP32; give the worst of each output, or raise ParityError with the numbers.

    The inputs: made-up ones at the least and the optimal sizes of every mode, the real ones padded, and the real ones
    cut to their own length, so that padding is proven to change nothing.
    """
    session = open_session(graph)
    reference = Boundary(job.network, job.family, "fp32")
    found = [
        difference
        for sample in probe_inputs(job.family, job.dims, real)
        for difference in _agreements(job, run_graph(session, sample), run_network(reference, sample))
    ]
    kept = worst(found)
    failed = [difference for difference in kept if not difference.within_limit]
    if failed:
        subject = f"{job.model.name} in {job.name}"
        figures = "; ".join(str(difference) for difference in failed)
        remedy = "Look at what the exporter made of that network, or state a wider tolerance in the catalogue"
        raise ParityError(subject, f"the graph differs from the torch network ({figures})", remedy)
    return kept


def probe_inputs(family: Family, dims: dict[str, int], real: list[Sample]) -> Iterator[Sample]:
    """Give every input that a graph is compared on."""
    generator = np.random.default_rng(_SEED)
    for mode in family.modes.values():
        # The largest corner is the gate's business: torch would need gigabytes for it.
        for sizes in synthetic_inputs.corners(mode)[:2]:
            yield synthetic_inputs.inputs(family, {**sizes, **dims}, generator)
    yield from real
    yield from (_cut(family, dims, sample) for sample in real if len(next(iter(sample.values()))) == 1)


def run_network(network: Boundary, sample: Sample) -> list[Any]:
    """Run a torch network on NumPy arrays."""
    with torch.no_grad():
        outputs = network(*(torch.from_numpy(array) for array in sample.values()))
    return [output.numpy() for output in outputs]


def run_graph(session: onnxruntime.InferenceSession, sample: Sample) -> list[Any]:
    """Run a graph on NumPy arrays."""
    return list(session.run(None, sample))


def open_session(graph: Path) -> onnxruntime.InferenceSession:
    """Open a graph on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _agreements(job: Job, actual: list[Any], expected: list[Any]) -> Iterator[Difference]:
    for tensor, ours, theirs in zip(job.family.outputs, actual, expected, strict=True):
        yield compare(tensor, ours, theirs, job.precision)


def _cut(family: Family, dims: dict[str, int], sample: Sample) -> Sample:
    # One item alone: every axis that a length describes, and that may have another size, ends where the length says.
    lengths = {
        tensor.synthetic.length_of: sample[tensor.name].max()
        for tensor in family.inputs
        if tensor.synthetic and tensor.synthetic.length_of and tensor.synthetic.length_of not in dims
    }
    return {tensor.name: _cut_axes(sample[tensor.name], ("batch", *tensor.shape), lengths) for tensor in family.inputs}


def _cut_axes(array: Any, axes: tuple[int | str, ...], lengths: dict[str, int]) -> Any:
    return np.ascontiguousarray(array[tuple(slice(None, lengths.get(str(axis))) for axis in axes)])
