"""Free ports for the servers of tests that run in parallel."""

import itertools
import os
import socket

# Below the range that Linux takes for outgoing connections (32768 and above), so that no client holds one by chance.
_FIRST, _PER_WORKER, _WORKERS = 20_000, 1_000, 12
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_CANDIDATES = itertools.cycle(range(_FIRST + _WORKER * _PER_WORKER, _FIRST + (_WORKER + 1) * _PER_WORKER))


def free_ports(count: int) -> list[int]:
    """Return ports on which no process listens, from the range of this worker; none is returned twice in a row.

    Each worker has a range of its own: a port that is tested and closed again cannot be taken by another worker.
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
