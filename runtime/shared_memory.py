"""Name the shared-memory regions of the embedded server's Python backends, and remove those of dead servers."""

import os
import re
from pathlib import Path

_FOLDER = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux; nothing is created there
_NAME = "voxwright-{namespace}-{pid}-"


def prefix() -> str:
    """Return the name prefix of this process's regions; tritonserver replaces this process and keeps its process id."""
    return _NAME.format(namespace=_namespace(), pid=os.getpid())


def sweep(folder: Path = _FOLDER) -> list[str]:
    """Remove the regions of servers that were killed, and return the removed names; no other process removes them.

    The name holds the PID namespace, because containers may share the folder without sharing process ids.
    """
    return [path.name for path in sorted(folder.glob("voxwright-*")) if _is_stale(path.name) and _remove(path)]


def _remove(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        return False  # that of another user, in a folder where only its owner may remove it
    return True


def _is_stale(name: str) -> bool:
    match = re.match(r"voxwright-(\d+)-(\d+)-", name)
    if match is None or match[1] != _namespace():
        return False
    pid = int(match[2])
    # Regions with this process's own id belong to an earlier server: this one has not started yet.
    return pid == os.getpid() or not Path(f"/proc/{pid}").exists()


def _namespace() -> str:
    return "".join(character for character in str(Path("/proc/self/ns/pid").readlink()) if character.isdigit())
