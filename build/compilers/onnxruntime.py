"""ONNX Runtime: optimise a graph offline for any x86-64, for the embedded server and Triton's onnxruntime backend."""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from build import preflight
from build.compilers import Compiled
from build.job import Job
from build.options import Options
from build.reference import library, run_session, session
from contract.arch import Arch
from contract.errors import CompileError, CompilerUnavailableError
from contract.graph import weights_beside
from contract.manifest import BoundTensor
from contract.platform import Platform

NAME = "onnxruntime"
FILE = "model.onnx"
PLATFORM = "embedded"
RUNS_HERE = True
# The highest level would also choose memory layouts for this processor; this level is correct on every x86-64.
_LEVEL = "ORT_ENABLE_EXTENDED"
_REMEDY = "Run `python -m export --force` again, and report the graph if the error remains"
_TYPES = {"tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(int32)": "INT32"}


def check(arch: Arch, platform: Platform, wanted: Options) -> None:
    """Reject architectures other than the CPU, platforms without an onnxruntime backend, and TensorRT's options."""
    if arch is not Arch.CPU:
        raise CompilerUnavailableError(
            f"--compiler {NAME}", f"it builds engines for the CPU, not for {arch.value}", "Omit --compiler"
        )
    if platform.backend != NAME:
        raise CompilerUnavailableError(
            f"--platform {platform.name}",
            "its server runs no CPU engines",
            f"Use --platform {PLATFORM}",
        )
    wanted.require_defaults(NAME)


def precision() -> str:
    """Return fp32, the precision that CPUs compute in."""
    return "fp32"


def toolchain() -> dict[str, str]:
    """Return name and version of the library that determines an engine."""
    return {"onnxruntime": library().__version__}


def host() -> dict[str, str]:
    """Return the name of the processor."""
    return {"processor": preflight.processor()}


def prepare(wanted: Options) -> None:
    """Do nothing: no preparation is needed."""


def options(wanted: Options) -> dict[str, Any]:  # noqa: ARG001 - the protocol's signature
    """Return the optimisation level."""
    return {"graph_optimization_level": _LEVEL}


def compile(job: Job, target: Path, wanted: Options) -> Compiled:  # noqa: A001, ARG001 - the protocol's name and signature
    """Write the optimised graph and read its tensors back from it; raise CompileError for an unusable graph.

    The weights of a graph that has them in a file of their own get one here too.
    """
    try:
        session(job.graph, _LEVEL, optimised=target, separate=job.data is not None)
    except Exception as error:
        # Its exceptions have no common base but Exception, and it reports a full disk as a bad graph.
        if shutil.disk_usage(target.parent).free < job.graph_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        reason = " ".join(str(error).split())
        raise CompileError(job.name, f"ONNX Runtime rejects the graph ({reason})", _REMEDY) from error
    compiled = session(target)
    return Compiled(
        inputs=tuple(map(_bound, compiled.get_inputs())),
        outputs=tuple(map(_bound, compiled.get_outputs())),
        data=weights_beside(target),
    )


def run(engine: Path, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run an optimised graph on several inputs; return the outputs by name."""
    return list(stream(engine, inputs))


def stream(engine: Path, inputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Run an optimised graph on inputs that may depend on earlier outputs."""
    opened = session(engine)
    yield from (run_session(opened, feed) for feed in inputs)


def _bound(value: Any) -> BoundTensor:
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
    return BoundTensor(name=value.name, type=_TYPES[value.type], dims=dims)
