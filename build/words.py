"""How many words the engines of a bundle get wrong together, against their graphs in FP32."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from build.compilers import Compiler
from build.compilers import onnxruntime as reference
from contract import digest, graph, synthetic_inputs
from contract.catalogue import NEXT_STATE, STATE, Family, catalogue, model_name
from contract.errors import GateError, GraphError
from contract.graph import TEXTS, WORDS_FILE
from contract.manifest import Accuracy, EngineRecord

Arrays: TypeAlias = dict[str, Any]
Engines: TypeAlias = Mapping[tuple[str, str], EngineRecord]
"""The engines of a bundle by model and mode."""
BLANK = 0
# Unknown and boundary: no transcript shows them.
_UNSPOKEN = (BLANK, 1, 2)
# Which item a window of a stream is of.
_ITEM = "item"
_WORD_MARK = "▁"
# Beyond it the graphs do not know this speech (random weights, another language), and a difference says nothing.
_UNDERSTOOD = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """An ensemble that hears words, at an operating point and in a mode, with the engines of its steps in order."""

    family: Family
    operating_point: str
    mode: str
    steps: tuple[EngineRecord, ...]

    @property
    def model(self) -> str:
        """Name it as the server knows it: `ensemble_en_standard`."""
        return model_name(self.family.name, self.operating_point)

    @property
    def allowed_points(self) -> float:
        """Give the limit of its least exact engine."""
        return max(self.family.max_wer_increase[step.precision] for step in self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """What the old bundle knew, and the engines, by model and mode, that are not from it."""

    accuracy: tuple[Accuracy, ...]
    anew: set[tuple[str, str]]

    def known(self, heard: Heard) -> Accuracy | None:
        """Find what still holds of an ensemble."""
        if any((step.model, step.mode) in self.anew for step in heard.steps):
            return None
        wanted = (heard.model, heard.mode, heard.allowed_points)
        return next((each for each in self.accuracy if (each.model, each.mode, each.allowed_points) == wanted), None)


def measure(staging: Path, engines: Engines, onnx: Path, compiler: Compiler, before: Before) -> tuple[Accuracy, ...]:
    """Count the wrong words of every ensemble whose engines are all in a bundle; `onnx` holds their graphs.

    What was known of an ensemble before is kept where none of its engines was made anew. Raises GateError where engines
    lose more than the catalogue allows. Gives nothing for engines that cannot run here.
    """
    if not compiler.RUNS_HERE:
        return ()
    return tuple(
        before.known(heard) or refuse_loss(heard, count(heard, staging, onnx, compiler)) for heard in ensembles(engines)
    )


def ensembles(engines: Engines) -> Iterator[Heard]:
    """List what hears words and has all its engines."""
    for family in catalogue().values():
        for point in family.operating_points if family.max_wer_increase else ():
            for mode in family.modes:
                places = [(model_name(step, point), mode) for step in family.steps]
                if all(place in engines for place in places):
                    steps = tuple(engines[place] for place in places)
                    yield Heard(family=family, operating_point=point, mode=mode, steps=steps)


def count(heard: Heard, bundle: Path, onnx: Path, compiler: Compiler) -> Accuracy:
    """Count wrong words of an ensemble's engines and of its graphs; zero words and the reason where that cannot be."""
    try:
        graphs = [_reference(step, onnx) for step in heard.steps]
        inputs, texts = recordings(onnx / heard.steps[0].model)
    except GraphError as error:
        return _accuracy(heard, reason=f"not measured: {error.cause}")
    ours = transcripts(heard, [bundle / step.file for step in heard.steps], compiler.stream, inputs)
    theirs = transcripts(heard, graphs, reference.stream_as_written, inputs)
    words = sum(len(text.split()) for text in texts)
    wrong, in_fp32 = wrong_words(texts, ours), wrong_words(texts, theirs)
    reason = f"{len(texts)} recordings, best path"
    if in_fp32 > _UNDERSTOOD * words:
        reason += "; not judged: the graphs in FP32 do not understand them"
    return _accuracy(heard, words=words, wrong=wrong, in_fp32=in_fp32, reason=reason)


def refuse_loss(heard: Heard, found: Accuracy) -> Accuracy:
    """Give what was counted; raise GateError where the engines lose more than is allowed."""
    judged = found.wrong_in_fp32 <= _UNDERSTOOD * found.words
    if judged and found.points > found.allowed_points:
        raise GateError(
            f"{heard.model} {heard.mode}",
            f"its engines get {found.wrong} of {found.words} words wrong and its graphs in FP32 {found.wrong_in_fp32}: "
            f"{found.points:.2f} points more, allowed {found.allowed_points:g}",
            "Look at the figures of its engines' gates, or state more max_wer_increase in the catalogue",
        )
    return found


