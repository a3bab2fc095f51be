"""Measure the word errors of a bundle's engines against those of their graphs in FP32, and reject an increase.

Each recogniser of the catalogue that states a `max_wer_increase` is measured, on the recordings of its language.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from build import arrays, reference
from build.arrays import Arrays
from build.compilers import Compiler
from contract import digest, graph, synthetic_inputs
from contract.catalogue import CTC, NEXT_STATE_PREFIX, SAMPLES, STATE_PREFIX, Catalogue, Family, model_name
from contract.client import TokenSpec
from contract.errors import GateError, GraphError
from contract.graph import TRANSCRIPTS, WORDS_FILE
from contract.manifest import Accuracy, EngineRecord
from contract.tokens import collapse, spell, units

Engines: TypeAlias = Mapping[tuple[str, str], EngineRecord]
"""The engines of a bundle by model and mode."""
# The boundary of every network for audio, and what every CTC head makes of it.
_AUDIO, _AUDIO_LENGTHS, _TOP_TOKENS, _FRAMES = "audio", "audio_lengths", "top_tokens", "encoder_lengths"
# The item that a window of a stream belongs to.
_ITEM = "item"
# Above this error rate the graphs do not recognise this speech (random weights, another language), so that a difference
# has no meaning.
_MAX_JUDGED_ERROR_RATE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A network of a recogniser, and its engine."""

    family: Family
    engine: EngineRecord

    @property
    def variant(self) -> str:
        """Return which of the family's graphs the engine was built from."""
        return self.family.modes[self.engine.mode].variant


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedEnsemble:
    """A recogniser at an operating point and in a mode, with its steps in order.

    A CTC network that takes audio is a recogniser of one step.
    """

    family: Family
    operating_point: str
    mode: str
    steps: tuple[Step, ...]

    @property
    def model(self) -> str:
        """Return its name on the server."""
        return model_name(self.family.name, self.operating_point)

    @property
    def head(self) -> EngineRecord:
        """Return the engine of its CTC head."""
        return next(step.engine for step in self.steps if step.family.role == CTC)

    @property
    def tokens(self) -> TokenSpec:
        """Return the tokens of its CTC head; raise GraphError for weights without any."""
        tokens = self.head.client.tokens
        if tokens is None:
            raise GraphError(self.head.model, "its weights state no tokens", "Export and build it again")
        return tokens

    @property
    def unit(self) -> str:
        """Return what its errors are counted in."""
        return "words" if self.tokens.word_separator.isspace() else "characters"

    @property
    def allowed_points(self) -> float:
        """Return the largest allowed increase in percentage points: that of its least precise engine.

        Raises GateError for an engine of a precision without a limit.
        """
        limits = self.family.max_wer_increase
        for step in self.steps:
            precision = step.engine.precision
            if precision not in limits:
                cause = f"{step.engine.model} is {precision}, and max_wer_increase states no limit for {precision}"
                remedy = f"Add {precision} to max_wer_increase of {self.family.name}, or build another precision"
                raise GateError(f"{self.model} {self.mode}", cause, remedy)
        return max(limits[step.engine.precision] for step in self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviousAccuracy:
    """The measurements in the old bundle, and the engines, by model and mode, that are not from that bundle."""

    accuracy: tuple[Accuracy, ...]
    rebuilt: set[tuple[str, str]]

    def find(self, ensemble: GatedEnsemble, onnx: Path) -> Accuracy | None:
        """Return the measurement of a recogniser that is still valid; None where it must be measured.

        Other recordings in `onnx`, the folder of the graphs, need a new measurement; missing ones do not.
        """
        if any((step.engine.model, step.engine.mode) in self.rebuilt for step in ensemble.steps):
            return None
        wanted = (ensemble.model, ensemble.mode, ensemble.allowed_points)
        recordings = _digest(ensemble, onnx)
        return next(
            (
                each
                for each in self.accuracy
                if (each.model, each.mode, each.allowed_points) == wanted and recordings in ("", each.recordings)
            ),
            None,
        )


def measure(
    staging: Path, ensembles: Iterable[GatedEnsemble], onnx: Path, compiler: Compiler, previous: PreviousAccuracy
) -> tuple[Accuracy, ...]:
    """Count the errors of every recogniser of a bundle; `onnx` holds the graphs of its engines.

    A previous measurement is kept where none of a recogniser's engines was built again. Returns nothing for engines
    that this host cannot run. Raises GateError where the increase exceeds the catalogue's limit.
    """
    if not compiler.RUNS_HERE:
        return ()
    return tuple(
        previous.find(ensemble, onnx) or check_increase(ensemble, count(ensemble, staging, onnx, compiler))
        for ensemble in ensembles
    )


def gated_ensembles(catalogue: Catalogue, engines: Engines) -> Iterator[GatedEnsemble]:
    """List the recognisers of a catalogue that state a `max_wer_increase` and have all their engines."""
    for family in catalogue.families.values():
        members = [catalogue.families[step] for step in family.steps or (family.name,)]
        for point in family.operating_points if family.max_wer_increase else ():
            for mode in family.modes:
                places = [(model_name(member.name, point), mode) for member in members]
                if all(place in engines for place in places):
                    pairs = zip(members, places, strict=True)
                    steps = tuple(Step(family=member, engine=engines[place]) for member, place in pairs)
                    yield GatedEnsemble(family=family, operating_point=point, mode=mode, steps=steps)


def count(ensemble: GatedEnsemble, bundle: Path, onnx: Path, compiler: Compiler) -> Accuracy:
    """Count the errors of a recogniser's engines and of its graphs; zero words and a reason where impossible."""
    known = _digest(ensemble, onnx)
    try:
        graphs = [_reference(step, onnx) for step in ensemble.steps]
        path = _words_file(onnx / ensemble.head.model)
    except GraphError as error:
        return _accuracy(ensemble, known, reason=f"not measured: {error.cause}")
    # A damaged file is an error: as a reason, it would leave the limit unchecked.
    inputs, texts = recordings(path)
    tokens = ensemble.tokens
    ours = transcripts(ensemble, [bundle / step.engine.file for step in ensemble.steps], compiler.stream, inputs)
    theirs = transcripts(ensemble, graphs, reference.stream_as_written, inputs)
    words = sum(len(units(text, tokens)) for text in texts)
    wrong, in_fp32 = wrong_units(texts, ours, tokens), wrong_units(texts, theirs, tokens)
    reason = f"{len(texts)} recordings, best path" + (f", in {ensemble.unit}" if ensemble.unit != "words" else "")
    if in_fp32 > _MAX_JUDGED_ERROR_RATE * words:
        reason += f"; not judged: the graphs in FP32 get more than half of the {ensemble.unit} wrong"
    return _accuracy(ensemble, known, words=words, wrong=wrong, in_fp32=in_fp32, reason=reason)


def check_increase(ensemble: GatedEnsemble, found: Accuracy) -> Accuracy:
    """Return the measurement; raise GateError where the engines' increase is larger than allowed."""
    judged = found.wrong_in_fp32 <= _MAX_JUDGED_ERROR_RATE * found.words
    if judged and found.wer_increase > found.allowed_points:
        raise GateError(
            f"{ensemble.model} {ensemble.mode}",
            f"its engines get {found.wrong} of {found.words} {ensemble.unit} wrong and its graphs in FP32 "
            f"{found.wrong_in_fp32}: {found.wer_increase:.2f} points more, allowed {found.allowed_points:g}",
            "Compare the figures of its engines' gates, or set a larger max_wer_increase in the catalogue",
        )
    return found


def _words_file(folder: Path) -> Path:
    path = folder / WORDS_FILE
    if not path.is_file():
        cause = "export had no recordings with texts in its language"
        raise GraphError(path, cause, "Name a folder of recordings with texts and run `python -m export` again")
    return path


def recordings(path: Path) -> tuple[list[Arrays], list[str]]:
    """Load the recordings of a file beside a CTC head and their texts; raise GraphError for a damaged file."""
    found = list(arrays.read(path).values())
    texts = [str(text) for each in found for text in each.get(TRANSCRIPTS, ())]
    return [{name: array for name, array in each.items() if name != TRANSCRIPTS} for each in found], texts


def transcripts(ensemble: GatedEnsemble, files: Sequence[Path], stream: Any, inputs: Sequence[Arrays]) -> list[str]:
    """Run the steps of a recogniser one after the other; return the spelled best path of every item."""
    values, steps = [dict(each) for each in inputs], list(zip(ensemble.steps, files, strict=True))
    is_stream = ensemble.family.modes[ensemble.mode].is_streaming
    if is_stream:
        values = list(_windows(ensemble, files[0], stream, inputs))
        del steps[0]
    for step, file in steps:
        feeds = [{tensor.name: each[tensor.name] for tensor in step.engine.inputs} for each in values]
        for known, found in zip(values, stream(file, feeds), strict=True):
            known.update(found)
    paths = [
        best[:length, 0].tolist()
        for each in values
        for best, length in zip(each[_TOP_TOKENS], each[_FRAMES], strict=True)
    ]
    # The windows of a stream form one item together.
    owners = [each[_ITEM] for each in values] if is_stream else range(len(paths))
    tokens = ensemble.tokens
    return [
        spell(collapse((token for _, path in group for token in path), tokens.dropped), tokens)
        for _, group in groupby(zip(owners, paths, strict=True), key=itemgetter(0))
    ]


def _windows(ensemble: GatedEnsemble, file: Path, stream: Any, inputs: Sequence[Arrays]) -> Iterator[Arrays]:
    """Run the first network of a stream over every item; yield its outputs for each window, with the item."""
    mode = ensemble.family.modes[ensemble.mode]
    given = {tensor.name: tensor for tensor in ensemble.steps[0].engine.inputs}
    size = mode.axes[SAMPLES].max
    items = [
        audio[:length] for each in inputs for audio, length in zip(each[_AUDIO], each[_AUDIO_LENGTHS], strict=True)
    ]
    begins = [(item, first) for item, audio in enumerate(items) for first in mode.window_starts(len(audio))]
    states: Arrays = {}

    def windows() -> Iterator[Arrays]:
        for item, first in begins:
            if not first:
                for state in mode.states:
                    tensor = given[STATE_PREFIX + state.name]
                    states[tensor.name] = np.zeros([1, *tensor.dims[1:]], dtype=synthetic_inputs.DTYPES[tensor.type])
            part = items[item][first : first + size]
            window = np.zeros((1, size), dtype=part.dtype)
            window[0, : len(part)] = part
            yield {_AUDIO: window, _AUDIO_LENGTHS: np.array([len(part)], dtype=np.int32), **states}

    for (item, _), outputs in zip(begins, stream(file, windows()), strict=True):
        states.update({STATE_PREFIX + state.name: outputs.pop(NEXT_STATE_PREFIX + state.name) for state in mode.states})
        yield {**outputs, _ITEM: item}


def wrong_units(texts: Sequence[str], found: Sequence[str], tokens: TokenSpec) -> int:
    """Count substituted, deleted and inserted words, or characters where words are not separated.

    Every text must hold one.
    """
    import jiwer  # noqa: PLC0415 - slow to import, and --help does not need it

    ours, theirs = ([" ".join(units(text, tokens)) for text in each] for each in (found, texts))
    compared = jiwer.process_words(theirs, ours)
    return int(compared.substitutions + compared.deletions + compared.insertions)


def _reference(step: Step, onnx: Path) -> Path:
    """Return the graph in FP32 that an engine was built from; raise GraphError where that file is gone."""
    model = step.engine.model
    found = graph.load(onnx / model).graph(step.variant, "fp32")
    path = onnx / model / (found.file if found else "")
    if not found or found.digest != step.engine.key_parts.get("reference") or found.defect(onnx / model):
        cause = f"the graph that the engine of {model} was built from is no longer there"
        raise GraphError(path, cause, "Build that engine again")
    return path


def _digest(ensemble: GatedEnsemble, onnx: Path) -> str:
    path = onnx / ensemble.head.model / WORDS_FILE
    return digest.of_file(path) if path.is_file() else ""


def _accuracy(
    ensemble: GatedEnsemble, recordings: str, *, reason: str, words: int = 0, wrong: int = 0, in_fp32: int = 0
) -> Accuracy:
    return Accuracy(
        operating_point=ensemble.operating_point,
        mode=ensemble.mode,
        words=words,
        wrong=wrong,
        wrong_in_fp32=in_fp32,
        allowed_points=ensemble.allowed_points,
        model=ensemble.model,
        reason=reason,
        recordings=recordings,
    )
