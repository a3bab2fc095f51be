"""TensorRT: makes the plans that Triton's tensorrt backend serves, on a GPU of the very architecture."""

import importlib.util
from pathlib import Path
from typing import Any

from build import preflight
from build.compilers import polygraphy
from build.job import Job, Tensors
from contract.arch import Arch
from contract.errors import CompilerUnavailableError
from contract.platform import Platform

NAME = "tensorrt"
FILE = "model.plan"
PLATFORM = "26.08"
RUNS_HERE = True


def check(arch: Arch, platform: Platform) -> None:
    """Refuse a host without a GPU of the architecture, or without the platform's TensorRT."""
    subject = f"--arch {arch.value}"
    if arch is Arch.CPU:
        raise CompilerUnavailableError(subject, "TensorRT makes engines for GPUs only", "Leave --compiler out")
    if platform.tensorrt is None:
        raise CompilerUnavailableError(
            f"--platform {platform.name}", "it carries no TensorRT", f"Use --platform {PLATFORM} with {subject}"
        )
    found = preflight.local_arch()
    if found is not arch:
        here = "no GPU was found here" if found is None else f"the GPU here is {found.value}"
        raise CompilerUnavailableError(
            subject,
            f"TensorRT needs an {arch.value} GPU ({arch.gpus}) to build for it, and {here}",
            f"Run the same command on a host with such a GPU inside the container of platform {platform.name}, "
            f"or prove here that the graphs compile with `--compiler tensorrt_rtx`",
        )
    if importlib.util.find_spec("tensorrt") is None:
        raise CompilerUnavailableError(
            subject,
            "TensorRT is not installed here",
            f"Run the same command inside the container of platform {platform.name}, which carries {platform.tensorrt}",
        )
    version = _library().__version__
    if version != platform.tensorrt:
        raise CompilerUnavailableError(
            f"--platform {platform.name}",
            f"its TensorRT is {platform.tensorrt}, this host has {version}, and a plan loads in the same build only",
            f"Run the same command inside the container of platform {platform.name}",
        )


def precision() -> str:
    """GPUs compute in FP16."""
    return "fp16"


def toolchain() -> dict[str, str]:
    """Name the libraries that decide an engine."""
    from polygraphy import __version__  # noqa: PLC0415

    return {"tensorrt": _library().__version__, "polygraphy": __version__}


def options() -> dict[str, Any]:
    """TF32 is off: what the graph calls FP32 is computed in FP32."""
    return {"tf32": False, "fp16_flag": needs_fp16_flag(_library())}


def needs_fp16_flag(library: Any) -> bool:
    """Say whether precision is a builder flag in this TensorRT; from 11 on it lives in the graph alone."""
    return hasattr(library.BuilderFlag, "FP16")


def compile(job: Job, target: Path) -> Tensors:  # noqa: A001 - the protocol's verb
    """Write a plan and read its tensors back from it."""
    library = _library()
    from polygraphy.backend.trt import CreateConfig, EngineFromPath  # noqa: PLC0415

    flags = {"fp16": True} if needs_fp16_flag(library) else {}

    def config(profiles: Any) -> Any:
        return CreateConfig(profiles=profiles, tf32=False, **flags)

    polygraphy.compile_network(job, config, target)
    return polygraphy.engine_tensors(EngineFromPath(str(target))(), library)


def run(engine: Path, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run a plan on several inputs; outputs by name."""
    _library()
    from polygraphy.backend.trt import EngineFromPath, TrtRunner  # noqa: PLC0415

    with TrtRunner(EngineFromPath(str(engine))) as runner:
        return [{name: array.copy() for name, array in runner.infer(feed).items()} for feed in inputs]


def _library() -> Any:
    polygraphy.bind(NAME)
    import tensorrt  # noqa: PLC0415

    return tensorrt
