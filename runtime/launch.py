"""Starts tritonserver in this process's place."""

import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from contract.errors import PortInUseError, ServerUnavailableError, SettingError
from contract.platform import Platform
from runtime.server import Server
from runtime.settings import Ports

# Kubernetes kills a container 30 s after it asked it to end: be done before.
_EXIT_TIMEOUT_S = 25


def installed(platform: Platform, environment: Mapping[str, str]) -> Server:
    """Find the tritonserver of a GPU container on the PATH; raise ServerUnavailableError when it is not there."""
    found = shutil.which("tritonserver", path=environment.get("PATH", os.defpath))
    if found is None:
        raise ServerUnavailableError(
            "tritonserver",
            f"it is not on the PATH, and platform {platform.name} needs that of {platform.title}",
            "Start inside the serving image, or serve on the CPU with `--platform embedded`",
        )
    return Server(executable=Path(found), flags=(), environment=dict(environment))


def check_ports(ports: Ports) -> None:
    """Try each port; raise PortInUseError for a taken one, with the option that moves it."""
    for flag, port in ports.flags().items():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As the server does: a port that only waits for late packets of a closed server is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except PermissionError as error:
                raise SettingError(flag, f"this user may not open port {port}", "Choose one above 1023") from error
            except OSError as error:
                remedy = f"End what uses it, or choose another port with {flag}"
                raise PortInUseError(f"port {port}", "another process listens on it", remedy) from error


def arguments(server: Server, repository: Path, ports: Ports, extra: Sequence[str]) -> list[str]:
    """Give tritonserver's command line, one list item an argument."""
    return [
        str(server.executable),
        f"--model-repository={repository}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-on-error=true",
        f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
        *(f"{flag}={port}" for flag, port in ports.flags().items()),
        *server.flags,
        *extra,
    ]


def start(server: Server, argv: Sequence[str]) -> NoReturn:
    """Become tritonserver, so that signals, the exit code and PID 1 are its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(server.executable, list(argv), server.environment)  # noqa: S606 - no shell is the point
    except OSError as error:
        remedy = "Reinstall it, or make it executable"
        raise ServerUnavailableError(server.executable, f"it cannot be started ({error.strerror})", remedy) from error
