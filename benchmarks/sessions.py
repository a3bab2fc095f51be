"""python -m benchmarks.sessions: what the real-time service adds to the direct client, and what many sessions cost.

Both measurements use the embedded server. The first one streams the demonstration's dialogue in real time, directly and
through the service in turn, and compares the delays of partials and finals. The second one (--churn) keeps many
sessions that start, stop, vanish and stall, and compares transcripts, memory and places on the server.
"""

import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from benchmarks.recordings import DIALOGUE
from benchmarks.server import served, update_bundle
from contract import command_line, files
from contract.access import from_environment
from contract.catalogue import read_catalogue
from contract.errors import ServerUnavailableError
from demo.ports import free_ports
from transcriber.audio import SAMPLE_RATE_HZ, Samples
from transcriber.connection import Connection
from transcriber.pipeline import Plan
from transcriber.session import Event, Final, Partial, StreamRules, StreamSession
from transcriber.triton_recogniser import TritonStreams, connect_streams

RESULTS = Path("dist/benchmarks/sessions.json")
STEP_SAMPLES = SAMPLE_RATE_HZ // 10
RULES = StreamRules(max_delay_s=2.0)
READY_S = 60.0
# How sessions end, and how often: most in order, the others in every way in which clients fail.
ENDINGS = ("in order",) * 5 + ("vanishes", "closes", "stalls", "sends nonsense")


@dataclass(frozen=True, kw_only=True, slots=True)
class Delays:
    """Seconds from the last sample that a partial or a final covers to its arrival."""

    partials: list[float] = field(default_factory=list)
    finals: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, float]:
        """Return the medians and the 95th percentiles, for a JSON file."""
        return {
            f"{name}_{what}": round(float(value), 4)
            for name, delays in (("partial", self.partials), ("final", self.finals))
            for what, value in (("median", statistics.median(delays)), ("p95", np.quantile(delays, 0.95)))
        }


@contextlib.contextmanager
def service(endpoint: str, *options: str, log: Path) -> Iterator[tuple[str, int]]:
    """Start the service for an endpoint; yield the host and port, and the process id.

    Raises ServerUnavailableError when it does not get ready.
    """
    port = free_ports()["http"]
    command = [sys.executable, "-m", "service", f"--realtime-endpoint={endpoint}", f"--port={port}", *options]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        _wait_ready(f"http://127.0.0.1:{port}", log)
        yield f"127.0.0.1:{port}", child.pid
    finally:
        child.terminate()
        child.wait()


def _wait_ready(url: str, log: Path) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/ready", timeout=5).close()  # noqa: S310 - the service started above
            return
        time.sleep(0.1)
    raise ServerUnavailableError(url, "the service did not get ready", f"Read {log}")


def samples(seconds: float | None = None) -> Samples:
    """Return the beginning of the dialogue, as samples that 16 bits hold."""
    frames = -1 if seconds is None else round(seconds * SAMPLE_RATE_HZ)
    found, _ = soundfile.read(DIALOGUE, frames=frames, dtype="int16")
    loud: Samples = found.astype(np.float32) / np.float32(32_768)
    return loud


def pcm(sound: Samples) -> bytes:
    """Return samples as pcm_s16le."""
    return (sound * 32_768).astype("<i2").tobytes()


def directly(recogniser: TritonStreams, sound: Samples) -> Delays:
    """Measure a stream without the service."""
    delays = Delays()
    with StreamSession(recogniser, Plan(speakers=False), rules=RULES) as stream:
        began = time.monotonic()
        for start in range(0, sound.size, STEP_SAMPLES):
            block = sound[start : start + STEP_SAMPLES]
            _wait_until(began + (start + block.size) / SAMPLE_RATE_HZ)
            for event in stream.push(block):
                _note_event(delays, event, time.monotonic() - began)
    return delays


def through_the_service(address: str, sound: Samples, point: str) -> Delays:
    """Measure the same stream with a WebSocket between."""
    delays, began = Delays(), 0.0
    with connect(f"ws://{address}/v2", max_size=2**20) as socket:
        _start(socket, model=point, enable_partials=True, max_delay=RULES.max_delay_s)

        def receive() -> None:
            while (message := json.loads(socket.recv()))["message"] != "EndOfTranscript":
                _note_message(delays, message, time.monotonic() - began)

        reader = threading.Thread(target=receive)
        began = time.monotonic()
        reader.start()
        for start in range(0, sound.size, STEP_SAMPLES):
            block = sound[start : start + STEP_SAMPLES]
            _wait_until(began + (start + block.size) / SAMPLE_RATE_HZ)
            socket.send(pcm(block))
        # As in the direct client, what is found at the end of the stream does not count.
        time.sleep(1.0)
        partials, finals = list(delays.partials), list(delays.finals)
        _end(socket)
        reader.join()
    return Delays(partials=partials, finals=finals)


