"""The measurement of accuracy: word errors by search, streams against recordings, diarization and equal error rates.

Every figure comes through the real server and the transcriber's own segmentation, searches and clustering.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import simpleder
import soundfile
from numpy.typing import NDArray
from rich.progress import track
from scipy import signal

from benchmarks.accuracy.reliability import Judged, judge, reliability
from benchmarks.accuracy.results import DiarizationScore, Rate, Results, StreamRates
from benchmarks.recordings import Dialogue, LabelledRecording, RecordingSet, for_each
from benchmarks.server import served
from benchmarks.streams import WindowedRecogniser
from contract.access import from_environment
from contract.catalogue import LM, RESCORER, Catalogue, read_catalogue
from contract.errors import AudioError, ServerContractError
from contract.tokens import spell
from demo.scores import mean_direction, pair_error_rate, word_errors
from training import augment
from transcriber import confidence, ctc, pipeline, realtime, rescoring
from transcriber.audio import Recording, Samples
from transcriber.connection import Connection
from transcriber.ctc import Hypothesis
from transcriber.recogniser import EncoderOutput, Recogniser, StreamRecogniser
from transcriber.segments import split
from transcriber.speakers import window_bounds
from transcriber.transcript import Transcript
from transcriber.triton_recogniser import TritonRecogniser, TritonStreams

REPOSITORY = "dist/accuracy/repository"
# What reports call the models that score hypotheses, and the sets of them that are used, from the least to the most
# accurate.
RESCORER_NAMES = {RESCORER: "decoder", LM: "lm"}
RESCORERS = ((RESCORER,), (RESCORER, LM))
PLAN = pipeline.Plan()
RESAMPLES, SHARE_WITHIN = 1_000, 0.95
EQUAL_ERROR_SECONDS = 3.0
# What is before it may be silence.
FIRST_SECOND = 0.3
COLLAR_SECONDS = 0.25
# The set for equal error rates, and the set that is measured in real time as well.
VOICES_SET, STREAMED_SET = "voices", "grammar"
# How dialogues are transcribed.
RECORDINGS, STREAMS, TELEPHONE = "recordings", "streams", "telephone"
# What the reliability of confidences is measured on besides the sets.
ALL, AS_STREAMS = "all recordings", f"{STREAMED_SET} as streams"
TELEPHONE_FOLDER, TELEPHONE_RATE_HZ = Path("dist/accuracy/telephone"), 8_000

SpokenTurn: TypeAlias = tuple[str, float, float]
Counts: TypeAlias = NDArray[np.int64]
Errors: TypeAlias = Mapping[str, Mapping[str, Counts]]
"""The word errors of every recording, by set and search."""
Triton = TypeVar("Triton", bound=TritonRecogniser)


def measure(chosen: Sequence[RecordingSet], dialogues: Sequence[Dialogue]) -> Results:
    """Measure every operating point of the bundle, in batch mode and in real-time mode."""
    by_name = {one.name: one for one in chosen}
    voices, streamed = by_name.get(VOICES_SET), by_name.get(STREAMED_SET)
    lengths = {one.name: np.array([len(each.text.split()) for each in one.recordings]) for one in chosen}
    with served(REPOSITORY) as endpoint:
        points = dict(operating_points(Connection(endpoint, access=from_environment()), TritonRecogniser))
        errors = {point: {one.name: count_word_errors(each, one) for one in chosen} for point, each in points.items()}
        judged = {point: judge_sets(each, chosen) for point, each in points.items()}
        calibrations = {point: confidence.calibration(each, None, ngram=True) for point, each in points.items()}
        equal_errors = {point: speaker_eer(each, voices.recordings) for point, each in points.items() if voices}
        diarization = {
            point: {
                RECORDINGS: score_diarization(f"{point} dialogues", dialogues, of_recording(each)),
                TELEPHONE: score_diarization(f"{point} telephone", on_telephone(dialogues), of_recording(each)),
            }
            for point, each in points.items()
        }
    streams = {}
    with served(REPOSITORY, SM_BATCH_MODE="false") as endpoint:
        for point, each in operating_points(
            Connection(endpoint, access=from_environment(), one_server=True), TritonStreams
        ):
            diarization[point][STREAMS] = score_diarization(f"{point} streams", dialogues, of_stream(each))
            if streamed:
                counts = count_word_errors(WindowedRecogniser(each), streamed)
                streams[point] = compare_streams(counts, errors[point][STREAMED_SET], lengths[STREAMED_SET])
                transcribe = of_stream(each, pipeline.Plan(speakers=False))
                judged[point][AS_STREAMS] = judge(f"{point} {AS_STREAMS}", transcribe, streamed)
    return Results(
        sets={one.name: one.description for one in chosen},
        words=_rates(errors, lengths),
        gains=_gains(errors, lengths),
        streams=streams,
        equal_errors=equal_errors,
        diarization=diarization,
        reliability={
            point: {name: reliability(each, calibrations[point]) for name, each in by_set.items() if len(each)}
            for point, by_set in judged.items()
        },
        recordings=sum(len(one.recordings) for one in chosen),
        hours=sum(each.seconds for one in chosen for each in one.recordings) / 3600,
    )


def judge_sets(recogniser: Recogniser, chosen: Sequence[RecordingSet]) -> dict[str, Judged]:
    """Return by set the words of the default search with their confidences, and all of them together."""
    transcribe = of_recording(recogniser, pipeline.Plan(speakers=False))
    title = f"{recogniser.operating_point} confidences"
    found = {one.name: judge(f"{title} {one.name}", transcribe, one) for one in chosen}
    return {**found, ALL: np.concatenate(list(found.values()))}


def count_word_errors(recogniser: Recogniser, chosen: RecordingSet) -> dict[str, Counts]:
    """Return by search the word errors of each recording: substituted, deleted and inserted words."""
    title = f"{recogniser.operating_point} {chosen.name}"
    texts = for_each(title, chosen, lambda path: transcribe_with_every_search(recogniser, path))
    return {
        search: np.array(
            [word_errors(one.text, each[search]) for one, each in zip(chosen.recordings, texts, strict=True)]
        )
        for search in texts[0]
    }


def transcribe_with_every_search(recogniser: Recogniser, path: Path) -> dict[str, str]:
    """Return the transcripts of a recording by every search that the server's models allow."""
    texts: dict[str, list[str]] = {}
    for segment in split(Recording(path).blocks()):
        encoded = recogniser.recognise(pipeline.pad_to_minimum(segment.samples, recogniser.audio))
        for search, best in run_searches(recogniser, encoded):
            texts.setdefault(search, []).append(spell(best.tokens, recogniser.tokens))
    return {search: " ".join(parts) for search, parts in texts.items()}


