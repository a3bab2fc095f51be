"""Start the real service as an operator does, with its database and storage in a folder."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.integration import serving
from tests.integration.serving import ROOT
from tests.ports import free_ports

READY_S, EXIT_S = 120, 45


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A running service and its files."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    log: Path
    ca: Path | None = None
    """The authority of its certificate; None without TLS."""

    @property
    def url(self) -> str:
        return f"{'http' if self.ca is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """The URL that clients of Speechmatics are given."""
        return f"{self.url}/v2"

    def client(self, **options: object) -> httpx.Client:
        """Return a client of the service."""
        return httpx.Client(base_url=self.url, timeout=60, verify=self.verify, **options)  # type: ignore[arg-type]

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """How a client verifies the service."""
        return True if self.ca is None else ssl.create_default_context(cafile=self.ca)

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(EXIT_S)

    def kill(self) -> None:
        """Kill the process, as a machine that fails does."""
        self.process.kill()
        self.process.wait(EXIT_S)


def command(folder: Path, port: int, *options: str) -> list[str]:
    """Return the command of a service whose files are in a folder; an option given again replaces the first."""
    own = (f"--database=sqlite:///{folder}/jobs.sqlite", f"--storage={folder}/files", f"--port={port}")
    return [sys.executable, "-m", "service", *own, *options]


def start(folder: Path, *options: str, name: str = "service", ca: Path | None = None, **variables: str) -> Service:
    """Start a service without waiting for it."""
    chosen = free_ports(1)[0]
    log = folder / f"{name}.log"
    folder.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(
            command(folder, chosen, *options),
            env={**serving.environment(**variables), "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return Service(process=process, port=chosen, folder=folder, log=log, ca=ca)


@contextmanager
def started(
    folder: Path, *options: str, name: str = "service", ca: Path | None = None, **variables: str
) -> Iterator[Service]:
    """Start a service and wait until it is ready; stop it at the end, and fail unless it ends in order."""
    service = start(folder, *options, name=name, ca=ca, **variables)
    try:
        wait_ready(service)
        yield service
        assert service.process.poll() is None, service.log.read_text()
        assert service.stop() == 0, service.log.read_text()
    finally:
        if service.process.poll() is None:
            service.kill()


def wait_ready(service: Service, path: str = "/ready") -> None:
    """Wait until a service answers 200; fail with its log on timeout."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        assert service.process.poll() is None, service.log.read_text()
        try:
            if httpx.get(f"{service.url}{path}", timeout=5, verify=service.verify).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not ready after {READY_S} s\n{service.log.read_text()}")


def refusal(folder: Path, *options: str, **variables: str) -> tuple[int, str]:
    """Return the exit code and the last line of a service that does not start."""
    done = subprocess.run(
        command(folder, free_ports(1)[0], *options),
        env=serving.environment(**variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=READY_S,
        check=False,
    )
    return done.returncode, done.stderr.strip().splitlines()[-1]


def submit(client: httpx.Client, recording: Path | bytes, name: str = "a.wav", **config: object) -> httpx.Response:
    """Submit a recording and return the answer."""
    content = recording if isinstance(recording, bytes) else recording.read_bytes()
    document = {"type": "transcription", "transcription_config": {"language": "en"}, **config}
    return client.post("/v2/jobs", data={"config": json.dumps(document)}, files={"data_file": (name, content)})


def environment_without_home(folder: Path) -> dict[str, str]:
    """Return an environment whose home folder is empty, as a client has that was never configured."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {"PATH": os.environ["PATH"], "HOME": str(home)}
