"""Start Debian's PostgreSQL, as a user that is not root."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ports import free_ports

_PROGRAMS = next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
_START_S = 60


def require() -> None:
    """Skip a test where PostgreSQL is not installed."""
    if _PROGRAMS is None:
        pytest.skip("PostgreSQL's server is not installed (Debian's package postgresql)")


@contextmanager
def started() -> Iterator[str]:
    """Yield the URL of an empty database; stop the server at the end."""
    require()
    # The folders of pytest are open to their owner only, and the server runs as another user.
    with tempfile.TemporaryDirectory(prefix="voxwright-postgres-") as folder:
        Path(folder).chmod(0o755)
        data, port = Path(folder) / "data", free_ports(1)[0]
        data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(data, _user())
        _run("initdb", "--pgdata", data, "--username", "voxwright", "--auth", "trust", "--no-sync")
        flags = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        _run("pg_ctl", "--pgdata", data, "--log", data / "log", "--wait", "--timeout", _START_S, "-o", flags, "start")
        try:
            yield f"postgresql://voxwright@127.0.0.1:{port}/postgres"
        finally:
            _run("pg_ctl", "--pgdata", data, "--mode", "immediate", "--wait", "stop")


def _user() -> str:
    # The one of Debian's package.
    return "postgres"


def _run(program: str, *arguments: object) -> None:
    assert _PROGRAMS is not None
    words = [str(_PROGRAMS / program), *map(str, arguments)]
    if os.geteuid() == 0:
        words = ["setpriv", f"--reuid={_user()}", f"--regid={pwd.getpwnam(_user()).pw_gid}", "--clear-groups", *words]
    # The server inherits the outputs of pg_ctl: with pipes, their end would come only with the end of the server.
    done = subprocess.run(
        words, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=2 * _START_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}: exit code {done.returncode}"