def run_searches(recogniser: Recogniser, encoded: EncoderOutput) -> Iterator[tuple[str, Hypothesis]]:
    """Yield the name and the best hypothesis of every search, from the least to the most accurate.

    Rescorers score the hypotheses of the search with the n-gram model, where the weights include one.
    """
    yield "greedy", ctc.greedy(encoded.emissions, recogniser.tokens)
    name, candidates = "beam", rescoring.search(recogniser, encoded.emissions, ngram=False)
    yield name, candidates[0]
    if recogniser.ngram is not None:
        name, candidates = f"{name} + n-gram", rescoring.search(recogniser, encoded.emissions)
        yield name, candidates[0]
    for roles in RESCORERS:
        if set(roles) <= set(recogniser.rescorers):
            title = " + ".join((name, *(RESCORER_NAMES[role] for role in roles)))
            yield title, rescoring.rescore(recogniser, encoded, candidates, roles)[0]


def rate(errors: Counts, words: Counts) -> Rate:
    """Return the word error rate with its bootstrap interval over recordings (Bisani and Ney, ICASSP 2004)."""
    chosen = np.random.default_rng(0).integers(len(words), size=(RESAMPLES, len(words)))
    resampled = errors[chosen].sum(axis=1) / words[chosen].sum(axis=1)
    lower, upper = np.quantile(resampled, [(1 - SHARE_WITHIN) / 2, (1 + SHARE_WITHIN) / 2])
    return Rate(rate=float(errors.sum() / words.sum()), lower=float(lower), upper=float(upper))


def compare_streams(
    streamed: Mapping[str, Counts], recorded: Mapping[str, Counts], words: Counts
) -> dict[str, StreamRates]:
    """Return by search the rates of streams and recordings; difficulty that both share does not widen the interval."""
    return {
        search: StreamRates(
            streams=rate(errors, words),
            recordings=rate(recorded[search], words),
            cost=rate(errors - recorded[search], words),
        )
        for search, errors in streamed.items()
    }