def recordings(folder: Path) -> tuple[list[Arrays], list[str]]:
    """Load real inputs and what is said in them; raise GraphError where export did not know."""
    path = folder / WORDS_FILE
    if not path.is_file():
        cause = "export did not know what is said in its real inputs"
        raise GraphError(path, cause, "Name the words of the speech and run `python -m export` again")
    with np.load(path) as arrays:
        names = sorted({key.rpartition(".")[0] for key in arrays.files} - {TEXTS})
        numbers = sorted(int(key.rpartition(".")[2]) for key in arrays.files if key.startswith(f"{TEXTS}."))
        inputs = [{name: arrays[f"{name}.{number}"] for name in names} for number in numbers]
        return inputs, [str(text) for number in numbers for text in arrays[f"{TEXTS}.{number}"]]


def transcripts(heard: Heard, files: Sequence[Path], stream: Any, inputs: Sequence[Arrays]) -> list[str]:
    """Run the steps of an ensemble one after the other and spell the best path of every item."""
    values, steps = [dict(each) for each in inputs], list(zip(heard.steps, files, strict=True))
    is_stream = heard.family.modes[heard.mode].is_streaming
    if is_stream:
        values = list(_windows(heard, files[0], stream, inputs))
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
    # The windows of a stream are one item together.
    owners = [each[_ITEM] for each in values] if is_stream else range(len(paths))
    pieces = json.loads(heard.steps[-1].parameters["tokens"])
    return [
        spell([token for _, path in group for token in path], pieces)
        for _, group in groupby(zip(owners, paths, strict=True), key=itemgetter(0))
    ]


def _windows(heard: Heard, file: Path, stream: Any, inputs: Sequence[Arrays]) -> Iterator[Arrays]:
    """Run the network of a stream over every item, one after the other: its outputs for each window, with the item."""
    mode = heard.family.modes[heard.mode]
    given = {tensor.name: tensor for tensor in heard.steps[0].inputs}
    size = mode.axes["frames"].max
    items = [
        features[:length]
        for each in inputs
        for features, length in zip(each["features"], each["feature_lengths"], strict=True)
    ]
    begins = [(item, first) for item, features in enumerate(items) for first in mode.windows(len(features))]
    states: Arrays = {}

    def windows() -> Iterator[Arrays]:
        for item, first in begins:
            if not first:
                for state in mode.states:
                    tensor = given[STATE + state.name]
                    states[tensor.name] = np.zeros([1, *tensor.dims[1:]], dtype=synthetic_inputs.DTYPES[tensor.type])
            part = items[item][first : first + size]
            window = np.zeros((1, size, part.shape[1]), dtype=part.dtype)
            window[0, : len(part)] = part
            yield {"features": window, "feature_lengths": np.array([len(part)], dtype=np.int32), **states}

    for (item, _), outputs in zip(begins, stream(file, windows()), strict=True):
        states.update({STATE + state.name: outputs.pop(NEXT_STATE + state.name) for state in mode.states})
        yield {**outputs, _ITEM: item}


def spell(path: Sequence[int], pieces: Sequence[str]) -> str:
    """Make words of the best token of every frame: neighbours merged, blanks dropped (CTC)."""
    tokens = [token for token, _ in groupby(path) if token not in _UNSPOKEN]
    return "".join(pieces[token] for token in tokens).replace(_WORD_MARK, " ").strip()


def wrong_words(texts: Sequence[str], found: Sequence[str]) -> int:
    """Count the words substituted, deleted and inserted; every text holds a word."""
    import jiwer  # noqa: PLC0415 - it takes a moment to import, and --help needs none of it

    compared = jiwer.process_words(list(texts), list(found))
    return int(compared.substitutions + compared.deletions + compared.insertions)


def _reference(step: EngineRecord, onnx: Path) -> Path:
    """Find the graph in FP32 that an engine was made of; raise GraphError where it is not there any more."""
    record = graph.load(onnx / step.model)
    found = record.graph(catalogue()[step.family].modes[step.mode].variant, "fp32")
    path = onnx / step.model / (found.file if found else "")
    if not path.is_file() or digest.of_file(path) != step.key_parts.get("reference"):
        cause = f"the graph that the engine of {step.model} was made of is not there"
        raise GraphError(path, cause, "Build that engine again")
    return path


def _accuracy(heard: Heard, *, reason: str, words: int = 0, wrong: int = 0, in_fp32: int = 0) -> Accuracy:
    return Accuracy(
        operating_point=heard.operating_point,
        mode=heard.mode,
        words=words,
        wrong=wrong,
        wrong_in_fp32=in_fp32,
        allowed_points=heard.allowed_points,
        model=heard.model,
        reason=reason,
    )
