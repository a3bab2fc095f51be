"""Kill client and server at random moments of a long list: repeated, the command does the rest and nothing twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.integration import serving
from tests.integration.reference import ROOT
from tests.integration.results import comparable
from tests.integration.serving import Running
from tests.ports import free_ports

pytestmark = [pytest.mark.integration, pytest.mark.slow]
COUNT, KILLS = 200, 6
# Longer than any start of a server on a busy machine.
WAIT_S, END_S = 600, 1_200


class Servers:
    """A server that is started again at the same ports after each kill."""

    def __init__(self, engines: Path, folder: Path) -> None:
        http, self.grpc, metrics = free_ports(3)
        ports = (f"--http-port={http}", f"--grpc-port={self.grpc}", f"--metrics-port={metrics}")
        self._engines, self._folder, self._ports = engines, folder, (*ports, "--operating-point=standard")
        self._stack = ExitStack()
        self.running = self._start()

    def _start(self) -> Running:
        return self._stack.enter_context(serving.started(self._engines, self._folder, self._ports))

    def kill(self) -> None:
        """Kill the server with its processes and start another one, without waiting for it."""
        serving.kill(self.running.process)
        self.running = self._start()

    def close(self) -> None:
        """Stop the server."""
        self._stack.close()


@pytest.fixture
def servers(reference_engines: Path, tmp_path: Path) -> Iterator[Servers]:
    (tmp_path / "server").mkdir()
    started = Servers(reference_engines, tmp_path / "server")
    yield started
    started.close()


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Parts of the dialogue, of 1 to 2 s."""
    folder, choices = tmp_path / "calls", random.Random(20)
    folder.mkdir()
    samples, rate_hz = soundfile.read(ROOT / "demo" / "dialogue.flac", dtype="int16")
    for number in range(COUNT):
        length = choices.randrange(rate_hz, 2 * rate_hz)
        start = choices.randrange(len(samples) - length)
        soundfile.write(folder / f"{number:03d}.wav", samples[start : start + length], rate_hz)
    return folder


def _command(servers: Servers, calls: Path, output: Path) -> list[str]:
    command = [sys.executable, "-m", "transcriber", str(calls), "--endpoint", f"127.0.0.1:{servers.grpc}"]
    options = ["--format", "json-v2", "--jobs", "4", "--skip-existing", "--wait", str(WAIT_S)]
    return [*command, "--output", str(output), *options]


def _finished(servers: Servers, calls: Path, output: Path) -> "subprocess.CompletedProcess[str]":
    command = _command(servers, calls, output)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=END_S)


def _results(folder: Path) -> dict[str, Any]:
    """Return all files of a folder, which must be whole results."""
    return comparable(folder.rglob("*"), folder)


def _written(folder: Path) -> dict[Path, int]:
    """Return the results that are there, and when each was written; every one must be whole."""
    found = {}
    for path in folder.glob("*.json"):
        json.loads(path.read_bytes())
        found[path] = path.stat().st_mtime_ns
    return found


def _wait_for(process: "subprocess.Popen[bytes]", folder: Path, results: int) -> None:
    end = time.monotonic() + END_S
    while len(list(folder.glob("*.json"))) < results and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)


def _age_leftovers(folder: Path) -> None:
    """Make what killed processes left old enough to be removed: a file of a few seconds may be one that is written."""
    long_ago = time.time() - 60
    for path in folder.glob(".*"):
        os.utime(path, (long_ago, long_ago))


def test_200_recordings_survive_kills_of_client_and_server(servers: Servers, calls: Path, tmp_path: Path) -> None:
    undisturbed, disturbed, seed = tmp_path / "undisturbed", tmp_path / "disturbed", os.urandom(8)
    choices = random.Random(seed)
    print(f"seed {seed!r}")
    assert _finished(servers, calls, undisturbed).returncode == 0
    expected = _results(undisturbed)
    assert len(expected) == COUNT

    disturbed.mkdir()
    kept: dict[Path, int] = {}
    killed = 0
    for number in range(KILLS):
        process = subprocess.Popen(
            _command(servers, calls, disturbed), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # The server is killed while the client works, the client while the server works or starts.
        _wait_for(process, disturbed, len(kept) + choices.randint(1, COUNT // (2 * KILLS)))
        if number % 2:
            time.sleep(choices.uniform(0.0, 0.1))
            servers.kill()
            _wait_for(process, disturbed, len(_written(disturbed)) + choices.randint(0, COUNT // (2 * KILLS)))
        time.sleep(choices.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        found = _written(disturbed)
        # What was there before was not done again.
        assert {path: found[path] for path in kept} == kept
        kept = found
    assert killed
    assert kept

    _age_leftovers(disturbed)
    last = _finished(servers, calls, disturbed)
    assert last.returncode == 0, last.stderr
    assert last.stderr.splitlines()[0] == f"{len(kept)} of {COUNT} results exist and are whole"
    assert _results(disturbed) == expected
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
