"""TensorRT-RTX: compile ahead of time without a GPU, to prove that a graph compiles for an architecture.

No Triton backend loads these engines, and runtime rejects them.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from build import preflight
from build.compilers import Compiled, polygraphy
from build.job import Job
from build.options import Options
from contract.arch import Arch
from contract.errors import CompilerUnavailableError
from contract.platform import Platform

NAME = "tensorrt_rtx"
FILE = "model.rtx"
PLATFORM = "compile-check"
RUNS_HERE = False
# TensorRT-RTX 1.7 supports 7.5, 8.0, 8.6, 8.9 and 12.x, but not Hopper.
ARCHES = (Arch.SM75, Arch.SM80, Arch.SM86, Arch.SM89)


def check(arch: Arch, platform: Platform, wanted: Options) -> None:
    """Reject architectures that TensorRT-RTX does not support, and options that do not apply to a compile check."""
    wanted.require_defaults(NAME)
    if arch not in ARCHES:
        names = ", ".join(known.value for known in ARCHES)
        remedy = f"Use {names}, or omit --compiler"
        raise CompilerUnavailableError(f"--compiler {NAME}", f"TensorRT-RTX does not compile for {arch.value}", remedy)
    if platform.name != PLATFORM:
        cause = "no Triton server loads TensorRT-RTX engines, so they belong to no serving platform"
        raise CompilerUnavailableError(f"--platform {platform.name}", cause, "Omit --platform")


def precision() -> str:
    """Return fp16, the precision of GPUs; for Turing TensorRT-RTX has no FP32 matrix product."""
    return "fp16"


def toolchain() -> dict[str, str]:
    """Return names and versions of the libraries that determine an engine."""
    polygraphy.bind(NAME)
    import tensorrt_rtx  # noqa: PLC0415
    from polygraphy import __version__  # noqa: PLC0415

    return {"tensorrt_rtx": tensorrt_rtx.__version__, "polygraphy": __version__}


def host() -> dict[str, str]:
    """Return the processor, since no GPU is used."""
    return {"processor": preflight.processor()}


def prepare(wanted: Options) -> None:
    """Do nothing: no preparation is needed."""


def options(wanted: Options) -> dict[str, Any]:  # noqa: ARG001 - the protocol's signature
    """Return no options, because no builder option is set."""
    return {}


def compile(job: Job, target: Path, wanted: Options) -> Compiled:  # noqa: A001, ARG001 - the protocol's name and signature
    """Write an engine for the job's architecture; the tensors are those of the parsed network."""
    # ONNX is slow to import, and --help does not need it.
    from build import inspection  # noqa: PLC0415

    inspection.check(job)
    polygraphy.bind(NAME)
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX  # noqa: PLC0415

    capabilities = [job.arch.capability]

    def config(profiles: Any) -> Any:
        return CreateConfigRTX(profiles=profiles, compute_capabilities=capabilities)

    inputs, outputs = polygraphy.network_tensors(polygraphy.compile_network(job, config, target))
    return Compiled(inputs=inputs, outputs=outputs, profile=job.profile())


def stream(engine: Path, inputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Raise CompilerUnavailableError, as `run` does."""
    yield from run(engine, list(inputs))


def run(engine: Path, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:  # noqa: ARG001 - the protocol's signature
    """Raise CompilerUnavailableError: these engines need a GPU, and the gate checks RUNS_HERE first."""
    raise CompilerUnavailableError(
        engine, "a TensorRT-RTX engine does not run on a CPU", "Run the gate on a host with the GPU"
    )
