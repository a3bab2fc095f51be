"""Transcribe a recording: split it, recognise several segments at a time, search, distinguish speakers."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from contract.client import AudioSpec
from contract.errors import AudioError, SegmentError, ServerContractError, ServerUnreachableError, VoxwrightError
from transcriber import confidence, ctc, phrases, rescoring, speakers, words
from transcriber.audio import Recording, Samples
from transcriber.clustering import NO_LIMITS, SpeakerLimits
from transcriber.ctc import Floats
from transcriber.phrases import Phrase
from transcriber.recogniser import EncoderOutput, Recogniser, RequestError
from transcriber.resampling import resample
from transcriber.segments import LONGEST_S, Segment, split
from transcriber.transcript import Loss, Transcript, Turn, Word
from transcriber.voice_detection import WEBRTC

# Shorter segments are padded with silence to this length, or to the shortest that the network takes.
_SHORTEST_S = 0.2
_ATTEMPTS = 3
_PAUSE_S = 0.5
_NAMED_SPANS = 5
# Mean probability of a recording's words with the default search, which the calibration of confidences does not change:
# 0.72 or less for human prompts, whose words are mostly wrong; less than this for one of ten recordings of an unseen
# accent, and for none of voices of the training.
_LOW_PROBABILITY, _LEAST_WORDS = 0.75, 10

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How to transcribe: `search` is greedy, beam, rescore, or None for the best that the server allows.

    Without `ngram`, the search does not use the n-gram model of the weights. The search prefers the phrases of
    `vocabulary`, and the transcript has them as they are written there. `permits` limits the segments that are
    recognised at a time in several recordings, `in_flight` those of each (None: the recogniser's own number). Of a
    stream only the largest number of speakers is obeyed.
    """

    search: str | None = None
    ngram: bool = True
    speakers: bool = True
    in_flight: int | None = None
    vocabulary: tuple[Phrase, ...] = ()
    permits: AbstractContextManager[object] = field(default_factory=nullcontext)
    speaker_limits: SpeakerLimits = NO_LIMITS
    voice_detection: str = WEBRTC


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptionResult:
    """A transcript, notes for the user, and an error for each kind of loss."""

    transcript: Transcript
    notes: tuple[str, ...]
    errors: tuple[VoxwrightError, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SegmentResult:
    """The result of a segment: words and embedded windows, or the loss of the segment."""

    words: list[Word] = field(default_factory=list)
    windows: list[speakers.Window] = field(default_factory=list)
    embeddings: Floats | None = None
    loss: Loss | None = None


def transcribe(
    recording: Recording,
    recogniser: Recogniser,
    plan: Plan,
    on_progress: Callable[[float], object] = lambda _: None,
    on_result: Callable[[SegmentResult], object] = lambda _: None,
) -> TranscriptionResult:
    """Transcribe a recording; `on_progress` is called with the number of seconds that are done.

    `on_result` is called with each segment as soon as it and all before it are done, before speakers are known.

    In memory only its words and embeddings grow with the recording. Raises AudioError when there is no sound at all,
    ServerContractError for a plan that the server does not allow, and SettingError for a phrase that the tokens of
    the model do not spell. Other losses, such as a long outage, are errors in the result, together with the rest of
    the transcript.
    """
    phrases.spelled(plan.vocabulary, recogniser.tokens)
    check_speakers(recogniser, plan)
    chosen = replace(plan, search=choose_search(recogniser, plan.search))
    results: list[SegmentResult] = []
    gone: ServerUnreachableError | None = None
    done_s = 0.0

    def work(numbered: tuple[int, Segment]) -> tuple[float, SegmentResult]:
        number, segment = numbered
        return segment.end_s, with_retries(segment, lambda: _recognise_segment(recogniser, chosen, number, segment))

    pieces = split(
        recording.blocks(),
        sample_rate_hz=recogniser.audio.sample_rate_hz,
        longest_s=longest_segment_s(recogniser),
        voice_detection=plan.voice_detection,
    )
    try:
        for done_s, part in in_order(work, enumerate(pieces), plan.in_flight or recogniser.in_flight):
            results.append(part)
            on_result(part)
            on_progress(done_s)
    except ServerUnreachableError as error:
        gone = error
        recording.close()
    turns = tuple(_turns(results, recogniser, plan.speaker_limits))
    return collect(recording, recogniser, plan, results, turns, gone, done_s)


def choose_search(recogniser: Recogniser, requested: str | None) -> str:
    """Return the requested search, or the best that the server allows.

    Raises ServerContractError for `rescore` when the server has no rescorer.
    """
    if requested is None:
        return "rescore" if recogniser.rescorers else "beam"
    if requested == "rescore" and not recogniser.rescorers:
        raise ServerContractError(
            "--search rescore",
            f"the server has no model that scores hypotheses for {recogniser.operating_point}",
            "Use --search beam, or serve a rescorer or a language model",
        )
    return requested


def check_speakers(recogniser: Recogniser, plan: Plan) -> None:
    """Raise ServerContractError for a number of speakers when the server has no speaker network."""
    if plan.speaker_limits != NO_LIMITS and recogniser.speaker is None:
        raise ServerContractError(
            "the number of speakers",
            f"the server has no speaker network for {recogniser.operating_point}",
            "Leave out --speakers and --max-speakers, or serve a speaker network",
        )


def in_order(work: Callable[[Item], Result], items: Iterable[Item], in_flight: int) -> Iterator[Result]:
    """Apply `work` to a few items at a time in threads, and yield the results in the order of the items.

    At most twice `in_flight` items are taken ahead of the next result. The first error ends it; work that has not
    begun by then is cancelled.
    """
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="segment")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            while len(pending) >= 2 * in_flight or (pending and pending[0].done()):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def attempts() -> Iterator[int]:
    """Count the attempts at a request, with a growing pause before each but the first."""
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE_S * attempt)
        yield attempt


