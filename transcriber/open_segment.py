"""Recognise a segment while it is spoken: its windows are one sequence of requests, its search goes on with each."""

import bisect
import itertools
import secrets
from dataclasses import dataclass, replace

import numpy as np

from contract.tokens import spell, spell_words, word_groups
from transcriber import confidence, ctc, phrases, pipeline, rescoring, words
from transcriber.audio import Samples
from transcriber.buckets import full_windows
from transcriber.ctc import AlignedToken, Emissions
from transcriber.pipeline import Plan, SegmentResult
from transcriber.recogniser import CancelledRequestError, EncoderOutput, RequestError, StreamRecogniser
from transcriber.segments import Segment
from transcriber.transcript import Loss, Word

_LARGEST_STREAM = 2**63 - 1
# After a longer gap, the next token begins another word.
_LONGEST_GAP_S = 0.3
# Makes every hypothesis but one impossible.
_IMPOSSIBLE = -1e4


@dataclass(frozen=True, kw_only=True, slots=True)
class _Settled:
    """The beginning of a segment that is final: its tokens, the encoder frames they take, and its end."""

    tokens: tuple[int, ...] = ()
    frames: int = 0
    end_s: float = 0.0


class OpenSegment:
    """A segment that is being spoken: its windows, their encoder outputs, and the search over them."""

    def __init__(self, recogniser: StreamRecogniser, plan: Plan, start_s: float = 0.0) -> None:
        self._recogniser, self._plan = recogniser, plan
        self._phrases = phrases.spelled(plan.vocabulary, recogniser.tokens)
        self._calibration = confidence.calibration(recogniser, plan.search, ngram=plan.ngram)
        self._stream, self._start_s = new_stream_id(), start_s
        self._samples, self._waiting = 0, np.empty(0, dtype=np.float32)
        self._windows, self._outputs = list[Samples](), list[EncoderOutput]()
        self._settled = _Settled(end_s=start_s)
        self._search = self._new_search()
        self._text: str | None = None  # None where it is not known
        self._error_text: str | None = None
        self.held_s: float | None = None
        """When the first word ends that waits for the rest of its phrase, after `settle`; None where none waits."""

    @property
    def settled_s(self) -> float:
        """Return the time before which all words are final."""
        return self._settled.end_s

    @property
    def has_final_words(self) -> bool:
        """Return whether some of its words are final."""
        return bool(self._settled.tokens)

    @property
    def wordless_s(self) -> float:
        """Return how long the audio after the last final word is that was recognised and has no word; 0 with a word."""
        if self.text():
            return 0.0
        recognised = self._samples - self._waiting.size
        return max(0.0, self._start_s + recognised / self._recogniser.audio.sample_rate_hz - self.settled_s)

    def push(self, segment: Segment) -> None:
        """Send the windows that are full by now; after an error of the server, no more are sent."""
        self._take(segment.samples[self._samples :])
        size, overlap = self._recogniser.window_samples, self._recogniser.overlap_samples
        windows, self._waiting = full_windows(self._waiting, size, overlap)
        for window in windows:
            self._send(window, end=False)

    def text(self) -> str:
        """Return the words so far that are not final; no words after an error of the server."""
        if self._error_text is not None:
            return ""
        if self._text is None:
            # It changes three times a second, and is read ten times.
            spoken, spec = self._partial_tokens(), self._recogniser.tokens
            self._text = (
                spell(spoken, spec)
                if self._phrases is None
                else self._phrases.write_text(filter(None, spell_words(spoken, spec)))
            )
        return self._text

    def words(self, segment: Segment) -> list[Word]:
        """Return the words of `text` with their times."""
        if self._error_text is not None or not self._outputs:
            return []
        aligned = self._aligned(concatenate(self._outputs), self._partial_tokens())
        return self._written(self._joined(aligned, segment))

    def settle(self, segment: Segment, number: int, *, limit_s: float, due_s: float) -> SegmentResult | None:
        """Make the words final that end before a time of the recording; None where there is no such word.

        They are rescored with everything that is known so far, and the search goes on with them as its beginning. A
        phrase of several words waits until it is known, unless a word of it ends before `due_s`.
        """
        self.held_s = None
        if self._error_text is not None or not self._outputs:
            return None
        before_s, encoded = self.settled_s, concatenate(self._outputs)
        aligned = self._aligned(encoded, self._best_tokens(encoded, self._search.hypotheses()))
        settled = aligned[: self._border(aligned, segment, encoded.encoder_length, limit_s=limit_s, due_s=due_s)]
        count = len(self._joined(settled, segment))
        if not count:
            return None
        found = self._joined(aligned, segment)[:count]
        self._settled = _Settled(
            tokens=self._settled.tokens + tuple(each.token for each in settled),
            frames=settled[-1].last + 1,
            end_s=found[-1].end_s,
        )
        self._search, self._text = self._continued(encoded), None
        return pipeline.with_embeddings(
            self._recogniser, self._plan, number, _part(segment, before_s, self.settled_s), self._written(found)
        )

    def finish(self, segment: Segment, number: int) -> SegmentResult:
        """End the sequence on the server and return the result of the segment, without what was final before."""
        audio = self._recogniser.audio
        padded = pipeline.pad_to_minimum(segment.samples, audio)
        self._take(padded[segment.samples.size :])
        # The server frees the place of a sequence with its last window, so a last window is always sent.
        self._send(self._waiting, end=True)
        if self._error_text is not None:
            return SegmentResult(loss=Loss(start_s=self.settled_s, end_s=segment.end_s, reason=self._error_text))
        encoded = concatenate(self._outputs)
        # What was sent beyond the end belongs to the next segment, which may begin there: speech after a cut, or within
        # the silence by which the end was detected.
        frames = max(audio.frames(max(segment.samples.size, audio.shortest_samples)), self._settled.frames)
        if frames < encoded.encoder_length:
            encoded = concatenate([encoded], frames)
            self._search = self._continued(encoded)
        hypotheses = self._search.hypotheses()
        return pipeline.with_retries(segment, lambda: self._decoded(segment, number, encoded, hypotheses))

    def cancel(self) -> None:
        """Free the place of the segment on the server."""
        if self._windows:
            self._recogniser.cancel(self._stream)

    def _decoded(
        self, segment: Segment, number: int, encoded: EncoderOutput, hypotheses: tuple[ctc.Hypothesis, ...]
    ) -> SegmentResult:
        found = self._joined(self._aligned(encoded, self._best_tokens(encoded, hypotheses)), segment)
        part = _part(segment, self.settled_s, segment.end_s) if self._settled.tokens else segment
        return pipeline.with_embeddings(self._recogniser, self._plan, number, part, self._written(found))

    def _best_tokens(self, encoded: EncoderOutput, hypotheses: tuple[ctc.Hypothesis, ...]) -> tuple[int, ...]:
        """Return the tokens of the best hypothesis that are not final yet."""
        if self._plan.search == "greedy":
            return ctc.greedy(self._rest(encoded), self._recogniser.tokens).tokens
        count = len(self._settled.tokens)
        agreeing = tuple(each for each in hypotheses if each.tokens[:count] == self._settled.tokens)
        return pipeline.best_hypothesis(self._recogniser, self._plan, encoded, agreeing).tokens[count:]

    def _partial_tokens(self) -> tuple[int, ...]:
        return self._search.best_partial()[len(self._settled.tokens) :]

    def _rest(self, encoded: EncoderOutput) -> Emissions:
        return _after(encoded.emissions, self._settled.frames)

    def _aligned(self, encoded: EncoderOutput, tokens: tuple[int, ...]) -> tuple[AlignedToken, ...]:
        first = self._settled.frames
        aligned = ctc.align(self._rest(encoded), tokens, self._recogniser.tokens)
        if not first:
            return aligned
        return tuple(replace(each, first=each.first + first, last=each.last + first) for each in aligned)

    def _joined(self, aligned: tuple[AlignedToken, ...], segment: Segment) -> list[Word]:
        recogniser = self._recogniser
        joined = words.join(aligned, recogniser.tokens, recogniser.audio, segment.start_s, segment.end_s)
        found = confidence.calibrated(joined, self._calibration)
        if not found or found[0].start_s >= self.settled_s:
            return found
        return [
            replace(word, start_s=max(word.start_s, self.settled_s), end_s=max(word.end_s, self.settled_s))
            for word in found
        ]

    def _written(self, found: list[Word]) -> list[Word]:
        return found if self._phrases is None else self._phrases.write(found)

    def _border(
        self, aligned: tuple[AlignedToken, ...], segment: Segment, frames: int, *, limit_s: float, due_s: float
    ) -> int:
        """Return how many tokens belong to words that end before a time and do not continue after it."""
        audio, tokens = self._recogniser.audio, [each.token for each in aligned]
        groups = word_groups(tokens, self._recogniser.tokens)
        first_centre_s = segment.start_s + audio.first_centre_s
        # Where the last token of each word lies.
        lasts = [aligned[group[-1]].last for group in groups]
        lasts_s = [first_centre_s + last * audio.hop_s for last in lasts]
        is_open = bool(lasts) and (frames - 1 - lasts[-1]) * audio.hop_s < _LONGEST_GAP_S
        closed = len(groups) - is_open
        ended = itertools.takewhile(lambda last_s: last_s + words.TRAIL_S <= limit_s, lasts_s[:closed])
        border = len(list(ended))
        if self._phrases is not None:
            contents = spell_words(tokens, self._recogniser.tokens)
            wanted, due = border, bisect.bisect_right(lasts_s, due_s)
            border = self._phrases.border(contents, wanted, closed=closed, due=due)
            self.held_s = lasts_s[border] if border < wanted else None
        if not border:
            return 0
        return len(aligned) if border == len(groups) else groups[border][0]

    def _new_search(self) -> ctc.Search:
        recogniser = self._recogniser
        vocabulary = None if self._phrases is None else self._phrases.vocabulary
        fusion = rescoring.fusion(recogniser) if self._plan.ngram else None
        width = ctc.beam_width(vocabulary)
        return ctc.Search(recogniser.tokens, width=width, fusion=fusion, vocabulary=vocabulary)

    def _continued(self, encoded: EncoderOutput) -> ctc.Search:
        """Return a search over an encoder output in which the final tokens are certain."""
        search = self._new_search()
        if self._settled.tokens:
            search.advance(_certain(self._settled.tokens, self._recogniser.tokens.blank))
        search.advance(self._rest(encoded))
        return search

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
            self._text = None

    def _step(self, window: Samples, *, end: bool) -> EncoderOutput:
        error_text = ""
        for attempt in pipeline.attempts():
            try:
                if attempt:
                    self._replay()
                return self._recogniser.step(self._stream, window, start=not self._windows, end=end)
            except CancelledRequestError as error:
                error_text = str(error)
                break
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
    outputs = [part.encoder_out for part in parts if part.encoder_out is not None]
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


def _after(emissions: Emissions, first: int) -> Emissions:
    return Emissions(log_probs=emissions.log_probs[first:], tokens=emissions.tokens[first:]) if first else emissions


def _certain(tokens: tuple[int, ...], blank: int) -> Emissions:
    """Return emissions that have only one hypothesis: every token in a frame of its own, and blanks between them."""
    path = [each for token in tokens for each in (token, blank)][:-1]
    listed = np.array([[token, blank if token != blank else tokens[0]] for token in path], dtype=np.int32)
    log_probs = np.tile(np.array([0.0, _IMPOSSIBLE], dtype=np.float32), (len(path), 1))
    return Emissions(log_probs=log_probs, tokens=listed)


def _part(segment: Segment, start_s: float, end_s: float) -> Segment:
    """Return the stretch of a segment between two times, at least one sample."""
    rate = segment.sample_rate_hz
    first = min(max(0, round(start_s * rate) - segment.start), segment.samples.size - 1)
    last = max(first + 1, min(segment.samples.size, round(end_s * rate) - segment.start))
    return replace(segment, start=segment.start + first, samples=segment.samples[first:last])
