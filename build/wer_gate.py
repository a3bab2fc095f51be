"""Measure the word errors of a bundle's engines against those of their graphs in FP32, and reject an increase."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from build import reference
from build.compilers import Compiler
from contract import digest, graph, synthetic_inputs
from contract.catalogue import NEXT_STATE_PREFIX, STATE_PREFIX, Family, catalogue, model_name
from contract.errors import GateError, GraphError
from contract.graph import TRANSCRIPTS, WORDS_FILE
from contract.manifest import Accuracy, EngineRecord
from contract.tokens import collapse, spell

Arrays: TypeAlias = dict[str, Any]
Engines: TypeAlias = Mapping[tuple[str, str], EngineRecord]
"""The engines of a bundle by model and mode."""
# The item that a window of a stream belongs to.
_ITEM = "item"
# Above this error rate the graphs do not recognise this speech (random weights, another language), so that a difference
# has no meaning.
_MAX_JUDGED_ERROR_RATE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedEnsemble:
    """A recognising ensemble at an operating point and in a mode, with the engines of its steps in order."""

    family: Family
    operating_point: str
    mode: str
    steps: tuple[EngineRecord, ...]

    @property
    def model(self) -> str:
        """Return its name on the server: `ensemble_en_standard`."""
        return model_name(self.family.name, self.operating_point)

    @property
    def allowed_points(self) -> float:
        """Return the largest allowed increase in percentage points: that of its least precise engine."""
        return max(self.family.max_wer_increase[step.precision] for step in self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviousAccuracy:
    """The measurements in the old bundle, and the engines, by model and mode, that are not from that bundle."""

    accuracy: tuple[Accuracy, ...]
    rebuilt: set[tuple[str, str]]

    def find(self, ensemble: GatedEnsemble) -> Accuracy | None:
        """Return the measurement of an ensemble that is still valid; None where it must be measured."""
        if any((step.model, step.mode) in self.rebuilt for step in ensemble.steps):
            return None
        wanted = (ensemble.model, ensemble.mode, ensemble.allowed_points)
        return next((each for each in self.accuracy if (each.model, each.mode, each.allowed_points) == wanted), None)


def measure(
    staging: Path, engines: Engines, onnx: Path, compiler: Compiler, previous: PreviousAccuracy
) -> tuple[Accuracy, ...]:
    """Count the word errors of every ensemble whose engines are all in a bundle; `onnx` holds their graphs.

    A previous measurement is kept where none of the ensemble's engines was built again. Returns nothing for engines
    that this host cannot run. Raises GateError where the increase exceeds the catalogue's limit.
    """
    if not compiler.RUNS_HERE:
        return ()
    return tuple(
        previous.find(ensemble) or check_increase(ensemble, count(ensemble, staging, onnx, compiler))
        for ensemble in gated_ensembles(engines)
    )


def gated_ensembles(engines: Engines) -> Iterator[GatedEnsemble]:
    """List the ensembles that state a `max_wer_increase` and have all their engines."""
    for family in catalogue().values():
        for point in family.operating_points if family.max_wer_increase else ():
            for mode in family.modes:
                places = [(model_name(step, point), mode) for step in family.steps]
                if all(place in engines for place in places):
                    steps = tuple(engines[place] for place in places)
                    yield GatedEnsemble(family=family, operating_point=point, mode=mode, steps=steps)


def count(ensemble: GatedEnsemble, bundle: Path, onnx: Path, compiler: Compiler) -> Accuracy:
    """Count the word errors of an ensemble's engines and of its graphs; zero words and a reason where impossible."""
    try:
        graphs = [_reference(step, onnx) for step in ensemble.steps]
        inputs, texts = recordings(onnx / ensemble.steps[0].model)
    except GraphError as error:
        return _accuracy(ensemble, reason=f"not measured: {error.cause}")
    ours = transcripts(ensemble, [bundle / step.file for step in ensemble.steps], compiler.stream, inputs)
    theirs = transcripts(ensemble, graphs, reference.stream_as_written, inputs)
    words = sum(len(text.split()) for text in texts)
    wrong, in_fp32 = wrong_words(texts, ours), wrong_words(texts, theirs)
    reason = f"{len(texts)} recordings, best path"
    if in_fp32 > _MAX_JUDGED_ERROR_RATE * words:
        reason += "; not judged: the graphs in FP32 get more than half of the words wrong"
    return _accuracy(ensemble, words=words, wrong=wrong, in_fp32=in_fp32, reason=reason)


def check_increase(ensemble: GatedEnsemble, found: Accuracy) -> Accuracy:
    """Return the measurement; raise GateError where the engines' increase is larger than allowed."""
    judged = found.wrong_in_fp32 <= _MAX_JUDGED_ERROR_RATE * found.words
    if judged and found.wer_increase > found.allowed_points:
        raise GateError(
            f"{ensemble.model} {ensemble.mode}",
            f"its engines get {found.wrong} of {found.words} words wrong and its graphs in FP32 {found.wrong_in_fp32}: "
            f"{found.wer_increase:.2f} points more, allowed {found.allowed_points:g}",
            "Compare the figures of its engines' gates, or set a larger max_wer_increase in the catalogue",
        )
    return found