def with_retries(segment: Segment, attempt: Callable[[], SegmentResult]) -> SegmentResult:
    """Attempt a segment up to three times; return its loss when the server refuses it every time."""
    refusal = ""
    for _ in attempts():
        try:
            return attempt()
        except RequestError as error:
            refusal = str(error)
    return SegmentResult(loss=Loss(start_s=segment.start_s, end_s=segment.end_s, reason=refusal))


def decode_segment(
    recogniser: Recogniser,
    plan: Plan,
    number: int,
    segment: Segment,
    encoded: EncoderOutput,
) -> SegmentResult:
    """Search the words of a segment in the encoder output, and embed its speech; `plan` names the search."""
    best = best_hypothesis(recogniser, plan, encoded, None)
    aligned = ctc.align(encoded.emissions, best.tokens, recogniser.tokens)
    joined = words.join(aligned, recogniser.tokens, recogniser.audio, segment.start_s, segment.end_s)
    found = confidence.calibrated(joined, confidence.calibration(recogniser, plan.search, ngram=plan.ngram))
    spelled = phrases.spelled(plan.vocabulary, recogniser.tokens)
    if spelled is not None:
        found = spelled.write(found)
    return with_embeddings(recogniser, plan, number, segment, found)


def _recognise_segment(recogniser: Recogniser, plan: Plan, number: int, segment: Segment) -> SegmentResult:
    with plan.permits:
        encoded = recogniser.recognise(pad_to_minimum(segment.samples, recogniser.audio))
        return decode_segment(recogniser, plan, number, segment, encoded)


def best_hypothesis(
    recogniser: Recogniser, plan: Plan, encoded: EncoderOutput, hypotheses: tuple[ctc.Hypothesis, ...] | None
) -> ctc.Hypothesis:
    """Return the best hypothesis of an encoder output; `hypotheses` are given when the search is done already."""
    if plan.search == "greedy":
        return ctc.greedy(encoded.emissions, recogniser.tokens)
    if hypotheses is None:
        spelled = phrases.spelled(plan.vocabulary, recogniser.tokens)
        vocabulary = None if spelled is None else spelled.vocabulary
        hypotheses = rescoring.search(recogniser, encoded.emissions, ngram=plan.ngram, vocabulary=vocabulary)
    return (rescoring.rescore(recogniser, encoded, hypotheses) if plan.search == "rescore" else hypotheses)[0]


def with_embeddings(
    recogniser: Recogniser, plan: Plan, number: int, segment: Segment, found: list[Word]
) -> SegmentResult:
    """Return the words of a segment with the embeddings of its speech, where speakers are distinguished."""
    spec = recogniser.speaker
    if not found or not plan.speakers or spec is None:
        return SegmentResult(words=found)
    samples = resample(segment.samples, segment.sample_rate_hz, spec.sample_rate_hz)
    samples = speakers.with_noise_floor(samples, spec.sample_rate_hz)
    bounds = speakers.window_bounds(samples.size, spec)
    embeddings = recogniser.embed(samples, bounds)
    windows = speakers.windows_of(number, segment.start_s, bounds, spec)
    # A network may divide the embedding of silence by its length, zero. The clustering takes numbers only.
    valid = np.isfinite(embeddings).all(axis=1)
    windows = [window for window, is_valid in zip(windows, valid.tolist(), strict=True) if is_valid]
    return SegmentResult(words=found, windows=windows, embeddings=embeddings[valid])


def pad_to_minimum(samples: Samples, audio: AudioSpec) -> Samples:
    """Return the samples of a segment, padded with silence to 0.2 s or to the shortest that the network takes."""
    shortest = max(round(_SHORTEST_S * audio.sample_rate_hz), audio.shortest_samples)
    # Almost no segment is so short, and NumPy would copy it.
    return np.pad(samples, (0, shortest - samples.size)) if samples.size < shortest else samples


