"""Compares an exported graph with its torch network on synthetic and on real inputs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from contract import synthetic_inputs
from contract.catalogue import Family
from contract.differences import Difference, compare_all, worst
from contract.errors import ParityError
from export.job import Job
from export.samples import Sample
from export.tracing import Boundary

_SEED = 7
_LOG_ERRORS_ONLY = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """One input of a network, and the outputs of torch in FP32 that graphs of every precision are compared with."""

    inputs: Sample
    outputs: list[Any]


def references(job: Job, real: Iterable[Sample]) -> list[Reference]:
    """Run a torch network in FP32 on all inputs that its graphs are compared on; the job's precision does not matter.

    The inputs: synthetic ones in the minimum and the optimal sizes of every mode, the real ones padded, and the real
    ones cut to their own length, which proves that padding changes nothing.
    """
    network = Boundary(job.network, job.family, "fp32")
    inputs = comparison_inputs(job.family, job.dims, list(real))
    found = [Reference(inputs=sample, outputs=run_network(network, sample)) for sample in inputs]
    for reference in found:
        _check_frames(job, reference)
    return found


def _check_frames(job: Job, reference: Reference) -> None:
    """Raise ParityError where a network makes another number of frames than its catalogue's rule."""
    rule, names = job.family.frames, [tensor.name for tensor in job.family.outputs]
    outputs = dict(zip(names, reference.outputs, strict=True))
    if rule is None or "encoder_lengths" not in outputs:
        return
    for samples, frames in zip(reference.inputs["audio_lengths"], outputs["encoder_lengths"], strict=True):
        wanted = max(1, rule.count(int(samples)))
        if frames != wanted:
            raise ParityError(
                job.model.name,
                f"it makes {frames} encoder frames of {samples} samples, and the catalogue's `frames` {wanted}",
                f"Correct `frames` in the catalogue's {job.model.family.name}/model.toml",
            )


def check(job: Job, graph: Path, expected: Iterable[Reference]) -> tuple[Difference, ...]:
    """Compare a graph with its network; return the largest difference of each output.

    Raises ParityError with the figures if a difference is above the catalogue's tolerance.
    """
    session = open_session(graph)
    found = [
        difference
        for reference in expected
        for difference in _differences(job, run_graph(session, reference.inputs), reference.outputs)
    ]
    kept = worst(found)
    failed = [difference for difference in kept if not difference.within_limit]
    if failed:
        subject = f"{job.model.name} in {job.name}"
        figures = "; ".join(str(difference) for difference in failed)
        remedy = (
            f"Compare the exported graph with export/networks, or set a larger tolerance in the catalogue's "
            f"{job.model.family.name}/model.toml"
        )
        raise ParityError(subject, f"the graph differs from the torch network ({figures})", remedy)
    return kept


def comparison_inputs(family: Family, dims: dict[str, int], real: list[Sample]) -> Iterator[Sample]:
    """Yield every input that a graph is compared on."""
    generator = np.random.default_rng(_SEED)
    for mode in family.modes.values():
        # The gate of `build` checks the maximum sizes: torch would need gigabytes for them.
        for sizes in synthetic_inputs.corners(mode)[:2]:
            yield synthetic_inputs.make_inputs(family, {**sizes, **dims}, generator)
    yield from real
    yield from (_cut(family, dims, sample) for sample in real if len(next(iter(sample.values()))) == 1)


def run_network(network: Boundary, sample: Sample) -> list[Any]:
    """Run a torch network on NumPy arrays; return NumPy arrays."""
    with torch.no_grad():
        outputs = network(*(torch.from_numpy(array) for array in sample.values()))
    return [output.numpy() for output in outputs]


def run_graph(session: onnxruntime.InferenceSession, sample: Sample) -> list[Any]:
    """Run an ONNX graph on NumPy arrays; return NumPy arrays."""
    return list(session.run(None, sample))


def open_session(graph: Path) -> onnxruntime.InferenceSession:
    """Open a graph on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _differences(job: Job, actual: list[Any], expected: list[Any]) -> Iterator[Difference]:
    names = [tensor.name for tensor in job.family.outputs]
    ours, theirs = (dict(zip(names, values, strict=True)) for values in (actual, expected))
    yield from compare_all(job.family.outputs, ours, theirs, job.precision)


def _cut(family: Family, dims: dict[str, int], sample: Sample) -> Sample:
    # The sample has one item: each dynamic axis with a length is cut to this length.
    lengths = {
        tensor.synthetic.length_of: sample[tensor.name].max()
        for tensor in family.inputs
        if tensor.synthetic and tensor.synthetic.length_of and tensor.synthetic.length_of not in dims
    }
    return {tensor.name: _cut_axes(sample[tensor.name], ("batch", *tensor.shape), lengths) for tensor in family.inputs}


def _cut_axes(array: Any, axes: tuple[int | str, ...], lengths: dict[str, int]) -> Any:
    return np.ascontiguousarray(array[tuple(slice(None, lengths.get(str(axis))) for axis in axes)])
