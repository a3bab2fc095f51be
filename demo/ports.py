"""Free ports for a server on this machine."""

import socket
from collections.abc import Mapping

PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}


def free_ports() -> dict[str, int]:
    """Return the usual ports, or three free ones when one of the usual ports is taken."""
    if all(_is_free(port) for port in PORTS.values()):
        return PORTS
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        sockets = dict(zip(PORTS, (first, second, third), strict=True))
        for each in sockets.values():
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1] for name, each in sockets.items()}


def port_options(ports: Mapping[str, int]) -> list[str]:
    """Return the command line options of `python -m runtime` for these ports."""
    return [text for name, port in ports.items() for text in (f"--{name}-port", str(port))]


def _is_free(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("0.0.0.0", port))  # noqa: S104 - the address that the server binds
        except OSError:
            return False
        return True
