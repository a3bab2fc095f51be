"""Build the command line of tritonserver and replace this process with it."""

import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from contract.errors import ServerUnavailableError
from contract.platform import Platform
from runtime import flags
from runtime.server import Server
from runtime.settings import Settings

_SECRET_BYTES = 32


def installed(platform: Platform, environment: Mapping[str, str]) -> Server:
    """Return the tritonserver of a GPU container, found on the PATH; raise ServerUnavailableError when it is absent."""
    found = shutil.which("tritonserver", path=environment.get("PATH", os.defpath))
    if found is None:
        raise ServerUnavailableError(
            "tritonserver",
            f"it is not on the PATH; platform {platform.name} needs the one of {platform.title}",
            "Start inside the serving image, or serve on the CPU with `--platform embedded`",
        )
    return Server(executable=Path(found), flags=(), environment=dict(environment))


def arguments(server: Server, chosen: Settings, pools: Sequence[str] = ()) -> list[str]:
    """Return the command line of tritonserver, one item per argument; `pools` are the flags of its memory pools."""
    # Without an admin key of the operator a random key is used and not printed: no request can open these APIs.
    admin_key = chosen.admin_key or secrets.token_urlsafe(_SECRET_BYTES)
    return [
        str(server.executable),
        f"--model-repository={chosen.repository}",
        *flags.FIXED,
        *flags.restricted(admin_key),
        *chosen.addresses.flags(),
        *(f"{flag}={port}" for flag, port in chosen.ports.flags().items()),
        *flags.PINGS,
        *(chosen.grpc_tls.flags() if chosen.grpc_tls is not None else ()),
        # tritonserver has no JSON log format. ISO8601 at least gives its lines the full date.
        *(["--log-format=ISO8601"] if chosen.log_format == "json" else []),
        *pools,
        *server.flags,
        *chosen.triton_flags,
    ]


def start(server: Server, argv: Sequence[str]) -> NoReturn:
    """Replace this process with tritonserver, so that signals, the exit code and PID 1 are its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(server.executable, list(argv), server.environment)  # noqa: S606 - no shell is the point
    except OSError as error:
        remedy = "Reinstall it, or make it executable"
        raise ServerUnavailableError(server.executable, f"it cannot be started ({error.strerror})", remedy) from error
