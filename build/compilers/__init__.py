"""Define the interface `Compiler`, and select a compiler; each compiler is one module."""

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast

from build.job import Job
from build.options import Options
from contract.arch import Arch
from contract.errors import SettingError
from contract.manifest import BoundTensor, Profile
from contract.platform import Platform


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """The properties of an engine that a compiler wrote."""

    inputs: tuple[BoundTensor, ...]
    outputs: tuple[BoundTensor, ...]
    profile: Profile | None = None
    """The optimisation profile; None where the engine accepts any shape."""
    device_memory_bytes: int | None = None
    data: Path | None = None
    """The file with the weights of a large ONNX graph, beside the engine; None where the engine holds them itself."""
    files: tuple[Path, ...] = ()
    """Other files that it wrote into the engine's folder."""


class Compiler(Protocol):
    """The interface of every compiler module.

    A module imports its library only when `check` or a later function is called, so that `--help` needs no library.
    """

    NAME: str
    FILE: str
    """Name of an engine's file."""
    PLATFORM: str
    """The platform that it builds for by default."""
    RUNS_HERE: bool
    """Whether this host can run its engines, so that the gate can check them."""

    def check(self, arch: Arch, platform: Platform, wanted: Options) -> None:
        """Raise CompilerUnavailableError or SettingError where this host cannot build such engines."""

    def precision(self) -> str:
        """Return the precision of the graph that it compiles: fp32 or fp16."""

    def toolchain(self) -> dict[str, str]:
        """Return name and exact version of every library that determines an engine."""

    def host(self) -> dict[str, str]:
        """Return the machine for an engine's record: `gpu` and `driver`, or `processor`."""

    def prepare(self, wanted: Options) -> None:
        """Prepare a build before the first key is computed; a dry run does not call it."""

    def options(self, wanted: Options) -> dict[str, Any]:
        """Return the builder options that determine an engine, for its key."""

    def compile(self, job: Job, target: Path, wanted: Options) -> Compiled:
        """Write an engine and return its properties; raise CompileError with the compiler's own message."""

    def run(self, engine: Path, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run an engine on several inputs; return the outputs by name."""

    def stream(self, engine: Path, inputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Run an engine on one input after the other; an input is taken after the outputs before it were yielded."""


_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "tensorrt": "build.compilers.tensorrt",
        "tensorrt_rtx": "build.compilers.tensorrt_rtx",
        "onnxruntime": "build.compilers.onnxruntime",
    }
)
COMPILERS = tuple(_MODULES)


def compiler(name: str | None, arch: Arch) -> Compiler:
    """Return a compiler by name, or the one whose engines a server runs on an architecture."""
    chosen = name or ("onnxruntime" if arch is Arch.CPU else "tensorrt")
    if chosen not in _MODULES:
        raise SettingError(f"--compiler {chosen}", "it is unknown", f"Choose one of {', '.join(COMPILERS)}")
    return cast("Compiler", importlib.import_module(_MODULES[chosen]))
