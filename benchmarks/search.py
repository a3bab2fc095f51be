"""python -m benchmarks.search: the compiled search against the one in plain Python, side by side.

Both search the emissions of the demonstration's dialogue, as the exported graphs make them, with the n-gram model of
the weights, and align the best hypothesis. Figures are processor seconds of one thread per hour of audio. Memory is the
largest of a process, above what it had before it read the n-gram model.
"""

import base64
import functools
import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.measuring import Comparison, alternate, memory_mib, show
from benchmarks.recordings import DIALOGUE
from build.reference import run_session, session
from contract import command_line, files, graph
from contract.client import ClientSpec, SearchSpec, TokenSpec
from contract.errors import GraphError
from tests.unit.transcriber import reference_search
from tests.unit.transcriber.reference_search import ReferenceNgram
from transcriber import ctc, ngram
from transcriber.audio import Recording
from transcriber.ctc import BEAM_WIDTH, NEGLIGIBLE_LOG_PROB, VOCABULARY_BEAM_WIDTH, Emissions, Fusion, Hypothesis
from transcriber.segments import split
from transcriber.vocabulary import Vocabulary

RESULTS = Path("dist/benchmarks/search.json")
ROUNDS = 7
PYTHON, COMPILED, BOOSTED = "plain Python", "compiled", "compiled, 1,000 phrases"
_HEAD = "am_en_"
_PHRASES = 1_000

Searcher = Callable[[Emissions], Hypothesis]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Material:
    """What the searches of an operating point work on: the emissions of each segment, and the spec of the weights."""

    operating_point: str
    duration_s: float
    segments: tuple[Emissions, ...]
    tokens: TokenSpec
    search: SearchSpec

    @property
    def model(self) -> tuple[str, int]:
        """Return the n-gram model as text, and its boundary; GraphError where the weights have none."""
        if self.search.ngram is None or self.tokens.boundary is None:
            model = f"{_HEAD}{self.operating_point}"
            raise GraphError(
                model, "its weights have no n-gram model", "Run `python -m export` with the reference weights"
            )
        return self.search.ngram, self.tokens.boundary


def compiled(material: Material, vocabulary: Vocabulary | None = None, width: int = BEAM_WIDTH) -> Searcher:
    """Return the search and alignment of transcriber."""
    weights, spec = material.search, material.tokens
    fusion = Fusion(model=ngram.from_text(*material.model), weight=weights.ngram_weight, bonus=weights.token_bonus)

    def search(emissions: Emissions) -> Hypothesis:
        best = ctc.beam(emissions, spec, width=width, fusion=fusion, vocabulary=vocabulary)[0]
        ctc.align(emissions, best.tokens, spec)
        return best

    return search


def plain(material: Material) -> Searcher:
    """Return the search and alignment in Python, which the tests use as their reference."""
    weights, spec = material.search, material.tokens
    text, boundary = material.model
    model = ReferenceNgram(*ngram.decode_levels(base64.b85decode(text)), boundary)
    fusion = reference_search.Fusion(model=model, weight=weights.ngram_weight, bonus=weights.token_bonus)

    def search(emissions: Emissions) -> Hypothesis:
        found = reference_search.beam(emissions, spec, width=BEAM_WIDTH, negligible=NEGLIGIBLE_LOG_PROB, fusion=fusion)
        reference_search.align(emissions, found[0].tokens, spec)
        return found[0]

    return search


def boosted(material: Material) -> Searcher:
    """Return the compiled search with a vocabulary of random phrases, and the width for a vocabulary."""
    source, spec = random.Random(1), material.tokens  # noqa: S311 - not a secret
    starts = [piece for piece in spec.pieces if piece.startswith("\u2581") and len(piece) > 1]
    others = [piece for token, piece in enumerate(spec.pieces) if token not in spec.dropped and piece not in starts]
    phrases = [source.choice(starts)[1:] + "".join(source.choices(others, k=3)) for _ in range(_PHRASES)]
    return compiled(material, Vocabulary(phrases, spec), VOCABULARY_BEAM_WIDTH)


MAKERS = {PYTHON: plain, COMPILED: compiled, BOOSTED: boosted}


