"""Transcribe a stream while it goes on: partials, which may change, then a final for each segment.

Each segment of speech is a sequence of requests to the server, one per window, while it is spoken. The search advances
with each window. When the segment has ended, it is rescored and its speakers are labelled, as in a recording.
"""

import contextlib
import math
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from contract.errors import ServerUnreachableError
from contract.tokens import spell
from transcriber import ctc, pipeline, rescoring, speakers
from transcriber.audio import SAMPLE_RATE_HZ, Recording, Samples
from transcriber.buckets import full_windows
from transcriber.ctc import Emissions
from transcriber.pipeline import Plan, SegmentResult, TranscriptionResult
from transcriber.recogniser import EncoderOutput, RequestError, StreamRecogniser
from transcriber.segments import Segment, follow
from transcriber.transcript import Loss, Turn

# Seconds of a file that are read ahead. What is not a file, such as a microphone, is read without a limit.
_READ_AHEAD_BLOCKS = 20
# How often a waiting thread checks whether the stream was stopped.
_POLL_S = 0.1
# A stream that brings no samples for this long pauses, and what was spoken is final.
_PAUSE_S = 1.0
_LARGEST_STREAM = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Partial:
    """The words from `start_s` on, as far as they are known at `end_s`; they may still change."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Final:
    """The words of a segment that has ended, or its loss."""

    start_s: float
    end_s: float
    turns: tuple[Turn, ...] = ()
    loss: Loss | None = None


OnEvent = Callable[[Partial | Final], object]


class Source:
    """Read a recording in its own thread, so that a microphone is read while the client waits for the server."""

    def __init__(self, path: Path, open_recording: Callable[[Path], Recording] | None = None) -> None:
        """Begin to open and read the file; errors are raised by `recording` and `blocks`."""
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
                if not self._is_file and time.monotonic() - waiting_since >= _PAUSE_S:
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


def transcribe(source: Source, recogniser: StreamRecogniser, plan: Plan, on_event: OnEvent) -> TranscriptionResult:
    """Transcribe a stream; `on_event` is called with each partial and final as soon as it is known.

    Raises AudioError when there is no sound at all, ServerContractError for a search that the server does not allow and
    KeyboardInterrupt when the source was stopped before it was open. Other losses, such as a long outage,
    are errors in the result.
    """
    recording = source.recording()
    if recording is None:
        raise KeyboardInterrupt
    chosen = replace(plan, search=pipeline.choose_search(recogniser, plan.search))
    tracker = _SegmentTracker(recogniser, chosen, on_event)
    gone: ServerUnreachableError | None = None
    try:
        updates = follow(
            source.blocks(),
            sample_rate_hz=recogniser.audio.sample_rate_hz,
            longest_s=pipeline.longest_segment_s(recogniser),
        )
        for update in updates:
            tracker.push(update.segment, ended=update.ended)
        if source.was_stopped:
            recording.duration_s = source.read_s
    except ServerUnreachableError as error:
        gone = error
        source.stop()
    return pipeline.collect(recording, recogniser, plan, tracker.results, tracker.turns, gone, tracker.done_s)


class _SegmentTracker:
    """Recognise the segments of a stream, one at a time, and report partials and finals."""

    def __init__(self, recogniser: StreamRecogniser, plan: Plan, on_event: OnEvent) -> None:
        self._recogniser, self._plan, self._on_event = recogniser, plan, on_event
        spec = recogniser.speaker
        self._speakers = None if spec is None else speakers.StreamSpeakers(spec.same_speaker_similarity)
        self._open_segment: _OpenSegment | None = None
        self._last_partial = ""
        self.results: list[SegmentResult] = []
        self.turns: list[Turn] = []
        self.done_s = 0.0

    def push(self, segment: Segment, *, ended: bool) -> None:
        """Take a segment as far as it is known; report what is new in it."""
        if self._open_segment is None:
            self._open_segment, self._last_partial = _OpenSegment(self._recogniser, self._plan), ""
            self.done_s = segment.start_s
        open_segment = self._open_segment
        open_segment.push(segment)
        if ended:
            self._finish(segment, open_segment.finish(segment, len(self.results)))
        else:
            self._report_partial(segment, open_segment.text())

    def _report_partial(self, segment: Segment, text: str) -> None:
        if text and text != self._last_partial:
            self._last_partial = text
            self._on_event(Partial(start_s=segment.start_s, end_s=segment.end_s, text=text))

    def _finish(self, segment: Segment, found: SegmentResult) -> None:
        labels: list[str] = []
        if self._speakers is not None and found.embeddings is not None:
            labels = self._speakers.label(found.windows, found.embeddings)
        separator = self._recogniser.tokens.word_separator
        turns = tuple(speakers.turns(found.words, found.windows, labels, separator))
        self._open_segment, self.done_s = None, segment.end_s
        self.results.append(found)
        self.turns.extend(turns)
        if turns or found.loss or self._last_partial:
            # An empty final withdraws a partial that turned out to contain no words.
            self._on_event(Final(start_s=segment.start_s, end_s=segment.end_s, turns=turns, loss=found.loss))


class _OpenSegment:
    """A segment that is being spoken: its windows, their encoder outputs, and the search over them."""

    def __init__(self, recogniser: StreamRecogniser, plan: Plan) -> None:
        self._recogniser, self._plan = recogniser, plan
        self._stream = new_stream_id()
        self._samples, self._waiting = 0, np.empty(0, dtype=np.float32)
        self._windows, self._outputs = list[Samples](), list[EncoderOutput]()
        self._search = ctc.Search(recogniser.tokens, fusion=rescoring.fusion(recogniser) if plan.ngram else None)
        self._error_text: str | None = None

    def push(self, segment: Segment) -> None:
        """Send the windows that are full by now; after an error of the server, no more are sent."""
        self._take(segment.samples[self._samples :])
        size, overlap = self._recogniser.window_samples, self._recogniser.overlap_samples
        windows, self._waiting = full_windows(self._waiting, size, overlap)
        for window in windows:
            self._send(window, end=False)

    def text(self) -> str:
        """Return the words so far; no words after an error of the server."""
        if self._error_text is not None:
            return ""
        return spell(self._search.best_partial(), self._recogniser.tokens)

    def finish(self, segment: Segment, number: int) -> SegmentResult:
        """End the sequence on the server and return the result of the segment."""
        audio = self._recogniser.audio
        padded = pipeline.pad_to_minimum(segment.samples, audio)
        self._take(padded[segment.samples.size :])
        # The server frees the place of a sequence with its last window, so a last window is always sent.
        self._send(self._waiting, end=True)
        if self._error_text is not None:
            return SegmentResult(loss=Loss(start_s=segment.start_s, end_s=segment.end_s, reason=self._error_text))
        encoded, hypotheses = concatenate(self._outputs), None
        if segment.is_cut:
            # Speech continues: the frames after the cut are recognised again with the next segment.
            encoded = concatenate([encoded], audio.frames(max(segment.samples.size, audio.shortest_samples)))
        else:
            # After the end there is only the silence by which the end was detected.
            hypotheses = self._search.hypotheses()
        return pipeline.with_retries(
            segment,
            lambda: pipeline.decode_segment(self._recogniser, self._plan, number, segment, encoded, hypotheses),
        )

    def _take(self, samples: Samples) -> None:
        self._samples += samples.size
        self._waiting = np.concatenate((self._waiting, samples))

    def _send(self, window: Samples, *, end: bool) -> None:
        if self._error_text is not None:
            return
        try:
            encoded = self._step(window, end=end)
        except RequestError as error:
            self._error_text = str(error)
            return
        self._windows.append(window)
        # The network makes a frame also of a shorter window, but that frame has no meaning.
        if len(window) >= self._recogniser.audio.shortest_samples:
            self._outputs.append(encoded)
            self._search.advance(encoded.emissions)

    def _step(self, window: Samples, *, end: bool) -> EncoderOutput:
        error_text = ""
        for attempt in pipeline.attempts():
            try:
                if attempt:
                    self._replay()
                return self._recogniser.step(self._stream, window, start=not self._windows, end=end)
            except RequestError as error:
                error_text = str(error)
        self._recogniser.cancel(self._stream)
        raise RequestError(error_text)

    def _replay(self) -> None:
        """Send all windows so far again as another stream; the server may have restarted and lost the first one."""
        self._recogniser.cancel(self._stream)
        self._stream = new_stream_id()
        for number, window in enumerate(self._windows):
            self._recogniser.step(self._stream, window, start=number == 0, end=False)


def concatenate(parts: list[EncoderOutput], length: int | None = None) -> EncoderOutput:
    """Return the encoder outputs of a stream's windows as one, cut to `length` encoder frames."""
    valid = slice(0, length)
    log_probs = np.concatenate([part.emissions.log_probs for part in parts])[valid]
    outputs = [part.encoder_out[: part.encoder_length] for part in parts if part.encoder_out is not None]
    return EncoderOutput(
        emissions=Emissions(
            log_probs=log_probs, tokens=np.concatenate([part.emissions.tokens for part in parts])[valid]
        ),
        encoder_out=np.concatenate(outputs)[valid] if outputs else None,
        encoder_length=len(log_probs),
    )


def new_stream_id() -> int:
    """Return a random number for a stream: clients choose the numbers, each without knowing those of the others."""
    return 1 + secrets.randbelow(_LARGEST_STREAM)
