"""python -m benchmarks.precision: word error rates in FP16 and FP32, and the headroom of FP16 activations."""

import json
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import jiwer
from rich.console import Console
from rich.progress import track

from benchmarks import recordings
from benchmarks.graphs import ExportedPoint, OpenGraph, exported_points
from benchmarks.recogniser import GraphRecogniser
from benchmarks.recordings import LabelledRecording, RecordingSet
from build.activations import FP16, FP32, ObservedGraph
from contract import command_line, files
from contract.catalogue import PRECISIONS
from contract.manifest import FP16_MAX, Activation
from transcriber.audio import Recording
from transcriber.pipeline import Plan, choose_search, transcribe
from transcriber.recogniser import Recogniser

RESULTS = Path("dist/benchmarks/precision.json")
SETS = ("grammar", "prose")
# Speaker labels change no word, but need embeddings. ONNX Runtime has its own threads, and an observed graph allows
# one request at a time.
_WORDS, _WORDS_AND_SPEAKERS = Plan(speakers=False, in_flight=1), Plan(speakers=True, in_flight=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class WordComparison:
    """The word error rates of a set at both precisions, and the number of transcripts that differ."""

    operating_point: str
    recordings: str
    what: str
    count: int
    search: str
    fp32: float
    fp16: float
    differing: int

    @property
    def points(self) -> float:
        """Return the difference in percentage points; positive when FP16 is worse."""
        return 100.0 * (self.fp16 - self.fp32)


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationRange:
    """The largest activations of an FP16 graph: of its FP16 tensors, and of its FP32 islands.

    Both are None for a network that did not run for any recording.
    """

    model: str
    fp16: Activation | None
    islands: Activation | None

    def to_dict(self) -> dict[str, Any]:
        """Return all figures for a JSON file."""
        found = {"fp16": self.fp16, "fp32_islands": self.islands}
        return {"model": self.model, **{name: _activation(each) if each else None for name, each in found.items()}}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--onnx", type=click.Path(path_type=Path), default=Path("dist/onnx"), show_default=True, help="Folder of graphs."
)
@click.option(
    "--recordings", "folder", type=click.Path(path_type=Path), default=recordings.FOLDER, show_default=True,
    help="Folder of the sets that `python -m training evaluation` writes.",
)  # fmt: skip
@click.option("--set", "names", multiple=True, default=SETS, show_default=True, help="Set to measure; may be repeated.")
@click.option("--limit", type=click.IntRange(min=1), help="Measure at most this many recordings of each set.")
@command_line.verbose_option()
def command(
    onnx: Path,
    folder: Path,
    names: tuple[str, ...],
    limit: int | None,
) -> None:
    """Transcribe recordings with the FP32 and FP16 graphs of every operating point, and observe FP16 activations."""
    points = exported_points(onnx)
    run(points, [recordings.load(folder, name, limit) for name in names])


def run(points: Sequence[ExportedPoint], sets: Sequence[RecordingSet]) -> None:
    """Measure, print two tables, and write the figures."""
    words, ranges = list[WordComparison](), list[ActivationRange]()
    for point in points:
        if point.is_complete:
            found = measure(point, sets)
            words += found[0]
            ranges += found[1]
    print("\n".join([*missing_graphs(points), "", *words_table(words), "", *range_table(ranges)]))
    files.write(RESULTS, json.dumps(_record(points, words, ranges), indent=2) + "\n")
    print(f"\n{RESULTS}")


def measure(point: ExportedPoint, sets: Sequence[RecordingSet]) -> tuple[list[WordComparison], list[ActivationRange]]:
    """Transcribe every set at both precisions with one operating point, and observe the FP16 graphs."""
    observed = {family: ObservedGraph(point.path(family, "fp16")) for family in point.records}
    exact = GraphRecogniser(point, {family: OpenGraph(point.path(family, "fp32")) for family in point.records})
    rounded = GraphRecogniser(point, observed)
    words = [compare(exact, rounded, each) for each in sets]
    ranges = [
        ActivationRange(model=point.records[family].model, fp16=graph.largest(FP16), islands=graph.largest(FP32))
        for family, graph in observed.items()
    ]
    return words, ranges


