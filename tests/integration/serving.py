"""Start the real server as an operator does, with a bundle of small networks."""

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from contract.client import SearchSpec
from contract.manifest import EngineRecord
from runtime import probe
from tests.integration.networks import network
from tests.ports import free_ports
from tests.unit.runtime import synthetic

ROOT = Path(__file__).parents[2]
READY_S, EXIT_S = 60, 20
# As long as an n-gram model in text.
LONG_TEXT = base64.b85encode(bytes(range(256)) * 2000).decode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A running server, its ports and its files."""

    process: subprocess.Popen[bytes]
    http: int
    grpc: int
    metrics: int
    repository: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def stop(self) -> int:
        """Send SIGTERM, as a container runtime does, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(EXIT_S)


def write_bundle(folder: Path, *points: str, mode: str = "batch", **special: bytes) -> Path:
    """Write a bundle of small networks for arch cpu and return its folder.

    `points` limits the operating points; `special` replaces the network of a model.
    """
    wanted = [m for m in synthetic.engine_models().values() if not points or m.operating_point in points]
    contents = {
        model.name: special.get(model.name) or network(model.name, model.family.modes[mode].variant) for model in wanted
    }
    records = [synthetic.record(model, contents[model.name], mode=mode) for model in wanted]
    records = [_with_ngram(each) if each.family == "am_en" else each for each in records]
    return synthetic.write(folder, synthetic.manifest(*records), contents.__getitem__)


def _with_ngram(record: EngineRecord) -> EngineRecord:
    return replace(record, client=replace(record.client, search=SearchSpec(ngram=LONG_TEXT)))


def command(engines: Path, repository: Path, *options: str) -> list[str]:
    """Return the command that serves a folder of bundles."""
    runtime = [sys.executable, "-m", "runtime", "--platform", "embedded"]
    return [*runtime, f"--engines={engines}", f"--repository={repository}", *options]


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of this process without the variables that configure a server, plus `variables`."""
    inherited = {key: text for key, text in os.environ.items() if not key.startswith(("SM_", "VOXWRIGHT_"))}
    return {**inherited, **variables}


@contextmanager
def started(engines: Path, folder: Path, options: Sequence[str] = (), **variables: str) -> Iterator[Running]:
    """Start a server; on exit, stop it and the processes that it started."""
    http, grpc, metrics = free_ports(3)
    repository, log = folder / "repository", folder / "server.log"
    ports = (f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}")
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(engines, repository, *ports, *options),
            env=environment(**variables),
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Running(process=process, http=http, grpc=grpc, metrics=metrics, repository=repository, log=log)
    finally:
        process.terminate()
        try:
            process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a server together with its stub processes, which would otherwise clean up after it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(EXIT_S)


def wait_ready(server: Running) -> None:
    """Wait until every model is ready; fail with the server's log on timeout."""
    problem = probe.wait(server.url, READY_S)
    assert problem is None, f"{problem}\n{server.log.read_text()}"
