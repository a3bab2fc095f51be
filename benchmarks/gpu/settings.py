"""The settings of a proof, as the command line gives them and as each step's process reads them."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from contract import files
from contract.arch import Arch

SETTINGS_FILE = "settings.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What to prove, with which graphs, and where the results go."""

    out: Path
    onnx: Path
    arch: Arch | None = None
    """The architecture that the GPU must have; None accepts the one that is found."""
    platform: str | None = None
    """The platform to build for; None selects the one whose TensorRT is installed."""
    weights: str = "reference"
    """The weights of the torch networks, as `python -m export --weights` names them; they must be those of `onnx`."""
    models: tuple[str, ...] = ()
    """The models to prove; none selects all that were exported."""
    production: bool = False
    torch_python: str = ""
    """The interpreter that has torch; empty for this one."""
    accept_tensorrt: bool = False
    """Whether to build with a TensorRT that no platform has: no server loads such engines."""
    seconds_per_case: float = 0.3
    """How long one case is measured."""
    peak_size: int = 8192
    """Rows and columns of the matrices whose product gives the peak rate of the GPU."""

    @property
    def bundles(self) -> Path:
        """Return the folder of the bundles that the proof builds."""
        return self.out / "engines"

    def save(self) -> None:
        """Write the settings into the results folder."""
        values = asdict(self)
        values |= {"out": str(self.out), "onnx": str(self.onnx), "arch": self.arch.value if self.arch else None}
        files.write(self.out / SETTINGS_FILE, json.dumps(values, indent=2) + "\n")


def load(out: Path) -> Settings:
    """Read the settings of a results folder."""
    values: dict[str, Any] = json.loads((out / SETTINGS_FILE).read_text(encoding="utf-8"))
    known = {field.name for field in fields(Settings)}
    chosen = {name: value for name, value in values.items() if name in known}
    arch = Arch(chosen["arch"]) if chosen["arch"] else None
    paths = {name: Path(chosen[name]) for name in ("out", "onnx")}
    return Settings(**{**chosen, **paths, "arch": arch, "models": tuple(chosen["models"])})
