"""python -m benchmarks.client_parts ENDPOINT POINT FILE: processor seconds of each part of a transcription, as JSON.

Functions are replaced by ones that read the processor time of their thread. A part does not include the parts that it
calls. What no thread of Python took is that of gRPC's own threads.
"""

import functools
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contract.catalogue import read_catalogue
from transcriber import ctc, formats, pipeline, rescoring, speakers, wire, words
from transcriber.audio import Recording
from transcriber.channel import Client
from transcriber.connection import Connection
from transcriber.pipeline import Plan, transcribe
from transcriber.triton_recogniser import TritonRecogniser, connect

OWN_THREADS = "gRPC's own threads"
ITERATED: tuple[tuple[Any, str, str], ...] = (
    (Recording, "blocks", "decoding"),
    (pipeline, "split", "splitting at silence"),
)
CALLED: tuple[tuple[Any, str, str], ...] = (
    (ctc, "beam", "search"),
    (ctc, "align", "alignment"),
    (rescoring, "rescore", "rescoring, without its requests"),
    (words, "join", "words"),
    (speakers, "with_noise_floor", "speakers: test for narrow band"),
    (speakers, "label", "speakers: clustering"),
    (speakers, "turns", "speakers: turns"),
    (wire, "message", "requests: their messages"),
    (Client, "send", "requests: sending and receiving, in the calling thread"),
    (TritonRecogniser, "recognise", "tensors of the recogniser"),
    (TritonRecogniser, "score", "tensors of the rescorers"),
    (TritonRecogniser, "embed", "tensors of the speaker network"),
    (pipeline, "_recognise_segment", "the rest of a segment"),
    (formats, "json_v2", "writing json-v2"),
)


class Clocks:
    """The processor seconds of each part, of all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock, self._local = threading.Lock(), threading.local()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what this thread does as one part, except for the parts in it."""
        inner = getattr(self._local, "inner", 0.0)
        self._local.inner, started = 0.0, time.thread_time()
        try:
            yield
        finally:
            passed = time.thread_time() - started
            with self._lock:
                self.seconds[name] += passed - self._local.inner
            self._local.inner = inner + passed

    def called(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls are a part."""

        @functools.wraps(function)
        def timed(*positional: Any, **named: Any) -> Any:
            with self.part(name):
                return function(*positional, **named)

        return timed

    def iterated(self, name: str, function: Callable[..., Iterable[Any]]) -> Callable[..., Iterator[Any]]:
        """Return a generator function whose steps are a part."""

        @functools.wraps(function)
        def timed(*positional: Any, **named: Any) -> Iterator[Any]:
            items, end = iter(function(*positional, **named)), object()
            while True:
                with self.part(name):
                    item = next(items, end)
                if item is end:
                    return
                yield item

        return timed


def measure(endpoint: str, point: str, path: Path) -> dict[str, float]:
    """Transcribe a recording, and return the processor seconds by part."""
    clocks = Clocks()
    for owner, name, part in CALLED:
        setattr(owner, name, clocks.called(part, getattr(owner, name)))
    for owner, name, part in ITERATED:
        setattr(owner, name, clocks.iterated(part, getattr(owner, name)))
    recogniser = connect(Connection(endpoint), read_catalogue(), "en", point)
    started = time.process_time()
    with clocks.part("the rest of the main thread"):
        recording = Recording(path, sample_rate_hz=recogniser.audio.sample_rate_hz)
        found = transcribe(recording, recogniser, Plan())
        formats.json_v2(found.transcript)
    whole_s = time.process_time() - started
    return {**clocks.seconds, OWN_THREADS: whole_s - sum(clocks.seconds.values())}


if __name__ == "__main__":
    json.dump(measure(sys.argv[1], sys.argv[2], Path(sys.argv[3])), sys.stdout)
