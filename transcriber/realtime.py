"""Transcribe a stream that is read from a file or a pipe: partials, which may change, then finals.

Each segment of speech is a sequence of requests to the server, one per window, while it is spoken. The search advances
with each window. When the segment has ended, it is rescored and its speakers are labelled, as in a recording.
"""

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from transcriber import pipeline
from transcriber.audio import SAMPLE_RATE_HZ, Recording, Samples
from transcriber.pipeline import Plan, SegmentResult, TranscriptionResult
from transcriber.recogniser import StreamRecogniser
from transcriber.session import Event, Final, Outage, Partial, StreamSession

# Seconds of a file that are read ahead. What is not a file, such as a microphone, is read without a limit.
_READ_AHEAD_BLOCKS = 20
# How often a waiting thread checks whether the stream was stopped.
_POLL_S = 0.1
# A stream that brings no samples for this long pauses, and what was spoken is final.
PAUSE_S = 1.0

OnEvent = Callable[[Partial | Final], object]


class Source:
    """Read a recording in its own thread, so that a microphone is read while the client waits for the server."""

    def __init__(self, path: Path, open_recording: Callable[[Path], Recording] | None = None) -> None:
        """Begin to open and read the file; errors are raised by `recording` and `blocks`.

        A stream that brings no samples for PAUSE_S pauses.
        """
        self.read_s, self._sample_rate_hz = 0.0, SAMPLE_RATE_HZ
        self._is_file = path.is_file()
        self._blocks: queue.Queue[Samples | None] = queue.Queue(_READ_AHEAD_BLOCKS if self._is_file else 0)
        self._opened: queue.Queue[Recording | None] = queue.Queue()
        self._failure: BaseException | None = None
        self._stopped = threading.Event()
        # It may hang in a read, and must not keep the program from ending.
        opened = open_recording or (lambda file: Recording(file, live=True))
        threading.Thread(target=self._read, args=(path, opened), name="source", daemon=True).start()

    def recording(self) -> Recording | None:
        """Return the recording as soon as it is open; None when the source was stopped before."""
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Empty):
                recording = self._opened.get(timeout=_POLL_S)
                if recording is None and self._failure is not None:
                    raise self._failure
                return recording
        return None

    def blocks(self) -> Iterator[Samples]:
        """Yield the samples that were read, and an empty block when a stream pauses; raise what the recording raises.

        A file does not pause: a slow disk must not change its segments.
        """
        waiting_since = time.monotonic()
        while True:
            try:
                block = self._blocks.get(timeout=_POLL_S)
            except queue.Empty:
                if self._stopped.is_set():
                    return
                if not self._is_file and time.monotonic() - waiting_since >= PAUSE_S:
                    yield np.empty(0, dtype=np.float32)
                    waiting_since = math.inf
                continue
            if block is None:
                break
            self.read_s += block.size / self._sample_rate_hz
            yield block
            waiting_since = time.monotonic()
            if self._stopped.is_set() and self._is_file:
                return
        if self._failure is not None:
            raise self._failure

    @property
    def was_stopped(self) -> bool:
        """Return whether the source was stopped before its end."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Stop the stream here: samples of a microphone that were read are still yielded, of a file no more."""
        self._stopped.set()

    def _read(self, path: Path, open_recording: Callable[[Path], Recording]) -> None:
        try:
            recording = open_recording(path)
            self._sample_rate_hz = recording.sample_rate_hz
            self._opened.put(recording)
            for block in recording.blocks():
                if not self._put(block):
                    return
        except BaseException as error:
            # Raised again in the thread that waits for the samples.
            self._failure = error
        self._opened.put(None)
        self._put(None)

    def _put(self, block: Samples | None) -> bool:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._blocks.put(block, timeout=_POLL_S)
                return True
        return False


def transcribe(
    source: Source, recogniser: StreamRecogniser, plan: Plan, on_event: OnEvent
) -> TranscriptionResult | None:
    """Transcribe a stream; `on_event` is called with each partial and final as soon as it is known.

    Returns None when the source was stopped before it was open. Raises AudioError when there is no sound at all, and
    ServerContractError for a search that the server does not allow. Other losses, such as a long outage, are errors in
    the result.
    """
    recording = source.recording()
    if recording is None:
        return None
    report = _Report(on_event)
    # A partial is shown as text.
    with StreamSession(recogniser, plan, partial_words=False) as session:
        for block in source.blocks():
            report.take(session.push(block) if block.size else session.pause())
            if report.outage is not None:
                source.stop()
                break
        report.take(session.finish())
    gone = None if report.outage is None else report.outage.error
    if gone is None and source.was_stopped:
        recording.duration_s = source.read_s
    turns = [turn for final in report.finals for turn in final.turns]
    results = [
        SegmentResult(words=[word for turn in final.turns for word in turn.words], loss=final.loss)
        for final in report.finals
    ]
    return pipeline.collect(recording, recogniser, plan, results, turns, gone, session.done_s)


class _Report:
    """Report the events of a stream, and keep its finals."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._has_partial = False
        self.finals: list[Final] = []
        self.outage: Outage | None = None

    def take(self, events: list[Event]) -> None:
        """Take the next events."""
        for event in events:
            if isinstance(event, Partial):
                self._has_partial = True
                self._on_event(event)
            elif isinstance(event, Final):
                self._take_final(event)
            elif isinstance(event, Outage):
                self.outage = event

    def _take_final(self, final: Final) -> None:
        self.finals.append(final)
        # An empty final withdraws a partial that turned out to contain no words.
        if final.turns or final.loss or self._has_partial:
            self._on_event(final)
        self._has_partial = False
