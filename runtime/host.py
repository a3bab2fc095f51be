"""What this host has besides a GPU."""

import os
from dataclasses import dataclass
from pathlib import Path

_MEMORY_INFO = Path("/proc/meminfo")
# What a container may use, by control groups of version 2 and of version 1.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """Memory and cores that this process may use."""

    memory_bytes: int | None
    """None where the host does not tell."""
    cores: int


def describe() -> Host:
    """Describe this host."""
    return Host(memory_bytes=memory_bytes(_MEMORY_INFO, _LIMITS), cores=available_cores())


def available_cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes(information: Path, limits: tuple[Path, ...]) -> int | None:
    """Give the memory that this process may use: the host's, or its container's where that is less."""
    amounts = [_total(information), *(_limit(path) for path in limits)]
    return min((amount for amount in amounts if amount is not None), default=None)


def _total(information: Path) -> int | None:
    try:
        lines = information.read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemTotal:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _limit(path: Path) -> int | None:
    # "max" stands for no limit.
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
