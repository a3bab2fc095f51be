"""Free ports for the servers of tests that run in parallel, in one session or in several."""

import fcntl
import itertools
import socket
import tempfile
from pathlib import Path
from typing import TextIO

# Below the range that Linux takes for outgoing connections (32768 and above), so that no client holds one by chance.
_FIRST, _PER_PROCESS, _PROCESSES = 20_000, 400, 30
# Locks of this process, until it ends.
_HELD: list[TextIO] = []


def free_ports(count: int) -> list[int]:
    """Return ports on which no process listens, from the range of this process; none is returned twice in a row.

    Each process has a range of its own: a port that is tested and closed again cannot be taken by another one.
    """
    found: list[int] = []
    while len(found) < count:
        port = next(_CANDIDATES)
        with socket.socket() as attempt:
            try:
                attempt.bind(("", port))
            except OSError:
                continue
        found.append(port)
    return found


def _range() -> range:
    """Return a range that no other process holds."""
    for number in range(_PROCESSES):
        path = Path(tempfile.gettempdir()) / f"voxwright-test-ports-{number}.lock"
        try:
            file = path.open("w")
        except OSError:
            continue  # It is of another user.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _HELD.append(file)
        return range(_FIRST + number * _PER_PROCESS, _FIRST + (number + 1) * _PER_PROCESS)
    raise RuntimeError(f"{_PROCESSES} processes hold all ranges of ports; end one of them")


_CANDIDATES = itertools.cycle(_range())
