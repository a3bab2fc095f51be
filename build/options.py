"""What a build may be told beside the graph: the choices that decide an engine."""

from dataclasses import dataclass
from pathlib import Path

from contract import compatibility
from contract.errors import SettingError

GIBIBYTE = 1 << 30
_FLAGS = {
    "workspace_bytes": "--workspace-gib",
    "optimization_level": "--optimization-level",
    "compatibility": "--compatibility",
    "version_compatible": "--version-compatible",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The choices of a build; the defaults are right for a bundle that is served where it was built."""

    workspace_bytes: int = 4 * GIBIBYTE
    """The most device memory that one operation may take for itself while it runs."""
    optimization_level: int = 3
    """How long TensorRT searches for fast kernels, 0 to 5."""
    compatibility: str = compatibility.NONE
    """Which other GPUs an engine runs on: none, those of the same compute capability, or Ampere and later."""
    version_compatible: bool = False
    """Whether a later TensorRT of the same major version, or the next one, loads an engine."""
    timing: Path | None = None
    """The folder of timing caches; None keeps none."""

    def refuse_unless_default(self, compiler: str) -> None:
        """Raise SettingError for a choice that a compiler without builder options cannot follow."""
        for name, flag in _FLAGS.items():
            if getattr(self, name) != getattr(Options(), name):
                raise SettingError(
                    flag, f"it has no meaning for {compiler}", "Leave it out, or use --compiler tensorrt"
                )
