"""A tritonserver that can be started: the binary, its own flags, its environment."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """How to start one tritonserver."""

    executable: Path
    flags: tuple[str, ...]
    environment: dict[str, str]
