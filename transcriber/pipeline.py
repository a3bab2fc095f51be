"""From a recording to its transcript: split, recognise several segments at a time, search, tell speakers apart."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from contract.errors import AudioError, SegmentError, ServerContractError, ServerUnreachableError, VoxwrightError
from transcriber import ctc, rescoring, speakers, words
from transcriber.audio import Recording, Samples
from transcriber.ctc import Floats
from transcriber.features import log_mel
from transcriber.recogniser import Features, Heard, Recogniser, RequestError
from transcriber.segments import Segment, split
from transcriber.transcript import Loss, Transcript, Turn, Word

# The subsampling needs seven feature frames; 0.2 s has eighteen.
_SHORTEST_SAMPLES = 3_200
_ATTEMPTS = 3
_PAUSE_S = 0.5
_NAMED_SPANS = 5

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How to transcribe: `search` is greedy, beam, rescore, or None for the best that the server allows.

    Without `ngram`, the search asks no n-gram model though the weights came with one.
    """

    search: str | None = None
    ngram: bool = True
    speakers: bool = True
    in_flight: int = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A transcript, what to tell about it, and the refusals that its losses amount to."""

    transcript: Transcript
    notes: tuple[str, ...]
    errors: tuple[VoxwrightError, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Understood:
    """What became of a segment: words and embedded windows, or the loss of it."""

    words: list[Word] = field(default_factory=list)
    windows: list[speakers.Window] = field(default_factory=list)
    embeddings: Floats | None = None
    loss: Loss | None = None


def transcribe(
    recording: Recording, recogniser: Recogniser, plan: Plan, advance: Callable[[float], object] = lambda _: None
) -> Outcome:
    """Transcribe a recording; `advance` is told how many seconds are done.

    Memory does not grow with the recording but for its words and embeddings. Raises AudioError when there is no sound
    at all and ServerContractError for a search that the server does not allow. Whatever else is lost, down to the
    server's staying away, is in the outcome beside what was understood.
    """
    chosen = replace(plan, search=chosen_search(recogniser, plan.search))
    understood: list[Understood] = []
    gone: ServerUnreachableError | None = None
    done_s = 0.0

    def work(numbered: tuple[int, Segment]) -> tuple[float, Understood]:
        number, segment = numbered
        return segment.end_s, patiently(segment, lambda: _asked(recogniser, chosen, number, segment))

    try:
        for done_s, part in in_order(work, enumerate(split(recording.blocks())), plan.in_flight):
            understood.append(part)
            advance(done_s)
    except ServerUnreachableError as error:
        gone = error
        recording.close()
    turns = tuple(_turns(understood, recogniser.same_speaker_similarity))
    return outcome(recording, recogniser, plan, understood, turns, gone, done_s)


def chosen_search(recogniser: Recogniser, wish: str | None) -> str:
    """Choose the best search that the server allows; raise ServerContractError for a wish that it does not."""
    if wish is None:
        return "rescore" if recogniser.rescorers else "beam"
    if wish == "rescore" and not recogniser.rescorers:
        raise ServerContractError(
            "--search rescore",
            f"the server has neither a decoder nor an lm for {recogniser.operating_point}",
            "Use --search beam, or serve the decoder",
        )
    return wish


def in_order(work: Callable[[Item], Result], items: Iterable[Item], in_flight: int) -> Iterator[Result]:
    """Apply `work` in threads to a few items at a time, and yield the results in the order of the items.

    Takes no more than twice `in_flight` items ahead of the result that is due. The first error ends it, and what has
    not begun by then never does.
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
    """Count the attempts at something that a server may refuse, with a growing pause before each but the first."""
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE_S * attempt)
        yield attempt


def patiently(segment: Segment, ask: Callable[[], Understood]) -> Understood:
    """Ask for a segment up to three times, and give it up as lost then."""
    refusal = ""
    for _ in attempts():
        try:
            return ask()
        except RequestError as error:
            refusal = str(error)
    return Understood(loss=Loss(start_s=segment.start_s, end_s=segment.end_s, reason=refusal))


def understand(
    recogniser: Recogniser,
    plan: Plan,
    number: int,
    segment: Segment,
    features: Features,
    heard: Heard,
    hypotheses: tuple[ctc.Hypothesis, ...] | None = None,
) -> Understood:
    """Find the words of a segment in what the server heard, and who says them; `plan` names its search.

    features: FP16 [frames, 80], those of the segment; `hypotheses` are what was found by a search that is done already.
    """
    best = _searched(recogniser, plan, heard, hypotheses)
    spoken = ctc.align(heard.emissions, best.tokens)
    found = words.join(spoken, recogniser.pieces, segment.start_s, segment.end_s)
    if not found or not plan.speakers or recogniser.same_speaker_similarity is None:
        return Understood(words=found)
    return _with_voices(recogniser, number, segment, features, found)


