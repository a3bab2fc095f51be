"""python -m benchmarks.precision: what FP16 does to transcripts, and how far the networks are from its limit."""

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
from benchmarks.graphs import Exported, OpenGraph, exported
from benchmarks.recogniser import GraphRecogniser
from benchmarks.recordings import RecordingSet, Spoken
from build.activations import FP16, FP32, ObservedGraph
from contract import command_line, files
from contract.catalogue import PRECISIONS
from contract.manifest import FP16_LIMIT, Activation
from transcriber.audio import Recording
from transcriber.pipeline import Plan, chosen_search, transcribe
from transcriber.recogniser import Recogniser

RESULTS = Path("dist/benchmarks/precision.json")
SETS = ("grammar", "prose")
# Speakers change no word, but ask for embeddings. ONNX Runtime has threads of its own, and observing bears one.
_WORDS, _WORDS_AND_VOICES = Plan(speakers=False, in_flight=1), Plan(speakers=True, in_flight=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """How right the words of a set are at both precisions: word error rates, and the transcripts that differ."""

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
        """Give the difference in percentage points; positive where FP16 is worse."""
        return 100.0 * (self.fp16 - self.fp32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The largest activations of an FP16 graph: of its FP16 tensors, and of its islands of FP32.

    Both are None for a network that no recording came to.
    """

    model: str
    fp16: Activation | None
    islands: Activation | None

    def to_dict(self) -> dict[str, Any]:
        """Give all for a file."""
        found = {"fp16": self.fp16, "fp32_islands": self.islands}
        return {"model": self.model, **{name: _activation(each) if each else None for name, each in found.items()}}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--onnx", type=click.Path(path_type=Path), default=Path("dist/onnx"), show_default=True, help="Graphs.")
@click.option(
    "--recordings", "folder", type=click.Path(path_type=Path), default=recordings.FOLDER, show_default=True,
    help="Folder of the sets that `python -m training evaluation` writes.",
)  # fmt: skip
@click.option("--set", "names", multiple=True, default=SETS, show_default=True, help="May be repeated.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many recordings of each set.")
@click.option("--verbose", is_flag=True, help="Add the traceback to a refusal.")
def command(
    onnx: Path,
    folder: Path,
    names: tuple[str, ...],
    limit: int | None,
    *,
    verbose: bool,  # noqa: ARG001 - contract.errors.guard reads it
) -> None:
    """Transcribe recordings with the FP32 and the FP16 graphs of every operating point, and look inside the latter."""
    points = exported(onnx)
    run(points, [recordings.load(folder, name, limit) for name in names])


def run(points: Sequence[Exported], sets: Sequence[RecordingSet]) -> None:
    """Measure, print two tables, and keep the figures."""
    words, ranges = list[Words](), list[Range]()
    for point in points:
        if point.is_whole:
            found = measure(point, sets)
            words += found[0]
            ranges += found[1]
    print("\n".join([*remarks(points), "", *words_table(words), "", *range_table(ranges)]))
    files.write(RESULTS, json.dumps(_record(points, words, ranges), indent=2) + "\n")
    print(f"\n{RESULTS}")


def measure(point: Exported, sets: Sequence[RecordingSet]) -> tuple[list[Words], list[Range]]:
    """Transcribe every set at both precisions with one operating point, observing the FP16 graphs."""
    observed = {family: ObservedGraph(point.path(family, "fp16")) for family in point.records}
    usual = GraphRecogniser(point, {family: OpenGraph(point.path(family, "fp32")) for family in point.records})
    rounded = GraphRecogniser(point, observed)
    words = [compare(usual, rounded, each) for each in sets]
    ranges = [
        Range(model=point.records[family].model, fp16=graph.largest(FP16), islands=graph.largest(FP32))
        for family, graph in observed.items()
    ]
    return words, ranges


def compare(fp32: Recogniser, fp16: Recogniser, chosen: RecordingSet) -> Words:
    """Transcribe a set with two recognisers by the best search that they allow, and compare."""
    console, pairs = Console(stderr=True), list[tuple[str, str]]()
    title = f"{fp32.operating_point} {chosen.name}"
    for spoken in track(chosen.recordings, title, console=console, disable=not console.is_terminal):
        pairs.append((transcript(fp32, spoken, _WORDS), transcript(fp16, spoken, _WORDS_AND_VOICES)))
    said = [spoken.text for spoken in chosen.recordings]
    return Words(
        operating_point=fp32.operating_point,
        recordings=chosen.name,
        what=chosen.what,
        count=len(said),
        search=chosen_search(fp32, None),
        fp32=float(jiwer.wer(said, [first for first, _ in pairs])),
        fp16=float(jiwer.wer(said, [second for _, second in pairs])),
        differing=sum(first != second for first, second in pairs),
    )


def transcript(recogniser: Recogniser, spoken: Spoken, plan: Plan) -> str:
    """Give the words of a recording; raise the first of whatever kept some from being recognised."""
    outcome = transcribe(Recording(spoken.path), recogniser, plan)
    if outcome.errors:
        raise outcome.errors[0]
    return " ".join(word.content for turn in outcome.transcript.turns for word in turn.words)


def remarks(points: Sequence[Exported]) -> Iterator[str]:
    """Say what is not measured, and why."""
    for point in points:
        if point.lacking:
            extent = "measured without" if point.is_whole else "not measured for lack of"
            models, precisions = ", ".join(point.lacking), " and ".join(PRECISIONS)
            yield f"{point.operating_point} is {extent} graphs in {precisions} of {models}"


def words_table(words: Sequence[Words]) -> Iterator[str]:
    """Lay out the word error rates."""
    yield "Word error rates of the graphs in FP32 and in FP16, and the transcripts that differ"
    yield f"  {'point':<10} {'recordings':<12} {'count':>5} {'search':<8} {'FP32':>8} {'FP16':>8} {'points':>7}  differ"
    for row in words:
        yield (
            f"  {row.operating_point:<10} {row.recordings:<12} {row.count:>5} {row.search:<8} {row.fp32:>8.2%} "
            f"{row.fp16:>8.2%} {row.points:>+7.2f}  {row.differing}"
        )


def range_table(ranges: Sequence[Range]) -> Iterator[str]:
    """Lay out the largest activations; headroom is of FP16 tensors alone, since masks such as -1e9 are FP32."""
    yield f"Largest activations of the FP16 graphs in these recordings (FP16 ends at {FP16_LIMIT:.0f})"
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
        return f"{'-':>10} {'-':>9}  nothing: no recording came to it"
    headroom = f"{activation.headroom:.0f} x" if with_headroom else ""
    return f"{activation.value:>10.2f} {headroom:>9}  {activation.node} ({activation.operator})"


def _record(points: Sequence[Exported], words: Sequence[Words], ranges: Sequence[Range]) -> dict[str, Any]:
    return {
        "machine": platform.processor() or platform.machine(),
        "onnxruntime": version("onnxruntime"),
        "weights": {record.model: record.weights for point in points for record in point.records.values()},
        "lacking": [model for point in points for model in point.lacking],
        "words": [{**asdict(row), "points": row.points} for row in words],
        "fp16_limit": FP16_LIMIT,
        "activations": [row.to_dict() for row in ranges],
    }


if __name__ == "__main__":
    main()