def load(onnx: Path, operating_point: str, recording: Path) -> Material:
    """Run body and acoustic head of an operating point on each segment of a recording."""
    body, head = (onnx / f"{family}{operating_point}" for family in ("body_", _HEAD))
    networks = [session(folder / "fp32.onnx") for folder in (body, head)]
    client: ClientSpec = graph.load(head).client
    if client.tokens is None or client.search is None:
        raise GraphError(head, "its record has no tokens or no weights of the search", "Run `python -m export` again")
    opened = Recording(recording)
    segments = [_emissions(networks, segment.samples) for segment in split(opened.blocks())]
    return Material(
        operating_point=operating_point,
        duration_s=opened.duration_s or 0.0,
        segments=tuple(segments),
        tokens=client.tokens,
        search=client.search,
    )


def _emissions(networks: Sequence[object], samples: ctc.Floats) -> Emissions:
    lengths = np.array([samples.size], dtype=np.int32)
    encoded = run_session(networks[0], {"audio": samples[None].astype(np.float32), "audio_lengths": lengths})
    found = run_session(networks[1], {name: encoded[name] for name in ("encoder_out", "encoder_lengths")})
    length = int(encoded["encoder_lengths"][0])
    return Emissions(log_probs=found["top_log_probs"][0, :length], tokens=found["top_tokens"][0, :length])


def measure(material: Material) -> Iterator[Comparison]:
    """Compare the searches of an operating point: results, processor time and memory."""
    searchers = {name: make(material) for name, make in MAKERS.items()}
    for one in material.segments:
        expected, found = searchers[PYTHON](one), searchers[COMPILED](one)
        if expected.tokens != found.tokens or not np.isclose(expected.score, found.score, atol=1e-5):
            cause = f"the searches differ: {expected.tokens} and {found.tokens}"
            raise GraphError(f"{_HEAD}{material.operating_point}", cause, "Run the tests of transcriber/ctc.py")
    rounds = {name: functools.partial(_per_hour, material, searcher) for name, searcher in searchers.items()}
    for first, second in ((PYTHON, COMPILED), (COMPILED, BOOSTED)):
        yield Comparison.of_pairs(
            alternate(ROUNDS, rounds[first], rounds[second]),
            title=f"{material.operating_point}: search and alignment of an hour of audio",
            unit="processor s",
            first=first,
            second=second,
        )
    yield Comparison.of_pairs(
        [(_memory(material, PYTHON), _memory(material, COMPILED)) for _ in range(3)],
        title=f"{material.operating_point}: n-gram model, search and alignment of the dialogue",
        unit="MiB of memory",
        first=PYTHON,
        second=COMPILED,
    )


def _per_hour(material: Material, searcher: Searcher) -> float:
    started = time.process_time()
    for one in material.segments:
        searcher(one)
    return (time.process_time() - started) * 3_600 / material.duration_s


def _memory(material: Material, name: str) -> float:
    """Return the memory that a search takes in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (material, name))


def _peak(material: Material, name: str) -> float:
    before = _largest_mib()
    _per_hour(material, MAKERS[name](material))
    return _largest_mib() - before


def _largest_mib() -> float:
    # The figure of getrusage would include the process that started this one.
    return memory_mib(os.getpid(), "VmHWM")


@click.command()
@command_line.verbose_option()
@click.option("--onnx", default=Path("dist/onnx"), type=click.Path(path_type=Path), help="The exported graphs.")
@click.option("--recording", default=DIALOGUE, type=click.Path(path_type=Path), help="What is searched.")
def main(onnx: Path, recording: Path) -> None:
    """Measure the search of both operating points, print a table, and write the figures."""
    points = [folder.name.removeprefix(_HEAD) for folder in sorted(onnx.glob(f"{_HEAD}*"), reverse=True)]
    if not points:
        raise GraphError(
            onnx, f"it has no model {_HEAD}*", "Run `python -m export` first, or name its folder with --onnx"
        )
    found = [each for point in points for each in measure(load(onnx, point, recording))]
    for comparison in found:
        show(comparison)
    files.write(RESULTS, json.dumps([each.to_dict() for each in found], indent=2) + "\n")
    click.echo(f"\n{RESULTS}")


if __name__ == "__main__":
    command_line.run(main)