def compare(fp32: Recogniser, fp16: Recogniser, chosen: RecordingSet) -> WordComparison:
    """Transcribe a set with two recognisers by the best search that they allow, and compare the transcripts."""
    console, pairs = Console(stderr=True), list[tuple[str, str]]()
    title = f"{fp32.operating_point} {chosen.name}"
    for recording in track(chosen.recordings, title, console=console, disable=not console.is_terminal):
        pairs.append((transcript(fp32, recording, _WORDS), transcript(fp16, recording, _WORDS_AND_SPEAKERS)))
    references = [recording.text for recording in chosen.recordings]
    return WordComparison(
        operating_point=fp32.operating_point,
        recordings=chosen.name,
        what=chosen.description,
        count=len(references),
        search=choose_search(fp32, None),
        fp32=float(jiwer.wer(references, [first for first, _ in pairs])),
        fp16=float(jiwer.wer(references, [second for _, second in pairs])),
        differing=sum(first != second for first, second in pairs),
    )


def transcript(recogniser: Recogniser, recording: LabelledRecording, plan: Plan) -> str:
    """Return the transcript of a recording; raise the first error when part of it was not recognised."""
    outcome = transcribe(Recording(recording.path), recogniser, plan)
    if outcome.errors:
        raise outcome.errors[0]
    return " ".join(word.content for turn in outcome.transcript.turns for word in turn.words)


def missing_graphs(points: Sequence[ExportedPoint]) -> Iterator[str]:
    """Yield a line for every operating point with missing graphs."""
    for point in points:
        if point.missing:
            extent = "measured without" if point.is_complete else "not measured without"
            models, precisions = ", ".join(point.missing), " and ".join(PRECISIONS)
            yield f"{point.operating_point} is {extent} graphs in {precisions} of {models}"


def words_table(words: Sequence[WordComparison]) -> Iterator[str]:
    """Yield the lines of the table of word error rates."""
    yield "Word error rates of the graphs in FP32 and in FP16, and the transcripts that differ"
    yield f"  {'point':<10} {'recordings':<12} {'count':>5} {'search':<8} {'FP32':>8} {'FP16':>8} {'points':>7}  differ"
    for row in words:
        yield (
            f"  {row.operating_point:<10} {row.recordings:<12} {row.count:>5} {row.search:<8} {row.fp32:>8.2%} "
            f"{row.fp16:>8.2%} {row.points:>+7.2f}  {row.differing}"
        )


def range_table(ranges: Sequence[ActivationRange]) -> Iterator[str]:
    """Yield the lines of the table of activations; only FP16 tensors have headroom: masks such as -1e9 are FP32."""
    yield f"Largest activations of the FP16 graphs in these recordings (FP16 ends at {FP16_MAX:.0f})"
    yield f"  {'model':<18} {'in':<13} {'largest':>10} {'headroom':>9}  made by"
    for row in ranges:
        yield f"  {row.model:<18} {'FP16':<13} {_cells(row.fp16, with_headroom=True)}"
        yield f"  {'':<18} {'FP32 islands':<13} {_cells(row.islands, with_headroom=False)}"


def main() -> None:
    """Run the command line."""
    command_line.run(command)


def _activation(activation: Activation) -> dict[str, Any]:
    # JSON has no infinity: null stands for it.
    figures = {"value": activation.value, "headroom": activation.headroom}
    finite = {name: figure if math.isfinite(figure) else None for name, figure in figures.items()}
    return {**asdict(activation), **finite}


def _cells(activation: Activation | None, *, with_headroom: bool) -> str:
    if activation is None:
        return f"{'-':>10} {'-':>9}  (it did not run for any recording)"
    headroom = f"{activation.headroom:.0f} x" if with_headroom else ""
    return f"{activation.value:>10.2f} {headroom:>9}  {activation.node} ({activation.operator})"


def _record(
    points: Sequence[ExportedPoint], words: Sequence[WordComparison], ranges: Sequence[ActivationRange]
) -> dict[str, Any]:
    return {
        "machine": platform.processor() or platform.machine(),
        "onnxruntime": version("onnxruntime"),
        "weights": {record.model: record.weights for point in points for record in point.records.values()},
        "lacking": [model for point in points for model in point.missing],
        "words": [{**asdict(row), "points": row.points} for row in words],
        "fp16_limit": FP16_MAX,
        "activations": [row.to_dict() for row in ranges],
    }


if __name__ == "__main__":
    main()