def recordings(folder: Path) -> tuple[list[Arrays], list[str]]:
    """Load real inputs and the words spoken in them; raise GraphError where export left no words."""
    path = folder / WORDS_FILE
    if not path.is_file():
        cause = "export had no words for its real inputs"
        raise GraphError(path, cause, "Add the words of the speech and run `python -m export` again")
    with np.load(path) as arrays:
        names = sorted({key.rpartition(".")[0] for key in arrays.files} - {TRANSCRIPTS})
        numbers = sorted(int(key.rpartition(".")[2]) for key in arrays.files if key.startswith(f"{TRANSCRIPTS}."))
        inputs = [{name: arrays[f"{name}.{number}"] for name in names} for number in numbers]
        return inputs, [str(text) for number in numbers for text in arrays[f"{TRANSCRIPTS}.{number}"]]


def transcripts(ensemble: GatedEnsemble, files: Sequence[Path], stream: Any, inputs: Sequence[Arrays]) -> list[str]:
    """Run the steps of an ensemble one after the other; return the spelled best path of every item."""
    values, steps = [dict(each) for each in inputs], list(zip(ensemble.steps, files, strict=True))
    is_stream = ensemble.family.modes[ensemble.mode].is_streaming
    if is_stream:
        values = list(_windows(ensemble, files[0], stream, inputs))
        del steps[0]
    for step, file in steps:
        feeds = [{tensor.name: each[tensor.name] for tensor in step.inputs} for each in values]
        for known, found in zip(values, stream(file, feeds), strict=True):
            known.update(found)
    paths = [
        tokens[:length, 0].tolist()
        for each in values
        for tokens, length in zip(each["top_tokens"], each["encoder_lengths"], strict=True)
    ]
    # The windows of a stream form one item together.
    owners = [each[_ITEM] for each in values] if is_stream else range(len(paths))
    pieces = json.loads(ensemble.steps[-1].parameters["tokens"])
    return [
        spell(collapse(token for _, path in group for token in path), pieces)
        for _, group in groupby(zip(owners, paths, strict=True), key=itemgetter(0))
    ]


def _windows(ensemble: GatedEnsemble, file: Path, stream: Any, inputs: Sequence[Arrays]) -> Iterator[Arrays]:
    """Run the first network of a stream over every item; yield its outputs for each window, with the item."""
    mode = ensemble.family.modes[ensemble.mode]
    given = {tensor.name: tensor for tensor in ensemble.steps[0].inputs}
    size = mode.axes["frames"].max
    items = [
        features[:length]
        for each in inputs
        for features, length in zip(each["features"], each["feature_lengths"], strict=True)
    ]
    begins = [(item, first) for item, features in enumerate(items) for first in mode.window_starts(len(features))]
    states: Arrays = {}

    def windows() -> Iterator[Arrays]:
        for item, first in begins:
            if not first:
                for state in mode.states:
                    tensor = given[STATE_PREFIX + state.name]
                    states[tensor.name] = np.zeros([1, *tensor.dims[1:]], dtype=synthetic_inputs.DTYPES[tensor.type])
            part = items[item][first : first + size]
            window = np.zeros((1, size, part.shape[1]), dtype=part.dtype)
            window[0, : len(part)] = part
            yield {"features": window, "feature_lengths": np.array([len(part)], dtype=np.int32), **states}

    for (item, _), outputs in zip(begins, stream(file, windows()), strict=True):
        states.update({STATE_PREFIX + state.name: outputs.pop(NEXT_STATE_PREFIX + state.name) for state in mode.states})
        yield {**outputs, _ITEM: item}


def wrong_words(texts: Sequence[str], found: Sequence[str]) -> int:
    """Count substituted, deleted and inserted words; every text must hold a word."""
    import jiwer  # noqa: PLC0415 - slow to import, and --help does not need it

    compared = jiwer.process_words(list(texts), list(found))
    return int(compared.substitutions + compared.deletions + compared.insertions)


def _reference(step: EngineRecord, onnx: Path) -> Path:
    """Return the graph in FP32 that an engine was built from; raise GraphError where that file is gone."""
    record = graph.load(onnx / step.model)
    found = record.graph(catalogue()[step.family].modes[step.mode].variant, "fp32")
    path = onnx / step.model / (found.file if found else "")
    if not path.is_file() or digest.of_file(path) != step.key_parts.get("reference"):
        cause = f"the graph that the engine of {step.model} was built from is no longer there"
        raise GraphError(path, cause, "Build that engine again")
    return path


def _accuracy(ensemble: GatedEnsemble, *, reason: str, words: int = 0, wrong: int = 0, in_fp32: int = 0) -> Accuracy:
    return Accuracy(
        operating_point=ensemble.operating_point,
        mode=ensemble.mode,
        words=words,
        wrong=wrong,
        wrong_in_fp32=in_fp32,
        allowed_points=ensemble.allowed_points,
        model=ensemble.model,
        reason=reason,
    )
