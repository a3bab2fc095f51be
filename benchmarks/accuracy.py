"""python -m benchmarks.accuracy: how right transcripts of the served networks are, and how well voices are told apart.

Every figure comes through the real server and the code of the transcriber: its splitting, its searches, its clustering.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import click
import numpy as np
import simpleder
from numpy.typing import NDArray
from rich.progress import track

from benchmarks import recordings
from benchmarks.recordings import Dialogue, RecordingSet, Spoken
from benchmarks.server import renew_bundle, served
from benchmarks.streams import MODE, Streamed
from contract import command_line, files
from contract.catalogue import OPERATING_POINTS
from contract.errors import ServerContractError
from demo.scores import wrong_words
from transcriber import ctc, pipeline, rescoring
from transcriber.audio import Recording
from transcriber.client import Connection, TritonRecogniser, TritonStreams
from transcriber.ctc import Hypothesis
from transcriber.features import log_mel
from transcriber.recogniser import Features, Heard, Recogniser
from transcriber.segments import split

RESULTS, PAGE = Path("dist/accuracy/results.json"), Path("docs/accuracy.md")
REPOSITORY = "dist/accuracy/repository"
# Which rescorers a search may ask.
RESCORERS = (("decoder",), ("decoder", "lm"))
CONCURRENCY = 4
RESAMPLES, SHARE_WITHIN = 1_000, 0.95
EQUAL_ERROR_SECONDS, FRAMES_PER_SECOND = 3, 100
# What lies before it may be silence.
FIRST_FRAME = 30
COLLAR_SECONDS = 0.25
VOICES = "voices"
# What is heard in real time as well.
STREAMED = "grammar"

SpokenTurn: TypeAlias = tuple[str, float, float]
Counts: TypeAlias = NDArray[np.int64]
Errors: TypeAlias = Mapping[str, Mapping[str, Counts]]
"""The wrong words of every recording, by set and search."""
Triton = TypeVar("Triton", bound=TritonRecogniser)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """An error rate with the bounds of its 95 % interval, all as shares."""

    rate: float
    lower: float
    upper: float

    def __str__(self) -> str:
        half = (self.upper - self.lower) / 2
        return f"{100 * self.rate:.1f} ± {100 * half:.1f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Diarization:
    """How well voices are told apart in dialogues, as shares."""

    error: float
    """Diarization error rate: speech missed, made up or given to the wrong voice; the edges of every turn count."""
    error_with_collar: float
    """The same without the quarter of a second on both sides of every edge of a turn, NIST's usual collar."""
    counts_right: float
    """The dialogues in which as many voices were found as there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Streams:
    """Word error rates of the same recordings as streams and as recordings, and by how much they differ."""

    streams: Rate
    recordings: Rate
    cost: Rate
    """The rate of streams less that of recordings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Everything that was measured: word error rates by point, set and search; errors of the speaker networks."""

    sets: dict[str, str]
    words: dict[str, dict[str, dict[str, Rate]]]
    gains: dict[str, Rate]
    """By set: the standard point's word error rate less the enhanced one's, each with its best search."""
    streams: dict[str, dict[str, Streams]]
    """What real time costs, by point and search."""
    equal_errors: dict[str, float]
    diarization: dict[str, Diarization]
    recordings: int
    hours: float

    def to_dict(self) -> dict[str, Any]:
        """Give all figures for a file."""
        return asdict(self)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--recordings", "folder", type=click.Path(path_type=Path), default=recordings.FOLDER, show_default=True,
              help="What `python -m training evaluation` has made.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=2), help="Only so many recordings of each set.")
@click.option("--keep", is_flag=True, help=f"Write the tables to {PAGE} as well.")
def _command(folder: Path, limit: int | None, *, keep: bool) -> None:
    """Measure word error rates, equal error rates and diarization error rates through the embedded server."""
    chosen, dialogues = recordings.load_all(folder, limit), recordings.load_dialogues(folder, limit)
    renew_bundle()
    results = measure(chosen, dialogues)
    files.write(RESULTS, json.dumps(results.to_dict(), indent=2) + "\n")
    text = page(results)
    print(text)
    if keep:
        files.write(PAGE, text)
    print(f"\n{RESULTS}" + (f", {PAGE}" if keep else ""))


def main() -> None:
    """Run the command line."""
    command_line.run(_command)


def measure(chosen: Sequence[RecordingSet], dialogues: Sequence[Dialogue]) -> Results:
    """Measure every operating point of the bundle, as a server of recordings and as one of streams."""
    by_name = {one.name: one for one in chosen}
    voices, spoken = by_name.get(VOICES), by_name.get(STREAMED)
    lengths = {one.name: np.array([len(each.text.split()) for each in one.recordings]) for one in chosen}
    with served(REPOSITORY) as endpoint:
        points = dict(_points(Connection(endpoint), TritonRecogniser))
        errors = {point: {one.name: errors_of(each, one) for one in chosen} for point, each in points.items()}
        equal_errors = {point: equal_error(each, voices.recordings) for point, each in points.items() if voices}
        diarization = {point: diarize(each, dialogues) for point, each in points.items()}
    with served(REPOSITORY, SM_BATCH_MODE="false") as endpoint:
        streams = {
            point: costs(errors_of(Streamed(each), spoken), errors[point][STREAMED], lengths[STREAMED])
            for point, each in _points(Connection(endpoint, one_server=True), TritonStreams)
            if spoken
        }
    return Results(
        sets={one.name: one.what for one in chosen},
        words=_rates(errors, lengths),
        gains=_gains(errors, lengths),
        streams=streams,
        equal_errors=equal_errors,
        diarization=diarization,
        recordings=sum(len(one.recordings) for one in chosen),
        hours=sum(each.seconds for one in chosen for each in one.recordings) / 3600,
    )


def errors_of(recogniser: Recogniser, chosen: RecordingSet) -> dict[str, Counts]:
    """Give by search the number of wrong words in each recording: substituted, deleted and inserted."""
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = pool.map(lambda one: transcripts(recogniser, one.path), chosen.recordings)
        texts = list(track(answers, f"{recogniser.operating_point} {chosen.name}", len(chosen.recordings)))
    return {
        search: np.array(
            [wrong_words(one.text, each[search]) for one, each in zip(chosen.recordings, texts, strict=True)]
        )
        for search in texts[0]
    }


def transcripts(recogniser: Recogniser, path: Path) -> dict[str, str]:
    """Transcribe a recording by every search that the server allows."""
    said: dict[str, list[str]] = {}
    for segment in split(Recording(path).blocks()):
        heard = recogniser.recognise(log_mel(pipeline.long_enough(segment.samples)))
        for search, best in searches(recogniser, heard):
            said.setdefault(search, []).append(_text(best, recogniser.pieces))
    return {search: " ".join(parts) for search, parts in said.items()}


def searches(recogniser: Recogniser, heard: Heard) -> Iterator[tuple[str, Hypothesis]]:
    """Search by every means, from the least to the best: what each is called, and what it finds.

    Rescorers are asked about what the n-gram model has found, where the weights came with one.
    """
    yield "greedy", ctc.greedy(heard.emissions)
    name, candidates = "beam", rescoring.search(recogniser, heard.emissions, ngram=False)
    yield name, candidates[0]
    if recogniser.ngram is not None:
        name, candidates = f"{name} + n-gram", rescoring.search(recogniser, heard.emissions)
        yield name, candidates[0]
    for families in RESCORERS:
        if set(families) <= set(recogniser.rescorers):
            yield " + ".join((name, *families)), rescoring.rescore(recogniser, heard, candidates, families)[0]


def rate(errors: Counts, words: Counts) -> Rate:
    """Give the word error rate with its bootstrap interval over recordings (Bisani and Ney, ICASSP 2004)."""
    chosen = np.random.default_rng(0).integers(len(words), size=(RESAMPLES, len(words)))
    resampled = errors[chosen].sum(axis=1) / words[chosen].sum(axis=1)
    lower, upper = np.quantile(resampled, [(1 - SHARE_WITHIN) / 2, (1 + SHARE_WITHIN) / 2])
    return Rate(rate=float(errors.sum() / words.sum()), lower=float(lower), upper=float(upper))


def costs(streamed: Mapping[str, Counts], recorded: Mapping[str, Counts], words: Counts) -> dict[str, Streams]:
    """Say by search what it costs to hear recordings as streams; what is hard for both does not widen the interval."""
    return {
        search: Streams(
            streams=rate(errors, words),
            recordings=rate(recorded[search], words),
            cost=rate(errors - recorded[search], words),
        )
        for search, errors in streamed.items()
    }


def diarize(recogniser: Recogniser, dialogues: Sequence[Dialogue]) -> Diarization:
    """Tell the voices of all dialogues apart; each counts by its length."""
    errors = {0.0: 0.0, COLLAR_SECONDS: 0.0}
    totals = dict.fromkeys(errors, 0.0)
    right = 0
    for dialogue in track(dialogues, f"{recogniser.operating_point} dialogues"):
        transcript = pipeline.transcribe(Recording(dialogue.path), recogniser, pipeline.Plan()).transcript
        found = [(str(turn.speaker), turn.start_s, turn.end_s) for turn in transcript.turns]
        wanted = [(turn.speaker, turn.start, turn.end) for turn in dialogue.turns]
        edges = [edge for _, start, end in wanted for edge in (start, end)]
        for collar in errors:
            scored = without_edges(wanted, edges, collar)
            seconds = sum(end - start for _, start, end in scored)
            if scored:
                errors[collar] += float(simpleder.DER(scored, without_edges(found, edges, collar))) * seconds
                totals[collar] += seconds
        right += len({speaker for speaker, _, _ in found}) == len({speaker for speaker, _, _ in wanted})
    return Diarization(
        error=errors[0.0] / totals[0.0],
        error_with_collar=errors[COLLAR_SECONDS] / totals[COLLAR_SECONDS] if totals[COLLAR_SECONDS] else math.nan,
        counts_right=right / len(dialogues),
    )


def without_edges(turns: Sequence[SpokenTurn], edges: Sequence[float], collar: float) -> list[SpokenTurn]:
    """Cut `collar` seconds on both sides of every edge out of turns of (speaker, start, end)."""
    left = list(turns)
    for edge in edges if collar else ():
        left = [
            part
            for speaker, start, end in left
            for part in ((speaker, start, min(end, edge - collar)), (speaker, max(start, edge + collar), end))
            if part[1] < part[2]
        ]
    return left


def equal_error(recogniser: Recogniser, spoken: Sequence[Spoken]) -> float:
    """Give the rate at which false acceptances and false rejections are equal, over all pairs of recordings.

    It is nan where no voice was recorded twice, or no second one.
    """
    frames = EQUAL_ERROR_SECONDS * FRAMES_PER_SECOND
    crops: list[Features] = []
    speakers: list[str] = []
    for one in spoken:
        features = log_mel(np.concatenate(list(Recording(one.path).blocks())))[FIRST_FRAME : FIRST_FRAME + frames]
        if len(features) == frames:
            crops.append(features)
            speakers.append(one.speaker)
    embeddings = recogniser.embed(crops)
    pairs = np.triu_indices(len(speakers), 1)
    similarity = (embeddings @ embeddings.T)[pairs]
    same = (np.array(speakers)[:, None] == np.array(speakers)[None, :])[pairs]
    if same.all() or not same.any():
        return math.nan
    thresholds = np.sort(similarity)
    rejected = np.searchsorted(np.sort(similarity[same]), thresholds) / same.sum()
    accepted = 1.0 - np.searchsorted(np.sort(similarity[~same]), thresholds) / (~same).sum()
    best = int(np.abs(rejected - accepted).argmin())
    return float(rejected[best] + accepted[best]) / 2


def page(results: Results) -> str:
    """Write all tables as a page of Markdown."""
    lines = [
        "# Accuracy of the reference networks",
        "",
        "Written by `python -m benchmarks.accuracy --keep`; change the measurement, not this page. "
        f"{results.recordings} recordings, {results.hours:.1f} hours, all of synthetic speech; made by "
        "`python -m training evaluation`, of sentences that no training holds. Word error rates in percent with the "
        "half width of their 95 % bootstrap interval, through the embedded server.",
    ]
    for point, by_set in results.words.items():
        searches = list(next(iter(by_set.values())))
        lines += [
            "",
            f"## {point}",
            "",
            f"| set | what | {' | '.join(searches)} |",
            "|---|---|" + "---|" * len(searches),
        ]
        lines += [
            f"| {name} | {results.sets[name]} | {' | '.join(str(by_search[each]) for each in searches)} |"
            for name, by_search in by_set.items()
        ]
    if results.gains:
        lines += [
            "",
            "## What enhanced gains over standard, each with its best search",
            "",
            "| set | points |",
            "|---|---|",
        ]
        lines += [f"| {name} | {gain} |" for name, gain in results.gains.items()]
    if results.streams:
        window_ms = MODE.windows(1).step * 1000 // FRAMES_PER_SECOND
        lines += [
            "",
            f"## What real time costs: {STREAMED}, a window of {window_ms} ms at a time",
            "",
            "| point | search | recordings | streams | points |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {point} | {search} | {found.recordings} | {found.streams} | {found.cost} |"
            for point, by_search in results.streams.items()
            for search, found in by_search.items()
        ]
    lines += ["", "## Speakers", "", f"| | {' | '.join(results.words)} |", "|---|" + "---|" * len(results.words)]
    found = [results.diarization[point] for point in results.words]
    for title, figures in (
        (
            f"equal error rate, {EQUAL_ERROR_SECONDS} s, unseen voices",
            [results.equal_errors.get(point, math.nan) for point in results.words],
        ),
        ("diarization error rate, dialogues of 2 to 4 unseen voices", [each.error_with_collar for each in found]),
        ("the same without a collar", [each.error for each in found]),
        ("dialogues with the right number of voices", [each.counts_right for each in found]),
    ):
        lines.append(f"| {title} | {' | '.join(f'{100 * figure:.1f} %' for figure in figures)} |")
    lines += ["", f"The collar is {COLLAR_SECONDS} s on both sides of every edge of a turn, which are not scored."]
    return "\n".join(lines) + "\n"


def _points(
    connection: Connection, recogniser: Callable[[Connection, str, str], Triton]
) -> Iterator[tuple[str, Triton]]:
    for point in OPERATING_POINTS:
        try:
            yield point, recogniser(connection, "en", point)
        except ServerContractError:
            continue


def _rates(errors: Mapping[str, Errors], lengths: Mapping[str, Counts]) -> dict[str, dict[str, dict[str, Rate]]]:
    return {
        point: {
            name: {search: rate(each, lengths[name]) for search, each in by_search.items()}
            for name, by_search in by_set.items()
        }
        for point, by_set in errors.items()
    }


def _gains(errors: Mapping[str, Errors], lengths: Mapping[str, Counts]) -> dict[str, Rate]:
    """Resample the same recordings of both points, so that what is hard for both does not widen the interval."""
    if not {"standard", "enhanced"} <= set(errors):
        return {}
    found = {}
    for name, words in lengths.items():
        standard, enhanced = (list(errors[point][name].values())[-1] for point in ("standard", "enhanced"))
        found[name] = rate(standard - enhanced, words)
    return found


def _text(hypothesis: Hypothesis, pieces: Sequence[str]) -> str:
    return "".join(pieces[token] for token in hypothesis.tokens).replace("\u2581", " ").strip()


if __name__ == "__main__":
    main()