def longest_segment_s(recogniser: Recogniser) -> float:
    """Return the length of the longest segment: 16 s, or less where the models take less."""
    return min(LONGEST_S, recogniser.longest_samples / recogniser.audio.sample_rate_hz)


def collect(
    recording: Recording,
    recogniser: Recogniser,
    plan: Plan,
    results: Sequence[SegmentResult],
    turns: Sequence[Turn],
    gone: ServerUnreachableError | None,
    done_s: float,
) -> TranscriptionResult:
    """Return the result of a recording from those of its segments; with `gone`, everything after `done_s` is lost."""
    refused = [part.loss for part in results if part.loss is not None]
    missed = [Loss(start_s=done_s, end_s=recording.duration_s, reason=gone.cause)] if gone is not None else []
    transcript = Transcript(
        # A file name that is not UTF-8 is written with replacement characters.
        source=os.fsencode(recording.path.name).decode(errors="replace"),
        duration_s=recording.duration_s or done_s,
        language=recogniser.language,
        operating_point=recogniser.operating_point,
        turns=tuple(turns),
        losses=tuple(sorted([*recording.losses, *refused, *missed], key=lambda loss: loss.start_s)),
    )
    return TranscriptionResult(
        transcript=transcript,
        notes=tuple(_notes(recording, recogniser, plan, results, turns, gone=gone is not None)),
        errors=tuple(_errors(recording.path, recording.losses, refused, missed, gone)),
    )


def _turns(results: list[SegmentResult], recogniser: Recogniser, limits: SpeakerLimits) -> Iterator[Turn]:
    similarity = recogniser.speaker.same_speaker_similarity if recogniser.speaker is not None else None
    parts = [part.embeddings for part in results if part.embeddings is not None]
    windows = [window for part in results for window in part.windows]
    labels: list[str] = []
    if parts and similarity is not None:
        labels = speakers.label(windows, np.concatenate(parts), similarity, limits)
    remaining, separator = iter(labels), recogniser.tokens.word_separator
    of_parts = (
        speakers.turns(part.words, part.windows, list(islice(remaining, len(part.windows))), separator)
        for part in results
    )
    yield from speakers.renumbered(chain.from_iterable(of_parts))


def _notes(
    recording: Recording,
    recogniser: Recogniser,
    plan: Plan,
    results: Sequence[SegmentResult],
    turns: Sequence[Turn],
    *,
    gone: bool,
) -> Iterator[str]:
    yield from recording.notes
    if not any(part.words or part.loss for part in results) and not gone:
        yield "no speech was found in it" if not results else "no words were found in it"
    if plan.speakers and recogniser.speaker is None:
        yield f"the server has no speaker network for {recogniser.operating_point}, so speakers are not distinguished"
    # What the networks themselves state: a calibration holds for speech like that of the training.
    calibration = confidence.calibration(recogniser, plan.search, ngram=plan.ngram)
    probabilities = [confidence.invert(word.confidence, calibration) for turn in turns for word in turn.words]
    if len(probabilities) >= _LEAST_WORDS and (mean := sum(probabilities) / len(probabilities)) < _LOW_PROBABILITY:
        yield (
            f"the mean probability of its words is {mean:.2f}, so many of them are probably wrong: "
            "this does not sound like what the models were trained on"
        )
    wanted, found = plan.speaker_limits.least, len({turn.speaker for turn in turns})
    if 0 < found < wanted:
        yield f"it has too little speech for {wanted} speakers: {found} {'was' if found == 1 else 'were'} distinguished"


def _errors(
    path: Path,
    unread: list[Loss],
    refused: list[Loss],
    missed: list[Loss],
    gone: ServerUnreachableError | None,
) -> Iterator[VoxwrightError]:
    if unread:
        cause = f"{unread[0].reason}, so {_spans(unread)} is not in the transcript"
        yield AudioError(path, cause, "The rest was transcribed; copy or record the file again for all of it")
    if refused:
        cause = f"the server refused {len(refused)} segments, so {_spans(refused)} is not in the transcript"
        remedy = f"The rest was transcribed; the error of the server: {refused[0].reason.rstrip('.')}"
        yield SegmentError(path, cause.replace("refused 1 segments", "refused 1 segment"), remedy)
    if gone is not None:
        cause = f"{gone.cause}, so {_spans(missed)} of {path} is not in the transcript"
        yield ServerUnreachableError(gone.subject, cause, gone.remedy)


def _spans(losses: list[Loss]) -> str:
    named = [str(loss) for loss in losses[:_NAMED_SPANS]]
    rest = len(losses) - len(named)
    return ", ".join(named) + (f" and {rest} more" if rest else "")
