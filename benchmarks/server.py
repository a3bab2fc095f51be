"""The embedded server with the bundle of this machine, during a measurement."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import processor_seconds
from contract import manifest
from contract.catalogue import BATCH_MODE
from contract.errors import ServerUnavailableError
from demo.ports import free_ports, port_options

BUNDLE = Path("dist/engines/embedded/cpu")
READY_SECONDS = 120


def ensure_bundle() -> None:
    """Export and build for the CPU unless a bundle exists."""
    if not (BUNDLE / manifest.MANIFEST_FILE).is_file():
        update_bundle("--mode", "batch")


def update_bundle(*options: str) -> None:
    """Export and build for the CPU what has changed; `options` are those of build.engines."""
    subprocess.run([sys.executable, "-m", "export"], check=True)
    subprocess.run([sys.executable, "-m", "build.engines", "--arch", "cpu", *options], check=True)


def engine(model: str, mode: str = BATCH_MODE) -> Path:
    """Return the file of a model that is served."""
    records = manifest.load(BUNDLE).engines
    return BUNDLE / next(record.file for record in records if (record.model, record.mode) == (model, mode))


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A running server: its gRPC endpoint, and the process that has all its other processes below it, where known."""

    endpoint: str
    pid: int | None = None

    def processor_s(self) -> float:
        """Return the processor seconds of the server since its start; 0 where its process is not known."""
        return 0.0 if self.pid is None else processor_seconds(self.pid)


@contextmanager
def served(repository: str = "dist/benchmarks/repository", **variables: str) -> Iterator[str]:
    """Serve the bundle, with environment variables, and yield the gRPC endpoint; see `started`."""
    with started(repository, **variables) as server:
        yield server.endpoint


@contextmanager
def started(repository: str = "dist/benchmarks/repository", **variables: str) -> Iterator[Server]:
    """Serve the bundle, with environment variables, and yield the server.

    Raises ServerUnavailableError when the server does not get ready.
    """
    ports = free_ports()
    command = [sys.executable, "-m", "runtime", "--platform", "embedded", "--repository", repository]
    environment = {**os.environ, **variables}
    child = subprocess.Popen(
        [*command, *port_options(ports)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://localhost:{ports['http']}"
        probe = [sys.executable, "-m", "runtime.probe", "--url", url, "--timeout", str(READY_SECONDS)]
        if subprocess.run(probe, check=False, stdout=subprocess.DEVNULL).returncode:
            raise ServerUnavailableError(url, "the server did not get ready", "Run `python -m runtime` to see why")
        yield Server(endpoint=f"localhost:{ports['grpc']}", pid=child.pid)
    finally:
        child.terminate()
        child.wait()
