"""Word errors of a bundle's engines against those of its graphs in FP32."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from build import wer_gate
from build.bundle import Target, make
from build.compilers import Compiled, onnxruntime
from build.job import Job
from build.options import Options
from build.wer_gate import GatedEnsemble
from contract import manifest
from contract.arch import Arch
from contract.errors import GateError
from contract.manifest import Accuracy, BundleManifest
from contract.platform import platform
from contract.tokens import collapse, spell
from tests.unit.engines.exported import PIECES, cpu, export, jobs, speak

TEXTS = ("one two three", "four four one two", "three two one")


@pytest.fixture
def graphs(tmp_path: Path) -> Path:
    for model in ("am_en_standard", "body_standard"):
        export(tmp_path / "onnx", model)
    return tmp_path / "onnx"


def _make(graphs: Path, *names: str, force: bool = False) -> BundleManifest:
    folder = graphs.parent / "cpu"
    target = Target(
        folder=folder,
        platform=platform("embedded"),
        arch=Arch.CPU,
        compiler=cpu(),
        store=graphs.parent / "store",
        force=force,
    )
    return make(target, jobs(graphs, *names), lambda *_: None)


def _accuracy(wrong: int = 0, in_fp32: int = 0, **other: object) -> Accuracy:
    found = {"words": 10, "allowed_points": 0.5, "reason": "3 recordings, best path", **other}
    return Accuracy(
        operating_point="standard",
        mode="batch",
        model="ensemble_en_standard",
        wrong=wrong,
        wrong_in_fp32=in_fp32,
        **found,  # type: ignore[arg-type]
    )


def _shift_bands(graph: Path) -> None:
    """Make an engine's body begin at the third band, so that its head recognises other words."""
    model = onnx.load(graph)
    start = next(value for value in model.graph.initializer if value.name == "from")
    start.CopyFrom(numpy_helper.from_array(np.array([0, 2]), "from"))
    stop = next(value for value in model.graph.initializer if value.name == "to")
    stop.CopyFrom(numpy_helper.from_array(np.array([100000, 10]), "to"))
    onnx.save(model, graph)


def test_counts_wrong_words_of_engines_and_graphs(graphs: Path) -> None:
    spoken = ("one two three", "four four one", "three two one four")
    speak(graphs, "body_standard", *TEXTS, spoken=spoken)
    made = _make(graphs)
    assert made.accuracy == (_accuracy(2, 2),)
    assert manifest.load(graphs.parent / "cpu").accuracy == made.accuracy


def test_rejects_engines_with_more_word_errors(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine may pass its own gate, on inputs that do not show the defect, and still cause word errors."""
    speak(graphs, "body_standard", *TEXTS)
    compiled = onnxruntime.compile

    def compile_wrongly(job: Job, target: Path, wanted: Options) -> Compiled:
        found = compiled(job, target, wanted)
        if job.record.family == "body":
            _shift_bands(target)
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
    reason = "not measured: export had no words for its real inputs"
    assert _make(graphs).accuracy == (_accuracy(words=0, reason=reason),)


def test_does_not_judge_graphs_with_high_error_rate(graphs: Path) -> None:
    speak(graphs, "body_standard", *TEXTS, spoken=("zero",) * 3)
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
    speak(graphs, "body_standard", *TEXTS)
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


def test_does_not_measure_with_a_changed_graph(graphs: Path) -> None:
    speak(graphs, "body_standard", *TEXTS)
    _make(graphs)
    path = graphs / "body_standard" / "fp32.onnx"
    path.write_bytes(path.read_bytes() + b"\n")
    (found,) = _make(graphs, "am_en_standard", force=True).accuracy
    reason = "not measured: the graph that the engine of body_standard was built from is no longer there"
    assert found == _accuracy(words=0, reason=reason)


@pytest.mark.parametrize(
    ("path", "text"),
    [([3, 3, 0, 4], "one two"), ([3, 0, 3], "one one"), ([3, 6, 6, 1, 2, 7], "ones four"), ([0, 0], ""), ([], "")],
)
def test_spells_best_path(path: list[int], text: str) -> None:
    assert spell(collapse(path), PIECES) == text


def test_counts_substitutions_deletions_and_insertions() -> None:
    assert wer_gate.wrong_words(["one two three", "four"], ["one three three one", ""]) == 3


def _ensembles(graphs: Path) -> list[GatedEnsemble]:
    engines = {(each.model, each.mode): each for each in manifest.load(graphs.parent / "cpu").engines}
    return list(wer_gate.gated_ensembles(engines))
