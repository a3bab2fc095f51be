"""Word errors of a bundle's engines against those of its graphs in FP32."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from build import wer_gate
from build.bundle import make
from build.compilers import Compiled, onnxruntime
from build.job import Job
from build.options import Options
from build.wer_gate import GatedEnsemble
from contract import digest, manifest
from contract.catalogue import read_catalogue
from contract.errors import GateError, GraphError
from contract.graph import WORDS_FILE
from contract.manifest import Accuracy, BundleManifest
from contract.tokens import collapse, spell
from tests.unit.engines.exported import TOKENS, cpu_target, export, jobs, speak

TEXTS = ("one two three", "four four one two", "three two one")


@pytest.fixture
def graphs(tmp_path: Path) -> Path:
    for model in ("am_en_standard", "body_standard"):
        export(tmp_path / "onnx", model)
    return tmp_path / "onnx"


def _make(graphs: Path, *names: str, force: bool = False) -> BundleManifest:
    return make(cpu_target(graphs.parent, force=force), jobs(graphs, *names), lambda *_: None)


def _accuracy(graphs: Path, wrong: int = 0, in_fp32: int = 0, **other: object) -> Accuracy:
    words = graphs / "am_en_standard" / WORDS_FILE
    found = {"words": 10, "allowed_points": 0.5, "reason": "3 recordings, best path", **other}
    return Accuracy(
        operating_point="standard",
        mode="batch",
        model="ensemble_en_standard",
        wrong=wrong,
        wrong_in_fp32=in_fp32,
        recordings=digest.of_file(words) if words.is_file() else "",
        **found,  # type: ignore[arg-type]
    )


def _shift_channels(graph: Path) -> None:
    """Make an engine's body shift its channels by two, so that its head recognises other words."""
    model = onnx.load(graph)
    (kernel,) = (value for value in model.graph.initializer if value.dims == [8, 1, 8])
    values = numpy_helper.to_array(kernel)
    shifted = np.concatenate((values[2:], np.zeros_like(values[:2])))
    kernel.CopyFrom(numpy_helper.from_array(shifted, kernel.name))
    onnx.save(model, graph)


def test_counts_wrong_words_of_engines_and_graphs(graphs: Path) -> None:
    spoken = ("one two three", "four four one", "three two one four")
    speak(graphs, "am_en_standard", *TEXTS, spoken=spoken)
    made = _make(graphs)
    assert made.accuracy == (_accuracy(graphs, 2, 2),)
    assert manifest.load(graphs.parent / "cpu").accuracy == made.accuracy