def _note_event(delays: Delays, event: Event, now_s: float) -> None:
    if isinstance(event, Partial):
        delays.partials.append(now_s - event.end_s)
    elif isinstance(event, Final) and event.turns:
        delays.finals.append(now_s - event.end_s)


def _note_message(delays: Delays, message: dict[str, Any], now_s: float) -> None:
    if not message.get("results"):
        return
    delay_s = now_s - message["metadata"]["end_time"]
    (delays.partials if message["message"] == "AddPartialTranscript" else delays.finals).append(delay_s)


def _wait_until(when: float) -> None:
    time.sleep(max(0.0, when - time.monotonic()))


def _start(socket: ClientConnection, **config: Any) -> None:
    audio = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": SAMPLE_RATE_HZ}
    message = {
        "message": "StartRecognition",
        "audio_format": audio,
        "transcription_config": {"language": "en"} | config,
    }
    socket.send(json.dumps(message))
    while json.loads(socket.recv(30))["message"] != "RecognitionStarted":
        continue


def _end(socket: ClientConnection) -> None:
    socket.send(json.dumps({"message": "EndOfStream", "last_seq_no": 0}))


@dataclass(kw_only=True)
class Churn:
    """What happened in many sessions."""

    endings: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """Transcripts that differ from those of the same audio alone, and sessions that failed."""
    memory_mb: list[float] = field(default_factory=list)
    """Resident memory of the service, once a second."""
    open_sessions: int = -1
    """The sessions that the service counts after the end."""
    descriptors: int = 0
    """The files and sockets that the service has open more than before."""
    places_s: float = 0.0
    """How long it takes afterwards to open a stream in each place of the server."""

    @property
    def growth_mb(self) -> float:
        """Return the growth of memory from the second quarter of the time to the last one."""
        quarter = max(1, len(self.memory_mb) // 4)
        return statistics.median(self.memory_mb[-quarter:]) - statistics.median(self.memory_mb[quarter : 2 * quarter])

    def to_dict(self) -> dict[str, Any]:
        """Return everything for a JSON file."""
        memory = {"memory_mb_end": round(self.memory_mb[-1], 1), "memory_mb_growth": round(self.growth_mb, 1)}
        left = {"open_sessions": self.open_sessions, "descriptors": self.descriptors}
        rest = {**left, "places_s": round(self.places_s, 2)}
        return {"endings": self.endings, "wrong": self.wrong, **memory, **rest}


def streams_for(sessions: int) -> int:
    """Return the limit of streams for so many sessions at a time: one that vanished counts until that is noticed."""
    return sessions + sessions // 4


def churn(address: str, pid: int, recogniser: TritonStreams, *, sessions: int, seconds: float) -> Churn:
    """Keep `sessions` sessions for a time: each begins, ends in one way of ENDINGS, and is replaced by another."""
    sound, found, lock = samples(), Churn(), threading.Lock()
    clips = [sound[start : start + 3 * SAMPLE_RATE_HZ] for start in range(0, 60 * SAMPLE_RATE_HZ, 5 * SAMPLE_RATE_HZ)]
    point, choices = recogniser.operating_point, random.Random(0)  # noqa: S311 - no secret
    alone = [_words(address, clip, "in order", choices, point) for clip in clips]
    before = _descriptors(pid)
    end = time.monotonic() + seconds
    slots = threading.BoundedSemaphore(_at_a_time())

    def work(number: int) -> None:
        choices = random.Random(number)  # noqa: S311 - no secret
        time.sleep(choices.random() * min(20.0, seconds / 4))
        while time.monotonic() < end:
            ending, clip = choices.choice(ENDINGS), choices.randrange(len(clips))
            try:
                # As many speak at a time as the machine can recognise; the others are connected and silent.
                words = _words(address, clips[clip], ending, choices, point, slots, end)
                problem = None if words is None or words == alone[clip] else f"{words} instead of {alone[clip]}"
            except Exception as error:  # a failed session is a result
                problem = f"{ending}: {type(error).__name__}: {error}"
            with lock:
                found.endings[ending] = found.endings.get(ending, 0) + 1
                found.wrong.extend([] if problem is None else [problem])

    with ThreadPoolExecutor(sessions + 1) as pool:
        watch = pool.submit(_watch_memory, pid, end, found)
        list(pool.map(work, range(sessions)))
        watch.result()
    found.open_sessions = _open_sessions(address)
    found.descriptors = _descriptors(pid) - before
    found.places_s = places_s(recogniser)
    return found


def _words(
    address: str,
    clip: Samples,
    ending: str,
    choices: random.Random,
    point: str,
    slots: threading.BoundedSemaphore | None = None,
    end: float = 0.0,
) -> str | None:
    """Return the transcript of a session; None where it does not end in order."""
    with connect(f"ws://{address}/v2", max_size=2**20, open_timeout=60, ping_timeout=60) as socket:
        _start(socket, model=point, max_delay=1.0)
        with slots or contextlib.nullcontext():
            data = pcm(clip)
            part = len(data) if ending in ("in order", "stalls") else choices.randrange(2, len(data), 2)
            for start in range(0, part, 8192):
                socket.send(data[start : min(part, start + 8192)])
            if ending == "in order":
                _end(socket)
                return _transcript(socket)
            _acknowledged(socket)
        _leave(socket, ending, choices, end)
    return None


def _leave(socket: ClientConnection, ending: str, choices: random.Random, end: float) -> None:
    if ending == "vanishes":
        socket.socket.shutdown(2)
    elif ending == "stalls":
        time.sleep(max(0.0, min(choices.uniform(5, 30), end - time.monotonic())))
    elif ending == "sends nonsense":
        with contextlib.suppress(ConnectionClosed):
            socket.send("{")
            while True:
                socket.recv(60)


def _transcript(socket: ClientConnection) -> str:
    text = ""
    while (message := json.loads(socket.recv(120)))["message"] != "EndOfTranscript":
        if message["message"] == "Error":
            raise RuntimeError(message["reason"])
        text += message["metadata"]["transcript"] if message["message"] == "AddTranscript" else ""
    return text


def _acknowledged(socket: ClientConnection) -> None:
    while json.loads(socket.recv(120))["message"] != "AudioAdded":
        continue


def _at_a_time() -> int:
    return 2 * (os.cpu_count() or 1)


def _watch_memory(pid: int, end: float, found: Churn) -> None:
    while time.monotonic() < end:
        status = Path(f"/proc/{pid}/status").read_text()
        found.memory_mb.append(int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024)
        time.sleep(1.0)


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _open_sessions(address: str) -> int:
    """Return the sessions that the service still counts, after at most 60 s in which it finds out who has vanished."""
    end, count = time.monotonic() + 60, -1
    while count and time.monotonic() < end:
        with urllib.request.urlopen(f"http://{address}/metrics") as answer:
            count = int(float(re.findall(r"^voxwright_sessions (\S+)", answer.read().decode(), re.MULTILINE)[0]))
        time.sleep(0.5)
    return count


def places_s(recogniser: TritonStreams) -> float:
    """Return how long it takes to open a stream in each place: one more than are free waits for a minute."""
    window, began = np.zeros(recogniser.window_samples, dtype=np.float32), time.monotonic()
    streams = range(1, recogniser.places.count + 1)
    for stream in streams:
        recogniser.step(stream, window, start=True, end=False)
    seconds = time.monotonic() - began
    for stream in streams:
        recogniser.cancel(stream)
    return seconds


@click.command()
@click.option("--operating-point", "points", multiple=True, help="[default: all]")
@click.option("--seconds", default=40.0, show_default=True, help="Length of each stream, and of --churn.")
@click.option("--rounds", default=2, show_default=True, type=click.IntRange(1), help="Streams of each kind, in turn.")
@click.option("--churn", "sessions", type=click.IntRange(1), help="Measure so many sessions that come and go instead.")
@command_line.verbose_option()
def command(points: tuple[str, ...], seconds: float, rounds: int, sessions: int | None) -> None:
    """Measure the delays that the real-time service adds, or many sessions that start, stop, vanish and stall."""
    update_bundle()
    log = RESULTS.with_name("service.log")
    with (
        served(SM_BATCH_MODE="false") as endpoint,
        service(endpoint, f"--streams={streams_for(sessions or 64)}", log=log) as (at, pid),
    ):
        if sessions is not None:
            point = (*points, "standard")[0]
            found: Any = churn(at, pid, _recogniser(endpoint, point), sessions=sessions, seconds=seconds).to_dict()
        else:
            found = {
                point: _delays(endpoint, at, point, samples(seconds), rounds)
                for point in points or read_catalogue().operating_points
            }
    print(json.dumps(found, indent=2))
    files.write(RESULTS, json.dumps(found, indent=2) + "\n")


def _recogniser(endpoint: str, point: str) -> TritonStreams:
    return connect_streams(
        Connection(endpoint, access=from_environment(), one_server=True), read_catalogue(), "en", point
    )


def _delays(endpoint: str, address: str, point: str, sound: Samples, rounds: int) -> dict[str, Any]:
    recogniser = _recogniser(endpoint, point)
    kinds: dict[str, Callable[[], Delays]] = {
        "direct": lambda: directly(recogniser, sound),
        "service": lambda: through_the_service(address, sound, point),
    }
    parts = [{name: measure() for name, measure in kinds.items()} for _ in range(rounds)]
    found = {name: _joined([part[name] for part in parts]).to_dict() for name in kinds}
    added = {name: round(found["service"][name] - found["direct"][name], 4) for name in found["direct"]}
    return {**found, "added": added}


def _joined(parts: Sequence[Delays]) -> Delays:
    return Delays(
        partials=[delay for part in parts for delay in part.partials],
        finals=[delay for part in parts for delay in part.finals],
    )


if __name__ == "__main__":
    command_line.run(command)