def _asked(recogniser: Recogniser, plan: Plan, number: int, segment: Segment) -> Understood:
    features = log_mel(long_enough(segment.samples))
    return understand(recogniser, plan, number, segment, features, recogniser.recognise(features))


def _searched(
    recogniser: Recogniser, plan: Plan, heard: Heard, hypotheses: tuple[ctc.Hypothesis, ...] | None
) -> ctc.Hypothesis:
    if plan.search == "greedy":
        return ctc.greedy(heard.emissions)
    if hypotheses is None:
        hypotheses = rescoring.search(recogniser, heard.emissions, ngram=plan.ngram)
    return (rescoring.rescore(recogniser, heard, hypotheses) if plan.search == "rescore" else hypotheses)[0]


def _with_voices(
    recogniser: Recogniser, number: int, segment: Segment, features: Features, found: list[Word]
) -> Understood:
    bounds = speakers.window_bounds(len(features))
    embeddings = recogniser.embed([features[first:last] for first, last in bounds])
    return Understood(words=found, windows=speakers.windows_of(number, segment.start_s, bounds), embeddings=embeddings)


def long_enough(samples: Samples) -> Samples:
    """Pad a segment with silence to the shortest that the networks take, 0.2 s."""
    return np.pad(samples, (0, max(0, _SHORTEST_SAMPLES - samples.size)))


def outcome(
    recording: Recording,
    recogniser: Recogniser,
    plan: Plan,
    understood: Sequence[Understood],
    turns: Sequence[Turn],
    gone: ServerUnreachableError | None,
    done_s: float,
) -> Outcome:
    """Sum up what became of a recording's segments; behind `done_s` all is lost where the server was gone."""
    refused = [part.loss for part in understood if part.loss is not None]
    missed = [Loss(start_s=done_s, end_s=recording.duration_s, reason=gone.cause)] if gone is not None else []
    transcript = Transcript(
        # A name that is no UTF-8 must not cost the transcript.
        source=os.fsencode(recording.path.name).decode(errors="replace"),
        duration_s=recording.duration_s or done_s,
        language=recogniser.language,
        operating_point=recogniser.operating_point,
        turns=tuple(turns),
        losses=tuple(sorted([*recording.losses, *refused, *missed], key=lambda loss: loss.start_s)),
    )
    return Outcome(
        transcript=transcript,
        notes=tuple(_notes(recording, recogniser, plan, understood, gone=gone is not None)),
        errors=tuple(_errors(recording.path, recording.losses, refused, missed, gone)),
    )


def _turns(understood: list[Understood], similarity: float | None) -> Iterator[Turn]:
    parts = [part.embeddings for part in understood if part.embeddings is not None]
    windows = [window for part in understood for window in part.windows]
    labels = speakers.label(windows, np.concatenate(parts), similarity) if parts and similarity is not None else []
    start = 0
    for part in understood:
        stop = start + len(part.windows)
        yield from speakers.turns(part.words, part.windows, labels[start:stop])
        start = stop


def _notes(
    recording: Recording, recogniser: Recogniser, plan: Plan, understood: Sequence[Understood], *, gone: bool
) -> Iterator[str]:
    yield from recording.notes
    if not any(part.words or part.loss for part in understood) and not gone:
        yield "no speech was found in it" if not understood else "no words were found in it"
    if plan.speakers and recogniser.same_speaker_similarity is None:
        yield f"the server has no diar_{recogniser.operating_point}, so speakers are not told apart"


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
        remedy = f"The rest was transcribed; the server said: {refused[0].reason.rstrip('.')}"
        yield SegmentError(path, cause.replace("refused 1 segments", "refused 1 segment"), remedy)
    if gone is not None:
        cause = f"{gone.cause}, so {_spans(missed)} of {path} is not in the transcript"
        yield ServerUnreachableError(gone.subject, cause, gone.remedy)


def _spans(losses: list[Loss]) -> str:
    named = [str(loss) for loss in losses[:_NAMED_SPANS]]
    rest = len(losses) - len(named)
    return ", ".join(named) + (f" and {rest} more" if rest else "")
