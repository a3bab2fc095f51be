"""Transcribe a stream while it goes on: samples are pushed, and events are returned.

A session has no input or output of its own but the recogniser. Its methods are called by one thread at a time;
sessions of several threads share a recogniser.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeAlias

from contract.errors import ServerUnreachableError
from transcriber import phrases, pipeline, speakers
from transcriber.audio import Samples
from transcriber.open_segment import OpenSegment
from transcriber.pipeline import Plan, SegmentResult
from transcriber.recogniser import RequestError, StreamRecogniser
from transcriber.segments import HANGOVER_S, Follower, Segment, SegmentUpdate
from transcriber.stream_speakers import StreamSpeakers
from transcriber.transcript import Loss, Turn, Word


@dataclass(frozen=True, kw_only=True, slots=True)
class Partial:
    """The text from `start_s` on, as far as it is known at `end_s`; it may still change."""

    start_s: float
    end_s: float
    text: str
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Final:
    """The words of a stretch of speech, or its loss. Without either no words were found; partials of it are void."""

    start_s: float
    end_s: float
    turns: tuple[Turn, ...] = ()
    loss: Loss | None = None
    forced: bool = False
    """Whether it is the result of `end_utterance`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndOfUtterance:
    """The speaker has ended: silence has lasted as long as the rules require, or `end_utterance` was called."""

    time_s: float
    forced: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Outage:
    """The server has been away too long, so the session has ended: everything after `start_s` is lost."""

    start_s: float
    error: ServerUnreachableError


# Sound in which no word is found for so long is no speech. A segment begins 0.2 s before its sound, and the text of a
# word is known after the one or two windows of the recogniser that it is in, a third of a second each. Behind words it
# may be a hesitation.
_WORDLESS_S, _HESITATION_S = 1.0, 3.0

Event: TypeAlias = Partial | Final | EndOfUtterance | Outage


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamRules:
    """When words become final. Without `max_delay_s` they are final at the end of their segment, of at most 16 s.

    A word is final when `max_delay_s` and at most one window of the recogniser of audio have followed it. An utterance
    ends after `end_of_utterance_s` without speech; None sends no such event. Sound without words, such as clicks, is no
    speech.
    """

    max_delay_s: float | None = None
    end_of_utterance_s: float | None = None


