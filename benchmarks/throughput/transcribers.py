"""Transcribers in processes of their own, which begin to transcribe the same recording at the same moment."""

import multiprocessing
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from types import TracebackType
from typing import Any, Self

from benchmarks.graphs import LANGUAGE
from benchmarks.server import Server
from contract.access import from_environment
from contract.catalogue import read_catalogue
from transcriber import pipeline
from transcriber.audio import Recording
from transcriber.connection import Connection
from transcriber.pipeline import Plan
from transcriber.transcript import Transcript
from transcriber.triton_recogniser import TritonRecogniser, connect

# Of this process: its recogniser, and the barrier of all processes.
_STATE: list[tuple[TritonRecogniser, Barrier]] = []


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What some transcribers took for a recording each."""

    transcribers: int
    audio_s: float
    """The audio of all transcribers together."""
    wall_s: float
    client_s: float
    """The processor seconds of the transcribers."""
    server_s: float
    """The processor seconds of the server."""
    transcript: Transcript

    @property
    def hours_an_hour(self) -> float:
        """Return the hours of audio in an hour."""
        return self.audio_s / self.wall_s

    def per_hour(self, processor_s: float) -> float:
        """Return processor seconds for each hour of audio."""
        return processor_s * 3_600 / self.audio_s


class Transcribers(AbstractContextManager["Transcribers"]):
    """A number of processes that are connected to a server."""

    def __init__(self, server: Server, point: str, most: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._server, self._most = server, most
        self._pool: Any = context.Pool(most, _connect, (server.endpoint, point, context.Barrier(most)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None, /) -> None:
        self._pool.terminate()
        self._pool.join()

    def run(self, recording: Path, plan: Plan, count: int) -> Run:
        """Transcribe a recording in `count` of the processes at the same time."""
        before_s = self._server.processor_s()
        # Every process waits for all others, so each takes one task.
        tasks = [(recording, plan if number < count else None) for number in range(self._most)]
        parts: Sequence[_Part] = [part for part in self._pool.starmap(_transcribe, tasks, 1) if part is not None]
        return Run(
            transcribers=count,
            audio_s=sum(part.transcript.duration_s for part in parts),
            wall_s=max(part.ended_s for part in parts) - min(part.began_s for part in parts),
            client_s=sum(part.processor_s for part in parts),
            server_s=self._server.processor_s() - before_s,
            transcript=parts[0].transcript,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    began_s: float
    ended_s: float
    processor_s: float
    transcript: Transcript


def _connect(endpoint: str, point: str, barrier: Barrier) -> None:
    connection = Connection(endpoint, access=from_environment())
    _STATE.append((connect(connection, read_catalogue(), LANGUAGE, point), barrier))


def _transcribe(recording: Path, plan: Plan | None) -> _Part | None:
    recogniser, barrier = _STATE[0]
    barrier.wait()
    if plan is None:
        return None
    began_s, spent_s = time.monotonic(), time.process_time()
    opened = Recording(recording, sample_rate_hz=recogniser.audio.sample_rate_hz)
    found = pipeline.transcribe(opened, recogniser, plan)
    for error in found.errors:
        raise error
    return _Part(
        began_s=began_s,
        ended_s=time.monotonic(),
        processor_s=time.process_time() - spent_s,
        transcript=found.transcript,
    )
