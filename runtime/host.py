"""Read the memory and the CPU cores that this process may use."""

import os
from dataclasses import dataclass
from pathlib import Path

_MEMORY_INFO = Path("/proc/meminfo")
# Memory limits of a container: control groups version 2, then version 1.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """Memory in bytes and CPU cores that this process may use."""

    memory_bytes: int | None
    """None where the host does not report it."""
    cores: int


def describe() -> Host:
    """Return the memory and the cores of this host."""
    return Host(memory_bytes=memory_bytes(_MEMORY_INFO, _LIMITS), cores=available_cores())


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes(information: Path, limits: tuple[Path, ...]) -> int | None:
    """Return the memory in bytes that this process may use: the smaller of the host's and the container's limit."""
    amounts = [_total(information), *(_limit(path) for path in limits)]
    return min((amount for amount in amounts if amount is not None), default=None)


def _total(information: Path) -> int | None:
    try:
        lines = information.read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemTotal:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _limit(path: Path) -> int | None:
    # The text "max" means no limit.
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
