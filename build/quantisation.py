"""Build INT8 graphs from FP32 graphs: quantise the large products, calibrated on real inputs."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from build import gate, quantiser
from build.compilers import Compiler
from build.job import Job
from contract import digest
from contract.arch import Arch
from contract.catalogue import INT8
from contract.errors import CompilerUnavailableError, GraphError

# Quantising the input of a smaller product takes longer than the product itself.
MIN_WEIGHTS = 1 << 14


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How a target quantises: activations symmetric around zero or not, weights in seven or eight bits."""

    symmetric: bool
    seven_bits: bool


# Processors without VNNI add pairs of products in 16 bits, which eight-bit weights overflow: the body's output was off
# by half. Seven bits are correct on every x86-64. TensorRT takes signed bytes around zero and adds in 32 bits.
_CPU, _GPU = Scheme(symmetric=False, seven_bits=True), Scheme(symmetric=True, seven_bits=False)
SCHEMES = {"onnxruntime": _CPU, "tensorrt_rtx": _GPU}


def check_precision(precision: str | None, compiler: Compiler, arch: Arch) -> None:
    """Raise CompilerUnavailableError where a compiler builds no INT8 engines for an architecture."""
    if precision != INT8:
        return
    subject = f"--precision {INT8}"
    if compiler.NAME not in SCHEMES:
        cause = f"no INT8 engine of {compiler.NAME} has been measured on a GPU"
        raise CompilerUnavailableError(subject, cause, f"Omit it, or use --compiler {' or '.join(SCHEMES)}")
    if arch is Arch.SM75:
        cause = "the products that are not quantised stay in FP32, which TensorRT-RTX does not support on Turing"
        raise CompilerUnavailableError(subject, cause, "Omit it for sm75")


def options(job: Job, compiler: str) -> dict[str, Any]:
    """Return what determines the INT8 graph of a job, for its engine's key; nothing for another precision."""
    if job.precision != INT8:
        return {}
    scheme = SCHEMES[compiler]
    return {
        "quantisation": {
            **quantiser.toolchain(),
            "symmetric": scheme.symmetric,
            "seven_bits": scheme.seven_bits,
            "least_weights": MIN_WEIGHTS,
            "samples": digest.of_file(job.samples),
        }
    }


@contextmanager
def prepared(job: Job, compiler: str) -> Iterator[Job]:
    """Yield a job whose graph can be compiled: the job itself, or for INT8 a copy with the quantised graph.

    Raises GraphError for a network without a product to quantise.
    """
    if job.precision != INT8:
        yield job
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"{INT8}.onnx"
        nodes = large_products(job)
        feeds = list(gate.single_inputs(gate.real_inputs(job)).values())
        scheme = SCHEMES[compiler]
        quantiser.quantise(job.graph, target, nodes, feeds, symmetric=scheme.symmetric, seven_bits=scheme.seven_bits)
        yield replace(job, instead=target)


def large_products(job: Job) -> list[str]:
    """List the products with at least MIN_WEIGHTS constant weights; raise GraphError when there is none."""
    # ONNX is slow to import, and --help does not need it.
    import onnx  # noqa: PLC0415

    graph = onnx.load(job.graph, load_external_data=False).graph
    sizes = {weight.name: prod(weight.dims) for weight in graph.initializer}
    found = [
        node.name
        for node in graph.node
        if node.op_type in quantiser.QUANTISED and max(sizes.get(name, 0) for name in node.input) >= MIN_WEIGHTS
    ]
    if not found:
        cause = f"it has no matrix product with {MIN_WEIGHTS} weights or more, so that INT8 would save nothing"
        raise GraphError(job.graph, cause, "Omit --precision for it")
    return found
