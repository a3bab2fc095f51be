"""Transcribe through a network that forgets connections: nothing is lost, and the client notices it within seconds."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tests.integration import serving
from tests.integration.reference import ROOT
from tests.integration.serving import Running
from tests.relay import Relay, relaying
from transcriber.channel import IDLE_S

pytestmark = pytest.mark.integration
RATE_HZ, BLOCK_S = 16_000, 0.1
# A ping after 5 s without data, and 5 s for its answer; the rest is for the repeated requests on a busy machine.
NOTICED_S = 25


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forgetful")


@pytest.fixture(scope="module")
def streams(reference_engines: Path, folder: Path) -> Iterator[Running]:
    (folder / "streams").mkdir()
    options = ("--operating-point=standard",)
    with serving.started(reference_engines, folder / "streams", options, SM_BATCH_MODE="false") as running:
        serving.wait_ready(running)
        yield running


@pytest.fixture(scope="module")
def server(reference_engines: Path, folder: Path) -> Iterator[Running]:
    (folder / "server").mkdir()
    with serving.started(reference_engines, folder / "server", ("--operating-point=standard",)) as running:
        serving.wait_ready(running)
        yield running


def transcriber(port: int, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "transcriber", "--endpoint", f"127.0.0.1:{port}", "--format", "json-v2"]
    return [*command, *arguments]


def words(text: str) -> list[str]:
    """Return the words of a transcript, or those of the finals of a stream."""
    found = [json.loads(line) for line in text.splitlines()] if "AddTranscript" in text else [json.loads(text)]
    results = [result for each in found if each.get("message") != "AddPartialTranscript" for result in each["results"]]
    return [result["alternatives"][0]["content"] for result in results]


def finished(command: list[str]) -> tuple[str, str, float]:
    """Run a command; return its outputs and the seconds that it took."""
    began_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr, time.monotonic() - began_s


def test_connections_forgotten_during_requests(server: Running) -> None:
    """Several requests wait at once, and the outage is reported once."""
    expected, _, direct_s = finished(transcriber(server.grpc, "demo/dialogue.flac"))
    with relaying(server.grpc, Relay(forget_after_bytes=[200_000, 400_000])) as relay:
        found, reported, took_s = finished(transcriber(relay.port, "demo/dialogue.flac"))
    assert relay.forgotten > 0
    assert words(found) == words(expected)
    assert took_s - direct_s < NOTICED_S
    assert reported.count("waiting for the server at") == 1


def test_connection_forgotten_within_a_segment(streams: Running) -> None:
    """The server has the states of the windows that it got, so all windows of the segment are sent again."""
    expected, _, direct_s = finished(transcriber(streams.grpc, "--realtime", "demo/dialogue.flac"))
    with relaying(streams.grpc, Relay(forget_after_bytes=[150_000])) as relay:
        found, _, took_s = finished(transcriber(relay.port, "--realtime", "demo/dialogue.flac"))
    assert relay.forgotten == 1
    assert words(found) == words(expected)
    assert took_s - direct_s < NOTICED_S


@pytest.mark.parametrize(("silence_s", "idle_s"), [(3, 1.0), (8, 6.0)])
def test_connection_forgotten_during_silence(streams: Running, silence_s: int, idle_s: float) -> None:
    """After a short silence the client detects it, twice. After a longer one it opens another connection by itself."""
    sentence: NDArray[Any] = soundfile.read(ROOT / "demo" / "dialogue.flac", frames=4 * RATE_HZ, dtype="int16")[0]
    silence = np.zeros(silence_s * RATE_HZ, np.int16)
    # What was spoken while the client noticed the first time is sent at once, so the second silence must be longer.
    longer = np.zeros((silence_s + 14) * RATE_HZ, np.int16)
    audio = np.concatenate([sentence, silence, sentence, longer, sentence, np.zeros(RATE_HZ, np.int16)])
    with relaying(streams.grpc, Relay(idle_s=idle_s)) as relay:
        command = transcriber(relay.port, "--realtime", "--raw", f"s16le:{RATE_HZ}", "-")
        found, reported = streamed(command, audio)
    assert len(found) > 15
    assert found == found[: len(found) // 3] * 3
    assert ("waiting for the server" in reported) == (silence_s < IDLE_S)
    assert relay.opened >= 3


def streamed(command: list[str], audio: NDArray[Any]) -> tuple[list[str], str]:
    """Write audio to a command at its own speed; return the words and what was reported."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        size = round(BLOCK_S * RATE_HZ)
        for start in range(0, audio.size, size):
            process.stdin.write(audio[start : start + size].tobytes())
            process.stdin.flush()
            time.sleep(BLOCK_S)
        found, reported = process.communicate()
    assert process.returncode == 0, reported
    return words(found.decode()), reported.decode()
