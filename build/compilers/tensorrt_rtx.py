"""TensorRT-RTX: compiles ahead of time without a GPU, as proof that a graph compiles for an architecture.

No Triton backend loads these engines; runtime refuses them.
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
# TensorRT-RTX 1.7 knows 7.5, 8.0, 8.6, 8.9 and 12.x: Hopper is not among them.
ARCHES = (Arch.SM75, Arch.SM80, Arch.SM86, Arch.SM89)


def check(arch: Arch, platform: Platform, wanted: Options) -> None:
    """Refuse architectures that TensorRT-RTX has no code for, and choices that a compile check does not have."""
    wanted.refuse_unless_default(NAME)
    if arch not in ARCHES:
        names = ", ".join(known.value for known in ARCHES)
        remedy = f"Use {names}, or leave --compiler out"
        raise CompilerUnavailableError(f"--compiler {NAME}", f"TensorRT-RTX does not compile for {arch.value}", remedy)
    if platform.name != PLATFORM:
        cause = "no Triton serves TensorRT-RTX engines, so they belong to no serving platform"
        raise CompilerUnavailableError(f"--platform {platform.name}", cause, "Leave --platform out")


def precision() -> str:
    """GPUs compute in FP16; Turing has no FP32 matrix product in TensorRT-RTX at all."""
    return "fp16"


def toolchain() -> dict[str, str]:
    """Name the libraries that decide an engine."""
    polygraphy.bind(NAME)
    import tensorrt_rtx  # noqa: PLC0415
    from polygraphy import __version__  # noqa: PLC0415

    return {"tensorrt_rtx": tensorrt_rtx.__version__, "polygraphy": __version__}


def host() -> dict[str, str]:
    """Name the processor: no GPU takes part."""
    return {"processor": preflight.processor()}


def prepare(wanted: Options) -> None:
    """Nothing is needed."""


def options(wanted: Options) -> dict[str, Any]:  # noqa: ARG001 - the protocol's form
    """No builder option is set."""
    return {}


def compile(job: Job, target: Path, wanted: Options) -> Compiled:  # noqa: A001, ARG001 - the protocol's verb and form
    """Write an engine for the job's architecture; the tensors are those of the network it was made of."""
    # ONNX takes a moment to import, and --help needs none of it.
    from build import inspection  # noqa: PLC0415

    inspection.check(job)
    polygraphy.bind(NAME)
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX  # noqa: PLC0415

    capabilities = [job.arch.capability]

    def config(profiles: Any) -> Any:
        return CreateConfigRTX(profiles=profiles, compute_capabilities=capabilities)

    inputs, outputs = polygraphy.network_tensors(polygraphy.compile_network(job, config, target))
    return Compiled(inputs=inputs, outputs=outputs, profiles=job.profiles())


def stream(engine: Path, inputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """No host without the GPU runs these."""
    yield from run(engine, list(inputs))


def run(engine: Path, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:  # noqa: ARG001 - the protocol's form
    """No host without the GPU runs these; the gate asks RUNS_HERE first."""
    raise CompilerUnavailableError(engine, "no CPU runs a TensorRT-RTX engine", "Gate it on the GPU")