class StreamSession:
    """A stream that is being transcribed. Times are seconds of audio since its first sample.

    As a context manager it frees what the server keeps of the stream, however the block ends.
    """

    def __init__(
        self,
        recogniser: StreamRecogniser,
        plan: Plan,
        *,
        rules: StreamRules | None = None,
        partial_words: bool = True,
    ) -> None:
        """Begin a stream; without `partial_words` a Partial has only its text, at four fifths of the time.

        Raises ServerContractError for a plan that the server does not allow, and SettingError for a phrase that the
        tokens of the model do not spell.
        """
        self._recogniser = recogniser
        phrases.spelled(plan.vocabulary, recogniser.tokens)
        pipeline.check_speakers(recogniser, plan)
        self._plan = replace(plan, search=pipeline.choose_search(recogniser, plan.search))
        self._follower = Follower(
            sample_rate_hz=recogniser.audio.sample_rate_hz,
            longest_s=pipeline.longest_segment_s(recogniser),
            voice_detection=plan.voice_detection,
        )
        spec = recogniser.speaker
        self._speakers = None if spec is None else StreamSpeakers(spec.same_speaker_similarity, plan.speaker_limits)
        self._open_segment: OpenSegment | None = None
        self._last_partial, self._checked_s = "", 0.0
        self._number = 0
        self._utterance_is_open = self._has_ended = False
        self._spoken_s = 0.0  # the end of the last speech with words
        self.done_s = 0.0
        """The time up to which everything is final."""
        self.rules = rules or StreamRules()
        self._has_partial_words = partial_words

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None, /) -> None:
        self.cancel()

    @property
    def rules(self) -> StreamRules:
        """Return the rules; they may be replaced while the stream goes on."""
        return self._rules

    @rules.setter
    def rules(self, rules: StreamRules) -> None:
        self._rules = rules
        self._follower.hangover_s = min(HANGOVER_S, rules.end_of_utterance_s or HANGOVER_S)

    @property
    def position_s(self) -> float:
        """Return the time up to which samples were processed."""
        return self._follower.position_s

    @property
    def is_speaking(self) -> bool:
        """Return whether a segment is open."""
        return self._open_segment is not None

    def push(self, samples: Samples) -> list[Event]:
        """Take mono samples FP32 in [-1, 1] at the rate of the recogniser, and return the events that they bring."""
        return self._collected(lambda: self._push(samples))

    def pause(self) -> list[Event]:
        """End the open segment, because no samples come for a while: what was spoken is final."""
        return self._collected(lambda: self._updated(self._follower.pause()))

    def end_utterance(self) -> list[Event]:
        """End the open segment and the utterance now; both events are `forced`."""
        return self._collected(self._end_utterance)

    def finish(self) -> list[Event]:
        """End the stream and return its last events."""
        events = self._collected(lambda: self._updated(self._follower.finish()))
        self._has_ended = True
        return events

    def cancel(self) -> None:
        """End the stream without more events, and free its place on the server. Later calls do nothing."""
        self._has_ended = True
        if self._open_segment is not None:
            open_segment, self._open_segment = self._open_segment, None
            open_segment.cancel()

    def _collected(self, work: Callable[[], Iterator[Event]]) -> list[Event]:
        """Return the events of a piece of work, with an Outage as the last one when the server stays away."""
        events: list[Event] = []
        if self._has_ended:
            return events
        try:
            events.extend(work())
        except ServerUnreachableError as error:
            # Nothing can be freed on a server that is away. It forgets idle sequences by itself.
            self._open_segment, self._has_ended = None, True
            events.append(Outage(start_s=self.done_s, error=error))
        return events

    def _push(self, samples: Samples) -> Iterator[Event]:
        for start in range(0, samples.size, self._follower.step):
            yield from self._updated(self._follower.push(samples[start : start + self._follower.step]))
            yield from self._end_of_utterance()

    def _end_utterance(self) -> Iterator[Event]:
        for event in self._updated(self._follower.pause()):
            yield replace(event, forced=True) if isinstance(event, Final) else event
        self._utterance_is_open = False
        yield EndOfUtterance(time_s=self.position_s, forced=True)

    def _end_of_utterance(self) -> Iterator[Event]:
        silence_s = self._rules.end_of_utterance_s
        if not silence_s or not self._utterance_is_open:
            return
        time_s = self._spoken_s + silence_s
        if self.position_s < time_s:
            return
        if self._open_segment is None or self._open_segment.wordless_s >= _longest_wordless_s(self._open_segment):
            self._utterance_is_open = False
            yield EndOfUtterance(time_s=time_s)

    def _updated(self, updates: Iterator[SegmentUpdate]) -> Iterator[Event]:
        for update in updates:
            yield from self._take(update.segment, ended=update.ended)

    def _take(self, segment: Segment, *, ended: bool) -> Iterator[Event]:
        """Take a segment as far as it is known; yield what is new in it."""
        if self._open_segment is None:
            self._open_segment = OpenSegment(self._recogniser, self._plan, segment.start_s)
            self._last_partial = ""
            self.done_s = self._checked_s = segment.start_s
        open_segment = self._open_segment
        open_segment.push(segment)
        if ended:
            yield self._finished(segment, open_segment)
            return
        yield from self._settled(segment, open_segment)
        yield from self._partial(segment, open_segment)

    def _partial(self, segment: Segment, open_segment: OpenSegment) -> Iterator[Partial]:
        text = open_segment.text()
        if text and text != self._last_partial:
            self._last_partial = text
            yield Partial(
                start_s=open_segment.settled_s,
                end_s=segment.end_s,
                text=text,
                words=tuple(open_segment.words(segment)) if self._has_partial_words else (),
            )

    def _settled(self, segment: Segment, open_segment: OpenSegment) -> Iterator[Final]:
        """Make words final that have waited for too long, together with what was spoken up to half the delay ago."""
        delay_s = self._rules.max_delay_s
        if delay_s is None or segment.end_s - self._checked_s < delay_s:
            return
        limit_s, start_s = segment.end_s - delay_s / 2, open_segment.settled_s
        due_s, self._checked_s = max(self._checked_s, segment.end_s - delay_s), limit_s
        try:
            found = open_segment.settle(segment, self._number, limit_s=limit_s, due_s=due_s)
        except RequestError:
            # The next step, or the end of the segment, tries again and reports a loss.
            return
        if open_segment.held_s is not None:
            # The phrase is not searched again before it can wait no longer.
            self._checked_s = open_segment.held_s
        elif found is not None:
            self._checked_s = open_segment.settled_s
        if found is not None:
            self._follower.keep(open_segment.settled_s)
            self._last_partial = ""
            self._spoken_s = open_segment.settled_s
            yield self._final(found, start_s, open_segment.settled_s)

    def _finished(self, segment: Segment, open_segment: OpenSegment) -> Final:
        start_s = open_segment.settled_s
        found = open_segment.finish(segment, self._number)
        self._open_segment = None
        voiced_s = min(self._follower.last_voiced_s, segment.end_s)
        # Also behind words that were final before: the sound of a word goes on after its last token.
        if found.words or (open_segment.has_final_words and voiced_s - start_s < _HESITATION_S):
            self._spoken_s = voiced_s
        return self._final(found, start_s, max(start_s, segment.end_s))

    def _final(self, found: SegmentResult, start_s: float, end_s: float) -> Final:
        labels: list[str | None] = []
        if self._speakers is not None and found.embeddings is not None:
            spoken = speakers.nearest(found.words, found.windows) if found.windows else []
            labels = self._speakers.label(found.windows, found.embeddings, spoken)
        separator = self._recogniser.tokens.word_separator
        turns = tuple(speakers.turns(found.words, found.windows, labels, separator))
        self.done_s = end_s
        self._number += 1
        self._utterance_is_open = self._utterance_is_open or bool(turns)
        return Final(start_s=start_s, end_s=end_s, turns=turns, loss=found.loss)


def _longest_wordless_s(open_segment: OpenSegment) -> float:
    """Return how long sound without words in an open segment may be speech."""
    return _HESITATION_S if open_segment.has_final_words else _WORDLESS_S