def on_telephone(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """Write the dialogues as a telephone line would carry them, 300 to 3400 Hz as 8 kHz mu-law, and return them."""
    found = []
    for dialogue in dialogues:
        samples, rate_hz = soundfile.read(dialogue.path, dtype="float32")
        narrow = signal.resample_poly(augment.telephone(samples), TELEPHONE_RATE_HZ, rate_hz)
        path = TELEPHONE_FOLDER / f"{dialogue.path.stem}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, narrow, TELEPHONE_RATE_HZ, subtype="ULAW")
        found.append(replace(dialogue, path=path))
    return found


def score_diarization(
    title: str, dialogues: Sequence[Dialogue], transcribe: Callable[[Path], Transcript]
) -> DiarizationScore:
    """Transcribe all dialogues and return the errors of their speaker labels; each counts by its length."""
    errors = {0.0: 0.0, COLLAR_SECONDS: 0.0}
    totals = dict.fromkeys(errors, 0.0)
    right = 0
    for dialogue in track(dialogues, title):
        transcript = transcribe(dialogue.path)
        found = [(str(turn.speaker), turn.start_s, turn.end_s) for turn in transcript.turns]
        reference = [(turn.speaker, turn.start, turn.end) for turn in dialogue.turns]
        edges = [edge for _, start, end in reference for edge in (start, end)]
        for collar in errors:
            scored = cut_edges(reference, edges, collar)
            seconds = sum(end - start for _, start, end in scored)
            if scored:
                errors[collar] += float(simpleder.DER(scored, cut_edges(found, edges, collar))) * seconds
                totals[collar] += seconds
        right += len({speaker for speaker, _, _ in found}) == len({speaker for speaker, _, _ in reference})
    return DiarizationScore(
        error=errors[0.0] / totals[0.0],
        error_with_collar=errors[COLLAR_SECONDS] / totals[COLLAR_SECONDS] if totals[COLLAR_SECONDS] else math.nan,
        counts_right=right / len(dialogues),
    )


def cut_edges(turns: Sequence[SpokenTurn], edges: Sequence[float], collar: float) -> list[SpokenTurn]:
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


def speaker_eer(recogniser: Recogniser, recordings: Sequence[LabelledRecording]) -> float:
    """Return the equal error rate of the speaker network over all pairs of recordings, of the means of their windows.

    It is nan when no voice has two recordings, or when there is a single voice.
    """
    spec = recogniser.speaker
    if spec is None:
        return math.nan
    rate_hz = spec.sample_rate_hz
    first, length = round(FIRST_SECOND * rate_hz), round(EQUAL_ERROR_SECONDS * rate_hz)
    crops: list[Samples] = []
    speakers: list[str] = []
    for one in recordings:
        recording = Recording(one.path, sample_rate_hz=rate_hz)
        samples = np.concatenate(list(recording.blocks()))[first : first + length]
        if len(samples) == length:
            crops.append(samples)
            speakers.append(one.speaker)
    windows = (recogniser.embed(each, window_bounds(len(each), spec)) for each in crops)
    return pair_error_rate(np.stack([mean_direction(each) for each in windows]), speakers)


def of_recording(recogniser: Recogniser, plan: pipeline.Plan = PLAN) -> Callable[[Path], Transcript]:
    """Return a function that transcribes a file as a recording."""
    rate_hz = recogniser.audio.sample_rate_hz

    def transcribe(path: Path) -> Transcript:
        recording = Recording(path, sample_rate_hz=rate_hz)
        return pipeline.transcribe(recording, recogniser, plan).transcript

    return transcribe


def of_stream(recogniser: StreamRecogniser, plan: pipeline.Plan = PLAN) -> Callable[[Path], Transcript]:
    """Return a function that transcribes a file as a stream."""

    def transcribe(path: Path) -> Transcript:
        found = realtime.transcribe(realtime.Source(path), recogniser, plan, lambda _: None)
        if found is None:
            raise AudioError(path, "its stream was stopped", "Run the benchmark again")
        return found.transcript

    return transcribe


def operating_points(
    connection: Connection, recogniser: Callable[[Connection, Catalogue, str, str], Triton]
) -> Iterator[tuple[str, Triton]]:
    """Yield the operating points that a server has, with their recognisers."""
    catalogue = read_catalogue()
    for point in catalogue.operating_points:
        try:
            yield point, recogniser(connection, catalogue, "en", point)
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
    """Return the gains by set; both points have the same recordings, so shared difficulty widens no interval."""
    if not {"standard", "enhanced"} <= set(errors):
        return {}
    found = {}
    for name, words in lengths.items():
        standard, enhanced = (list(errors[point][name].values())[-1] for point in ("standard", "enhanced"))
        found[name] = rate(standard - enhanced, words)
    return found
