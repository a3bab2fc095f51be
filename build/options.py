"""Define the options of a build that determine an engine."""

from dataclasses import dataclass
from pathlib import Path

from build.units import GIBIBYTE
from contract import compatibility
from contract.errors import SettingError

_FLAGS = {
    "workspace_bytes": "--workspace-gib",
    "optimization_level": "--optimization-level",
    "compatibility": "--compatibility",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of a build; the defaults suit a bundle that is served on the GPU model that built it."""

    workspace_bytes: int = 4 * GIBIBYTE
    """The most device memory that one operation may use while it runs."""
    optimization_level: int = 3
    """How long TensorRT searches for fast kernels, 0 to 5."""
    compatibility: str = compatibility.NONE
    """The other GPUs that an engine runs on: none, those of the same compute capability, or Ampere and later."""
    timing: Path | None = None
    """The folder of timing caches; None for no cache."""

    def require_defaults(self, compiler: str) -> None:
        """Raise SettingError for an option that a compiler without builder options cannot apply."""
        for name, flag in _FLAGS.items():
            if getattr(self, name) != getattr(Options(), name):
                raise SettingError(flag, f"it does not apply to {compiler}", "Omit it, or use --compiler tensorrt")
