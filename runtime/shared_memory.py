"""The shared memory of the embedded server's Python-based backends: named so that servers never meet, and swept."""

import os
import re
from pathlib import Path

_FOLDER = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux; nothing is created there
_NAME = "voxwright-{namespace}-{pid}-"


def prefix() -> str:
    """Name this process's regions; tritonserver takes its place, and with it the process id."""
    return _NAME.format(namespace=_namespace(), pid=os.getpid())


def sweep(folder: Path = _FOLDER) -> list[str]:
    """Remove regions of servers that were killed: nobody else would. Give the names that were removed.

    Containers may share the folder without sharing process ids, hence the namespace in the name.
    """
    stale = [path for path in sorted(folder.glob("voxwright-*")) if _is_stale(path.name)]
    for path in stale:
        path.unlink(missing_ok=True)
    return [path.name for path in stale]


def _is_stale(name: str) -> bool:
    match = re.match(r"voxwright-(\d+)-(\d+)-", name)
    if match is None or match[1] != _namespace():
        return False
    pid = int(match[2])
    # Regions under this very process id are an earlier server's: this one has not started yet.
    return pid == os.getpid() or not Path(f"/proc/{pid}").exists()


def _namespace() -> str:
    return "".join(character for character in str(Path("/proc/self/ns/pid").readlink()) if character.isdigit())
