"""A stream to its transcript while it goes on: what is being said as far as it is known, then what was said.

A segment of speech is a stream of its own to the server. It is sent window after window while it is spoken, and the
search goes on with it; when it has ended it is rescored and its speakers are named, as the segment of a recording is.
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
from transcriber import ctc, pipeline, rescoring, speakers, words
from transcriber.audio import Recording, Samples
from transcriber.ctc import Emissions
from transcriber.features import SAMPLE_RATE_HZ, FeatureStream, feature_frames
from transcriber.pipeline import Outcome, Plan, Understood
from transcriber.recogniser import Features, Heard, RequestError, StreamRecogniser
from transcriber.segments import Segment, follow
from transcriber.transcript import Loss, Turn
from transcriber.words import SHORTEST_FRAMES

# Seconds of a file that are read ahead; what cannot wait, such as a microphone, is taken whenever it comes.
_READ_AHEAD_BLOCKS = 20
# How often somebody who waits looks whether the stream was ended.
_LOOK_S = 0.1
_LARGEST_STREAM = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Partial:
    """What is being said, from `start_s` on, as far as it is known at `end_s`; the words may change yet."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Final:
    """What was said in a segment, or the loss of it."""

    start_s: float
    end_s: float
    turns: tuple[Turn, ...] = ()
    loss: Loss | None = None


Tell = Callable[[Partial | Final], object]


class Source:
    """Reads a recording in a thread of its own, so that a microphone is heard while the server is waited for."""

    def __init__(self, path: Path) -> None:
        """Begin to open and read it; what that raises is raised by `recording` and `blocks`."""
        self.heard_s = 0.0
        self._waits = path.is_file()
        self._blocks: queue.Queue[Samples | None] = queue.Queue(_READ_AHEAD_BLOCKS if self._waits else 0)
        self._opened: queue.Queue[Recording | None] = queue.Queue()
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        # It may hang in a read that nobody answers, and must not keep the program from its end.
        threading.Thread(target=self._read, args=(path,), name="source", daemon=True).start()

    def recording(self) -> Recording | None:
        """Wait until it is open and give it; None where it was ended before."""
        while not self._ended.is_set():
            with contextlib.suppress(queue.Empty):
                recording = self._opened.get(timeout=_LOOK_S)
                if recording is None and self._failure is not None:
                    raise self._failure
                return recording
        return None

    def blocks(self) -> Iterator[Samples]:
        """Yield what is read; raise what the recording raises."""
        while True:
            try:
                block = self._blocks.get(timeout=_LOOK_S)
            except queue.Empty:
                if self._ended.is_set():
                    return
                continue
            if block is None:
                break
            self.heard_s += block.size / SAMPLE_RATE_HZ
            yield block
            if self._ended.is_set() and self._waits:
                return
        if self._failure is not None:
            raise self._failure

    @property
    def was_ended(self) -> bool:
        """Say whether it ended before its time."""
        return self._ended.is_set()

    def end(self) -> None:
        """Let the stream end here; what has been spoken by now is still given, but nothing more of a file."""
        self._ended.set()

    def _read(self, path: Path) -> None:
        try:
            recording = Recording(path, live=True)
            self._opened.put(recording)
            for block in recording.blocks():
                if not self._put(block):
                    return
        except BaseException as error:
            # Whatever it is, it is raised where somebody waits.
            self._failure = error
        self._opened.put(None)
        self._put(None)

    def _put(self, block: Samples | None) -> bool:
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._blocks.put(block, timeout=_LOOK_S)
                return True
        return False


def transcribe(source: Source, recogniser: StreamRecogniser, plan: Plan, tell: Tell) -> Outcome:
    """Transcribe a stream; `tell` is given what is being said and what was said as soon as it is known.

    Raises AudioError when there is no sound at all, ServerContractError for a search that the server does not allow and
    KeyboardInterrupt where the source was ended before anything came of it. Whatever else is lost, down to the
    server's staying away, is in the outcome.
    """
    recording = source.recording()
    if recording is None:
        raise KeyboardInterrupt
    chosen = replace(plan, search=pipeline.chosen_search(recogniser, plan.search))
    listener = _Listener(recogniser, chosen, tell)
    gone: ServerUnreachableError | None = None
    try:
        for speech in follow(source.blocks()):
            listener.hear(speech.segment, ended=speech.ended)
        if source.was_ended:
            recording.duration_s = source.heard_s
    except ServerUnreachableError as error:
        gone = error
        source.end()
    return pipeline.outcome(recording, recogniser, plan, listener.understood, listener.turns, gone, listener.done_s)


