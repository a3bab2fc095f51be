"""Starts tritonserver in this process's place."""

import os
import secrets
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from contract.errors import PortInUseError, ServerUnavailableError, SettingError
from contract.platform import Platform
from runtime import flags
from runtime.server import Server
from runtime.settings import Ports, Settings

_SECRET_BYTES = 32


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


def arguments(server: Server, chosen: Settings) -> list[str]:
    """Give tritonserver's command line, one list item an argument."""
    # Without a key of the operator's nobody is to know it: the interfaces are closed.
    admin_key = chosen.admin_key or secrets.token_urlsafe(_SECRET_BYTES)
    return [
        str(server.executable),
        f"--model-repository={chosen.repository}",
        *flags.FIXED,
        *flags.restricted(admin_key),
        *(f"{flag}={port}" for flag, port in chosen.ports.flags().items()),
        # Triton has no JSON. Lines between JSON should at least bear their whole date.
        *(["--log-format=ISO8601"] if chosen.log_format == "json" else []),
        *server.flags,
        *chosen.triton_flags,
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
