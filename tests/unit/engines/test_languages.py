"""Languages beside English, from export to a gated bundle: own tokens, blank, recordings and units of errors."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build.bundle import Target, make
from build.job import Job
from build.planning import plan as plan_engines
from contract import digest, graph
from contract.arch import Arch
from contract.catalogue import Catalogue, read_catalogue
from contract.client import merge
from contract.errors import CatalogueError, GateError
from contract.manifest import Accuracy, BundleManifest
from export import exporter
from export.plan import plan as plan_graphs
from export.speech import read_demo
from tests.unit.engines import other_languages
from tests.unit.engines.exported import cpu, cpu_target
from tests.unit.engines.other_languages import QQ, record, write_catalogue

Build = Callable[..., BundleManifest]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Export a catalogue of some languages, with recordings, and build its bundle for the CPU."""
    monkeypatch.setattr(exporter, "SOURCES", {"random": other_languages.open_checkpoint})

    def run(*languages: str) -> BundleManifest:
        catalogue = read_catalogue(write_catalogue(tmp_path / "catalogue", *languages))
        folders = {language: tmp_path / language for language in languages if (tmp_path / language).is_dir()}
        wanted = plan_graphs(catalogue, (), None, ("fp32", "fp16"), "random", tmp_path / "onnx")
        exporter.export_all(replace(wanted, recordings=folders))
        return make(_target(tmp_path, catalogue), _jobs(tmp_path, catalogue), lambda *_: None)

    return run


def _target(folder: Path, catalogue: Catalogue) -> Target:
    return replace(cpu_target(folder), catalogue=catalogue)


def _jobs(folder: Path, catalogue: Catalogue) -> list[Job]:
    return plan_engines(catalogue, folder / "onnx", Arch.CPU, cpu())


def _accuracy(folder: Path, model: str, head: str, words: int, wrong: int, reason: str) -> Accuracy:
    return Accuracy(
        operating_point="only",
        mode="batch",
        model=model,
        words=words,
        wrong=wrong,
        wrong_in_fp32=wrong,
        allowed_points=0.0,
        reason=reason,
        recordings=digest.of_file(folder / "onnx" / head / graph.WORDS_FILE),
    )


def test_two_languages_have_their_own_gates(build: Build, tmp_path: Path) -> None:
    """In qq the blank is the last token, the token 6 is no text, and the errors are characters."""
    record(tmp_path / "qq", "qq", 0, [0, 0, 6, 1, 2], "天 天地人")
    record(tmp_path / "qq", "qq", 1, [3, 4, 5], "水火山")
    record(tmp_path / "qq", "qq", 2, [5, 1], "山水")
    record(tmp_path / "en", "en", 0, [3, 4, 1, 5], "one two three")
    record(tmp_path / "en", "en", 1, [7, 3, 6], "four two")
    made = build("en", "qq")
    assert [(each.model, each.mode) for each in made.engines] == [
        ("am_en_only", "batch"),
        ("am_qq_only", "batch"),
        ("body_only", "batch"),
    ]
    assert made.accuracy == (
        _accuracy(tmp_path, "ensemble_en_only", "am_en_only", 5, 1, "2 recordings, best path"),
        _accuracy(tmp_path, "ensemble_qq_only", "am_qq_only", 9, 1, "3 recordings, best path, in characters"),
    )
    clients = {each.model: each.client for each in made.engines}
    assert clients["am_qq_only"].tokens == QQ
    assert merge([clients["body_only"], clients["am_qq_only"]]).audio == clients["body_only"].audio
    assert clients["body_only"].audio is not None
    assert (clients["body_only"].audio.sample_rate_hz, clients["body_only"].audio.hop_s) == (8_000, 0.08)


def test_language_without_recordings_is_not_measured(build: Build, tmp_path: Path) -> None:
    """The demonstration is English: its graphs are compared on that speech, and no errors are counted."""
    (found,) = build("qq").accuracy
    assert (found.words, found.reason) == (
        0,
        "not measured: export had no recordings with texts in its language",
    )
    assert not (tmp_path / "onnx" / "am_qq_only" / graph.WORDS_FILE).exists()
    with np.load(tmp_path / "onnx" / "am_qq_only" / graph.samples_file("batch")) as arrays:
        assert "encoder_out.0" in arrays.files


def test_english_without_recordings_is_measured_on_the_demonstration(build: Build) -> None:
    """Three of its turns are not longer than the largest bucket."""
    (found,) = build("en").accuracy
    assert found.words == sum(len(turn.text.split()) for turn in read_demo().transcribed if turn.seconds <= 4.0)
    assert found.reason == (
        "3 recordings, best path; not judged: the graphs in FP32 get more than half of the words wrong"
    )


def test_network_for_audio_is_a_recogniser_of_one_step(build: Build, tmp_path: Path) -> None:
    record(tmp_path / "ss", "ss", 0, [0, 1, 2, 3], "天地人水")
    record(tmp_path / "ss", "ss", 1, [5, 5], "山火")
    made = build("ss")
    assert [(each.model, each.mode) for each in made.engines] == [("alone_ss_only", "batch")]
    reason = "2 recordings, best path, in characters"
    assert made.accuracy == (_accuracy(tmp_path, "alone_ss_only", "alone_ss_only", 6, 1, reason),)


def test_rejects_engines_with_more_wrong_characters(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "ss", "ss", 0, [0, 1, 2, 3], "天地人水")
    real = cpu().stream

    def wrong(engine: Path, inputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for found in real(engine, inputs):
            yield {**found, "top_tokens": found["top_tokens"] * 0 + QQ.blank}

    monkeypatch.setattr(cpu(), "stream", wrong)
    monkeypatch.setattr(cpu(), "run", lambda engine, inputs: list(real(engine, inputs)))
    with pytest.raises(GateError) as refusal:
        build("ss")
    assert str(refusal.value) == (
        "alone_ss_only batch: its engines get 4 of 4 characters wrong and its graphs in FP32 0: 100.00 points more, "
        "allowed 0. Compare the figures of its engines' gates, or set a larger max_wer_increase in the catalogue."
    )


def test_limit_of_errors_is_for_recognisers_only(tmp_path: Path) -> None:
    folder = write_catalogue(tmp_path / "catalogue", "qq")
    path = folder / "am_qq" / "model.toml"
    path.write_text("max_wer_increase = { fp32 = 0.0, fp16 = 0.0 }\n" + path.read_text())
    with pytest.raises(CatalogueError) as refusal:
        read_catalogue(folder)
    assert str(refusal.value) == (
        f"{path}: max_wer_increase: only an ensemble and a network of the role ctc that takes audio recognise words. "
        "Correct the file; docs/architecture/10-catalogue.md describes every field."
    )
