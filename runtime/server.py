"""Define the record of a tritonserver that can be started: binary, flags, environment."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """Executable, flags and environment of one tritonserver."""

    executable: Path
    flags: tuple[str, ...]
    environment: dict[str, str]