class _Listener:
    """Follows the segments of a stream, one at a time."""

    def __init__(self, recogniser: StreamRecogniser, plan: Plan, tell: Tell) -> None:
        self._recogniser, self._plan, self._tell = recogniser, plan, tell
        similarity = recogniser.same_speaker_similarity
        self._voices = None if similarity is None else speakers.Voices(similarity)
        self._utterance: _Utterance | None = None
        self._told = ""
        self.understood: list[Understood] = []
        self.turns: list[Turn] = []
        self.done_s = 0.0

    def hear(self, segment: Segment, *, ended: bool) -> None:
        """Take what is known of a segment; tell what is new in it."""
        if self._utterance is None:
            self._utterance, self._told = _Utterance(self._recogniser, self._plan), ""
            self.done_s = segment.start_s
        utterance = self._utterance
        utterance.hear(segment)
        if ended:
            self._finish(segment, utterance.understood(segment, len(self.understood)))
        else:
            self._tell_partial(segment, utterance.text())

    def _tell_partial(self, segment: Segment, text: str) -> None:
        if text and text != self._told:
            self._told = text
            self._tell(Partial(start_s=segment.start_s, end_s=segment.end_s, text=text))

    def _finish(self, segment: Segment, found: Understood) -> None:
        labels: list[str] = []
        if self._voices is not None and found.embeddings is not None:
            labels = self._voices.label(found.windows, found.embeddings)
        turns = tuple(speakers.turns(found.words, found.windows, labels))
        self._utterance, self.done_s = None, segment.end_s
        self.understood.append(found)
        self.turns.extend(turns)
        if turns or found.loss or self._told:
            # What was told and turned out to be nothing is taken back by an empty one.
            self._tell(Final(start_s=segment.start_s, end_s=segment.end_s, turns=turns, loss=found.loss))


class _Utterance:
    """A segment on its way to the server: its windows, what they were heard as, and the search over that."""

    def __init__(self, recogniser: StreamRecogniser, plan: Plan) -> None:
        self._recogniser, self._plan = recogniser, plan
        self._stream = new_stream()
        self._features = FeatureStream()
        self._samples, self._frames = 0, list[Features]()
        self._waiting = self._features.hear(np.empty(0, dtype=np.float32))
        self._windows, self._heard = list[Features](), list[Heard]()
        self._search = ctc.Search(fusion=rescoring.fusion(recogniser) if plan.ngram else None)
        self._refusal: str | None = None

    def hear(self, segment: Segment) -> None:
        """Send the windows that are full by now; once the server has refused, no more are sent."""
        self._take(segment.samples[self._samples :])
        size, overlap = self._recogniser.window_frames, self._recogniser.overlap_frames
        while len(self._waiting) >= size:
            self._send(self._waiting[:size], end=False)
            self._waiting = self._waiting[size - overlap :]

    def text(self) -> str:
        """Spell what has been understood so far; nothing once the server has refused."""
        if self._refusal is not None:
            return ""
        return words.spelt(self._search.so_far(), self._recogniser.pieces)

    def understood(self, segment: Segment, number: int) -> Understood:
        """End the stream where the segment has ended, and say what was understood of it."""
        self._take(np.zeros(pipeline.long_enough(segment.samples).size - segment.samples.size, dtype=np.float32))
        # The server lets go of a stream with its last window, so that there always is one.
        self._send(self._waiting, end=True)
        if self._refusal is not None:
            return Understood(loss=Loss(start_s=segment.start_s, end_s=segment.end_s, reason=self._refusal))
        frames = np.concatenate(self._frames)[: max(feature_frames(segment.samples.size), SHORTEST_FRAMES)]
        heard, hypotheses = joined(self._heard), None
        if segment.is_cut:
            # Speech goes on, and what was heard behind the cut is heard anew with what follows.
            heard = joined([heard], words.encoder_frames(len(frames)))
        else:
            # Behind the end lies silence, in which its coming was waited for.
            hypotheses = self._search.hypotheses()
        return pipeline.patiently(
            segment,
            lambda: pipeline.understand(self._recogniser, self._plan, number, segment, frames, heard, hypotheses),
        )

    def _take(self, samples: Samples) -> None:
        frames = self._features.hear(samples)
        self._samples += samples.size
        self._frames.append(frames)
        self._waiting = np.concatenate((self._waiting, frames))

    def _send(self, window: Features, *, end: bool) -> None:
        if self._refusal is not None:
            return
        try:
            heard = self._asked(window, end=end)
        except RequestError as error:
            self._refusal = str(error)
            return
        self._windows.append(window)
        # The network makes a frame of anything; of less than this, it means nothing.
        if len(window) >= SHORTEST_FRAMES:
            self._heard.append(heard)
            self._search.hear(heard.emissions)

    def _asked(self, window: Features, *, end: bool) -> Heard:
        refusal = ""
        for attempt in pipeline.attempts():
            try:
                if attempt:
                    self._replay()
                return self._recogniser.step(self._stream, window, start=not self._windows, end=end)
            except RequestError as error:
                refusal = str(error)
        self._recogniser.give_up(self._stream)
        raise RequestError(refusal)

    def _replay(self) -> None:
        """Tell another stream, on a server that may have been started anew, what this one had heard."""
        self._recogniser.give_up(self._stream)
        self._stream = new_stream()
        for number, window in enumerate(self._windows):
            self._recogniser.step(self._stream, window, start=number == 0, end=False)


def joined(parts: list[Heard], length: int | None = None) -> Heard:
    """Put what the windows of a stream were heard as behind one another, cut to a length in encoder frames."""
    valid = slice(0, length)
    log_probs = np.concatenate([part.emissions.log_probs for part in parts])[valid]
    return Heard(
        emissions=Emissions(
            log_probs=log_probs, tokens=np.concatenate([part.emissions.tokens for part in parts])[valid]
        ),
        encoder_out=np.concatenate([part.encoder_out[: part.encoder_length] for part in parts])[valid],
        encoder_length=len(log_probs),
    )


def new_stream() -> int:
    """Choose the number of a stream, by chance: clients do, and know nothing of one another."""
    return 1 + secrets.randbelow(_LARGEST_STREAM)
