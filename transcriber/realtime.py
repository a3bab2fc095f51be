"""Transcribe a stream while it goes on: partials, which may change, then a final for each segment.

Each segment of speech is a sequence of requests to the server, one per window, while it is spoken. The search advances
with each window. When the segment has ended, it is rescored and its speakers are labelled, as in a recording.
"""

import contextlib
import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from contract.errors import ServerUnreachableError
from contract.tokens import spell
from transcriber import ctc, pipeline, rescoring, speakers, words
from transcriber.audio import Recording, Samples
from transcriber.buckets import full_windows
from transcriber.ctc import Emissions
from transcriber.features import SAMPLE_RATE_HZ, FeatureStream, feature_frames
from transcriber.pipeline import Plan, SegmentResult, TranscriptionResult
from transcriber.recogniser import EncoderOutput, Features, RequestError, StreamRecogniser
from transcriber.segments import Segment, follow
from transcriber.transcript import Loss, Turn
from transcriber.words import SHORTEST_FRAMES

# Seconds of a file that are read ahead. What is not a file, such as a microphone, is read without a limit.
_READ_AHEAD_BLOCKS = 20
# How often a waiting thread checks whether the stream was stopped.
_POLL_S = 0.1
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

    def __init__(self, path: Path) -> None:
        """Begin to open and read the file; errors are raised by `recording` and `blocks`."""
        self.read_s = 0.0
        self._is_file = path.is_file()
        self._blocks: queue.Queue[Samples | None] = queue.Queue(_READ_AHEAD_BLOCKS if self._is_file else 0)
        self._opened: queue.Queue[Recording | None] = queue.Queue()
        self._failure: BaseException | None = None
        self._stopped = threading.Event()
        # It may hang in a read, and must not keep the program from ending.
        threading.Thread(target=self._read, args=(path,), name="source", daemon=True).start()

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
        """Yield the samples that were read; raise what the recording raises."""
        while True:
            try:
                block = self._blocks.get(timeout=_POLL_S)
            except queue.Empty:
                if self._stopped.is_set():
                    return
                continue
            if block is None:
                break
            self.read_s += block.size / SAMPLE_RATE_HZ
            yield block
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

    def _read(self, path: Path) -> None:
        try:
            recording = Recording(path, live=True)
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
        for update in follow(source.blocks()):
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
        similarity = recogniser.same_speaker_similarity
        self._speakers = None if similarity is None else speakers.StreamSpeakers(similarity)
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
        turns = tuple(speakers.turns(found.words, found.windows, labels))
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
        self._features = FeatureStream()
        self._samples, self._frames = 0, list[Features]()
        self._waiting = self._features.accept_waveform(np.empty(0, dtype=np.float32))
        self._windows, self._outputs = list[Features](), list[EncoderOutput]()
        self._search = ctc.Search(fusion=rescoring.fusion(recogniser) if plan.ngram else None)
        self._error_text: str | None = None

    def push(self, segment: Segment) -> None:
        """Send the windows that are full by now; after an error of the server, no more are sent."""
        self._take(segment.samples[self._samples :])
        size, overlap = self._recogniser.window_frames, self._recogniser.overlap_frames
        windows, self._waiting = full_windows(self._waiting, size, overlap)
        for window in windows:
            self._send(window, end=False)

    def text(self) -> str:
        """Return the words so far; no words after an error of the server."""
        if self._error_text is not None:
            return ""
        return spell(self._search.best_partial(), self._recogniser.pieces)

    def finish(self, segment: Segment, number: int) -> SegmentResult:
        """End the sequence on the server and return the result of the segment."""
        self._take(np.zeros(pipeline.pad_to_minimum(segment.samples).size - segment.samples.size, dtype=np.float32))
        # The server frees the place of a sequence with its last window, so a last window is always sent.
        self._send(self._waiting, end=True)
        if self._error_text is not None:
            return SegmentResult(loss=Loss(start_s=segment.start_s, end_s=segment.end_s, reason=self._error_text))
        frames = np.concatenate(self._frames)[: max(feature_frames(segment.samples.size), SHORTEST_FRAMES)]
        encoded, hypotheses = concatenate(self._outputs), None
        if segment.is_cut:
            # Speech continues: the frames after the cut are recognised again with the next segment.
            encoded = concatenate([encoded], words.encoder_frames(len(frames)))
        else:
            # After the end there is only the silence by which the end was detected.
            hypotheses = self._search.hypotheses()
        return pipeline.with_retries(
            segment,
            lambda: pipeline.decode_segment(self._recogniser, self._plan, number, segment, frames, encoded, hypotheses),
        )

    def _take(self, samples: Samples) -> None:
        frames = self._features.accept_waveform(samples)
        self._samples += samples.size
        self._frames.append(frames)
        self._waiting = np.concatenate((self._waiting, frames))

    def _send(self, window: Features, *, end: bool) -> None:
        if self._error_text is not None:
            return
        try:
            encoded = self._step(window, end=end)
        except RequestError as error:
            self._error_text = str(error)
            return
        self._windows.append(window)
        # The network makes a frame also of a shorter window, but that frame has no meaning.
        if len(window) >= SHORTEST_FRAMES:
            self._outputs.append(encoded)
            self._search.advance(encoded.emissions)

    def _step(self, window: Features, *, end: bool) -> EncoderOutput:
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
    return EncoderOutput(
        emissions=Emissions(
            log_probs=log_probs, tokens=np.concatenate([part.emissions.tokens for part in parts])[valid]
        ),
        encoder_out=np.concatenate([part.encoder_out[: part.encoder_length] for part in parts])[valid],
        encoder_length=len(log_probs),
    )


def new_stream_id() -> int:
    """Return a random number for a stream: clients choose the numbers, each without knowing those of the others."""
    return 1 + secrets.randbelow(_LARGEST_STREAM)
