"""Compilers: one a file, each the sole importer of its library; the table says which serves what."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast

from build.job import Job, Tensors
from contract.arch import Arch
from contract.errors import SettingError
from contract.platform import Platform


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

    def check(self, arch: Arch, platform: Platform) -> None:
        """Raise CompilerUnavailableError when this host cannot make engines for the architecture."""

    def precision(self) -> str:
        """Name the graph that it compiles: fp32 or fp16."""

    def toolchain(self) -> dict[str, str]:
        """Give name and exact version of every library that decides an engine."""

    def options(self) -> dict[str, Any]:
        """Give the builder options that decide an engine, for its key."""

    def compile(self, job: Job, target: Path) -> Tensors:
        """Write an engine and give its inputs and outputs; raise CompileError with the compiler's own words."""

    def run(self, engine: Path, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run an engine on several inputs; outputs by name."""


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