def test_rejects_engines_with_more_word_errors(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine may pass its own gate, on inputs that do not show the defect, and still cause word errors."""
    speak(graphs, "am_en_standard", *TEXTS)
    compiled = onnxruntime.compile

    def compile_wrongly(job: Job, target: Path, wanted: Options) -> Compiled:
        found = compiled(job, target, wanted)
        if job.record.family == "body":
            _shift_channels(target)
        return found

    monkeypatch.setattr(onnxruntime, "compile", compile_wrongly)
    passed = manifest.Gate(outcome="passed", reason="", parity=())
    monkeypatch.setattr("build.bundle.gate.check", lambda *_, **__: passed)
    with pytest.raises(GateError) as refusal:
        _make(graphs)
    assert str(refusal.value) == (
        "ensemble_en_standard batch: its engines get 8 of 10 words wrong and its graphs in FP32 0: 80.00 points more, "
        "allowed 0.5. Compare the figures of its engines' gates, or set a larger max_wer_increase in the catalogue."
    )
    assert not (graphs.parent / "cpu").exists()


def test_records_reason_when_words_are_unknown(graphs: Path) -> None:
    reason = "not measured: export had no recordings with texts in its language"
    assert _make(graphs).accuracy == (_accuracy(graphs, words=0, reason=reason),)


def test_does_not_judge_graphs_with_high_error_rate(graphs: Path) -> None:
    speak(graphs, "am_en_standard", *TEXTS, spoken=("zero",) * 3)
    (found,) = _make(graphs).accuracy
    assert (found.words, found.wrong, found.wrong_in_fp32) == (3, 10, 10)
    reason = "not judged: the graphs in FP32 get more than half of the words wrong"
    assert found.reason == f"3 recordings, best path; {reason}"
    assert wer_gate.check_increase(_ensembles(graphs)[0], found) == found


def test_skips_incomplete_ensemble(graphs: Path) -> None:
    assert _make(graphs, "body_standard").accuracy == ()


def test_keeps_measurement_until_an_engine_is_rebuilt(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuilt engine counts as changed even where its record equals the old one, build time included."""
    monkeypatch.setattr("build.bundle.time", SimpleNamespace(monotonic=lambda: 0.0))
    speak(graphs, "am_en_standard", *TEXTS)
    first = _make(graphs)
    counted: list[str] = []
    count = wer_gate.count

    def counting(ensemble: GatedEnsemble, *others: Any) -> Accuracy:
        counted.append(ensemble.model)
        return count(ensemble, *others)

    monkeypatch.setattr(wer_gate, "count", counting)
    assert _make(graphs).accuracy == first.accuracy
    assert counted == []
    assert _make(graphs, "am_en_standard", force=True).accuracy == first.accuracy
    assert counted == ["ensemble_en_standard"]


def test_measures_again_with_other_recordings(graphs: Path) -> None:
    """Nothing is built again, and the bundle still gets the new measurement."""
    assert [each.words for each in _make(graphs).accuracy] == [0]
    speak(graphs, "am_en_standard", *TEXTS)
    assert _make(graphs).accuracy == (_accuracy(graphs),)
    speak(graphs, "am_en_standard", "one", "two")
    reason = "2 recordings, best path"
    assert _make(graphs).accuracy == (_accuracy(graphs, words=2, reason=reason),)
    (graphs / "am_en_standard" / WORDS_FILE).unlink()
    assert [each.words for each in _make(graphs).accuracy] == [2]


def test_rejects_damaged_recordings(graphs: Path) -> None:
    path = graphs / "am_en_standard" / WORDS_FILE
    path.write_bytes(b"")
    with pytest.raises(GraphError) as refusal:
        _make(graphs)
    assert str(refusal.value) == (
        f"{path}: its arrays cannot be read (No data left in file). "
        "Run `python -m export --model am_en_standard --force`."
    )


def test_limits_of_another_precision_do_not_admit_int8(graphs: Path) -> None:
    """A catalogue may omit the limit of INT8: such engines are then refused, not gated with another limit."""
    _make(graphs)
    (ensemble,) = _ensembles(graphs)
    limits = {precision: limit for precision, limit in ensemble.family.max_wer_increase.items() if precision != "int8"}
    body, head = ensemble.steps
    quantised = replace(
        ensemble,
        family=replace(ensemble.family, max_wer_increase=limits),
        steps=(replace(body, engine=replace(body.engine, precision="int8")), head),
    )
    with pytest.raises(GateError) as refusal:
        _ = quantised.allowed_points
    assert str(refusal.value) == (
        "ensemble_en_standard batch: body_standard is int8, and max_wer_increase states no limit for int8. "
        "Add int8 to max_wer_increase of ensemble_en, or build another precision."
    )
    assert ensemble.allowed_points == 0.5


def test_does_not_measure_with_a_changed_graph(graphs: Path) -> None:
    speak(graphs, "am_en_standard", *TEXTS)
    _make(graphs)
    path = graphs / "body_standard" / "fp32.onnx"
    path.write_bytes(path.read_bytes() + b"\n")
    (found,) = _make(graphs, "am_en_standard", force=True).accuracy
    reason = "not measured: the graph that the engine of body_standard was built from is no longer there"
    assert found == _accuracy(graphs, words=0, reason=reason)


@pytest.mark.parametrize(
    ("path", "text"),
    [([3, 3, 0, 4], "one two"), ([3, 0, 3], "one one"), ([3, 6, 6, 1, 2, 7], "ones four"), ([0, 0], ""), ([], "")],
)
def test_spells_best_path(path: list[int], text: str) -> None:
    assert spell(collapse(path, TOKENS.dropped), TOKENS) == text


def test_counts_substitutions_deletions_and_insertions() -> None:
    assert wer_gate.wrong_units(["one two three", "four"], ["one three three one", ""], TOKENS) == 3


def _ensembles(graphs: Path) -> list[GatedEnsemble]:
    engines = {(each.model, each.mode): each for each in manifest.load(graphs.parent / "cpu").engines}
    return list(wer_gate.gated_ensembles(read_catalogue(), engines))
