"""INT8 graphs, made of FP32 ones: large products between quantise and dequantise nodes, calibrated on real inputs."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from build import gate
from build.compilers import Compiler
from build.compilers import onnxruntime as quantiser
from build.job import Job
from contract import digest
from contract.arch import Arch
from contract.catalogue import INT8
from contract.errors import CompilerUnavailableError, GraphError

# A smaller product is over before its input is quantised.
LEAST_WEIGHTS = 1 << 14


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """The numbers of a target: how activations are held, and whether weights keep to seven bits of eight."""

    symmetric: bool
    seven_bits: bool


# Processors without VNNI add pairs of products in 16 bits, which full bytes overflow: the body was off by half. Seven
# bits are right on every x86-64. TensorRT knows signed bytes around zero and adds in 32 bits.
_CPU, _GPU = Scheme(symmetric=False, seven_bits=True), Scheme(symmetric=True, seven_bits=False)
SCHEMES = {"onnxruntime": _CPU, "tensorrt_rtx": _GPU}


def check_precision(precision: str | None, compiler: Compiler, arch: Arch) -> None:
    """Raise CompilerUnavailableError where a compiler makes no INT8 engines for an architecture."""
    if precision != INT8:
        return
    subject = f"--precision {INT8}"
    if compiler.NAME not in SCHEMES:
        cause = f"no {compiler.NAME} engine of it has been measured on a GPU"
        raise CompilerUnavailableError(subject, cause, f"Leave it out, or use --compiler {' or '.join(SCHEMES)}")
    if arch is Arch.SM75:
        cause = "what is not quantised is multiplied in FP32, which TensorRT-RTX cannot do on Turing"
        raise CompilerUnavailableError(subject, cause, "Leave it out for sm75")


def options(job: Job, compiler: str) -> dict[str, Any]:
    """Give what decides the INT8 graph of a job, for the key of its engine; nothing for another precision."""
    if job.precision != INT8:
        return {}
    scheme = SCHEMES[compiler]
    return {
        "quantisation": {
            **quantiser.toolchain(),
            "symmetric": scheme.symmetric,
            "seven_bits": scheme.seven_bits,
            "least_weights": LEAST_WEIGHTS,
            "samples": digest.of_file(job.samples),
        }
    }


@contextmanager
def prepared(job: Job, compiler: str) -> Iterator[Job]:
    """Give a job whose graph can be compiled: itself, or for INT8 one with the graph that is made for it.

    Raises GraphError for a network that has nothing to quantise.
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
    """Name the products of a graph with constant weights that are worth it; raise GraphError when there is none."""
    # ONNX takes a moment to import, and --help needs none of it.
    import onnx  # noqa: PLC0415

    graph = onnx.load(job.graph).graph
    sizes = {weight.name: prod(weight.dims) for weight in graph.initializer}
    found = [
        node.name
        for node in graph.node
        if node.op_type in quantiser.QUANTISED and max(sizes.get(name, 0) for name in node.input) >= LEAST_WEIGHTS
    ]
    if not found:
        cause = f"it multiplies no matrix of {LEAST_WEIGHTS} weights or more, so that INT8 would save nothing"
        raise GraphError(job.graph, cause, "Leave --precision out for it")
    return found
