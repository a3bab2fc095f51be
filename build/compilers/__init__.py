"""Compilers: one a file, each the sole importer of its library; the table says which serves what."""

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
    """What a compiler says of an engine that it wrote."""

    inputs: tuple[BoundTensor, ...]
    outputs: tuple[BoundTensor, ...]
    profiles: tuple[Profile, ...] = ()
    """The optimisation profiles, in the engine's order; none where the engine takes any shape."""
    device_memory_bytes: int | None = None
    files: tuple[Path, ...] = ()
    """What else it wrote into the engine's folder."""


class Compiler(Protocol):
    """What every module of this package offers.

    Nothing in it imports its library before `check` was called, so that a list of compilers needs none of them.
    """

    NAME: str
    FILE: str
    """Name of an engine's file."""
    PLATFORM: str
    """The platform it makes engines for unless told otherwise."""
    RUNS_HERE: bool
    """Whether this host can run what it makes, so that the gate can."""

    def check(self, arch: Arch, platform: Platform, wanted: Options) -> None:
        """Raise CompilerUnavailableError or SettingError when such engines cannot be made on this host."""

    def precision(self) -> str:
        """Name the graph that it compiles: fp32 or fp16."""

    def toolchain(self) -> dict[str, str]:
        """Give name and exact version of every library that decides an engine."""

    def host(self) -> dict[str, str]:
        """Name the machine for an engine's record: `gpu` and `driver`, or `processor`."""

    def prepare(self, wanted: Options) -> None:
        """Do what must be done before the first engine's key is known; a look at the keys alone goes without."""

    def options(self, wanted: Options) -> dict[str, Any]:
        """Give the builder options that decide an engine, for its key."""

    def compile(self, job: Job, target: Path, wanted: Options) -> Compiled:
        """Write an engine and say what it is; raise CompileError with the compiler's own words."""

    def run(self, engine: Path, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run an engine on several inputs; outputs by name."""

    def stream(self, engine: Path, inputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Run an engine on one input after the other, each asked for when the outputs before it have been given."""


_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "tensorrt": "build.compilers.tensorrt",
        "tensorrt_rtx": "build.compilers.tensorrt_rtx",
        "onnxruntime": "build.compilers.onnxruntime",
    }
)
COMPILERS = tuple(_MODULES)


def compiler(name: str | None, arch: Arch) -> Compiler:
    """Find a compiler by name, or the one whose engines a server runs on an architecture."""
    chosen = name or ("onnxruntime" if arch is Arch.CPU else "tensorrt")
    if chosen not in _MODULES:
        raise SettingError(f"--compiler {chosen}", "it is not known", f"Choose one of {', '.join(COMPILERS)}")
    return cast("Compiler", importlib.import_module(_MODULES[chosen]))
