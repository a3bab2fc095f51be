"""Where a server may listen here."""

import socket

PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}


def free_ports() -> dict[str, int]:
    """Take the usual ports, or any free ones where one of them is taken."""
    if all(_is_free(port) for port in PORTS.values()):
        return PORTS
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        sockets = dict(zip(PORTS, (first, second, third), strict=True))
        for each in sockets.values():
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1] for name, each in sockets.items()}


def _is_free(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("0.0.0.0", port))  # noqa: S104 - the very address that the server takes
        except OSError:
            return False
        return True
