"""The export command: which models it selects, what it keeps, rejects and writes."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from contract import graph
from contract.catalogue import Model, read_catalogue
from contract.errors import CheckpointError, GraphError, SettingError
from export import exporter
from export.__main__ import command
from export.checkpoints import reference
from export.checkpoints.checkpoint import Checkpoint
from export.plan import Plan, plan
from tests.unit.export import small
from tests.unit.export.graphs import TracedGraphs


def _plan(out: Path, *names: str, weights: str = "random", point: str | None = None) -> Plan:
    return plan(read_catalogue(), names, point, ("fp32",), weights, out)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, traced_graphs: TracedGraphs) -> None:
    """Make every source return small networks, and trace each of them once in a session."""

    def open_checkpoint(model: Model) -> Checkpoint:
        return small.checkpoint(model.family.name)

    monkeypatch.setattr(exporter, "SOURCES", {"random": open_checkpoint})
    monkeypatch.setattr(exporter, "trace", traced_graphs.copy)


@pytest.mark.usefixtures("tiny")
def test_exports_changed_models_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = _plan(tmp_path, "diar_standard", "lm_enhanced")
    exporter.export_all(wanted)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    inputs = {"batch-samples.npz", "realtime-samples.npz"}
    assert {path.name for path in written} == {"fp32.onnx", "record.json", *inputs}
    record = graph.load(tmp_path / "diar_standard")
    assert record.dims == {"embedding_size": 8}
    assert record.client == small.client("diar")
    assert graph.GraphRecord.from_json(record.to_json(), "again") == record
    capsys.readouterr()
    exporter.export_all(wanted)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == written
    assert capsys.readouterr().err.count("unchanged") == 2
    (tmp_path / "lm_enhanced" / "fp32.onnx").write_bytes(b"damaged")
    exporter.export_all(wanted)
    renewed = {path.parent.name for path, time in written.items() if path.stat().st_mtime_ns != time}
    assert renewed == {"lm_enhanced"}


@pytest.mark.usefixtures("tiny")
def test_writes_recordings_next_to_the_head(tmp_path: Path) -> None:
    exporter.export_all(_plan(tmp_path, "am_en_standard", "body_standard", "diar_standard"))
    assert [path.parent.name for path in tmp_path.rglob(graph.WORDS_FILE)] == ["am_en_standard"]
    with np.load(tmp_path / "am_en_standard" / graph.WORDS_FILE) as arrays:
        texts = [str(text) for key in arrays.files if key.startswith(graph.TRANSCRIPTS) for text in arrays[key]]
        assert arrays["audio.0"].shape == (1, 80_000)
        assert arrays["audio.0"].dtype == np.float32
        assert arrays["audio_lengths.0"].tolist() == [68_160]
    assert len(texts) == 14
    assert texts[2] == "do you already know why it failed"


@pytest.mark.usefixtures("tiny")
def test_failure_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter.export_all(_plan(tmp_path, "diar_standard"))
    before = (tmp_path / "diar_standard" / "fp32.onnx").read_bytes()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "trace", fail)
    forced = plan(read_catalogue(), ("diar_standard",), None, ("fp32",), "random", tmp_path, force=True)
    with pytest.raises(KeyboardInterrupt):
        exporter.export_all(forced)
    assert (tmp_path / "diar_standard" / "fp32.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["diar_standard"]


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the folder of reference weights empty."""
    monkeypatch.setattr(reference, "REFERENCE_FOLDER", tmp_path / "nothing")


@pytest.mark.usefixtures("no_weights")
def test_rejects_named_model_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        exporter.export_all(_plan(tmp_path / "onnx", "lm_enhanced", weights="reference"))
    assert str(error.value) == (
        "lm_enhanced: there are no reference weights for this model. Train them with `python -m training`, "
        "or use `--weights random` to try the pipeline without them."
    )
    assert list(tmp_path.glob("onnx/*")) == []


@pytest.mark.usefixtures("no_weights")
def test_skips_unnamed_models_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exporter.export_all(_plan(tmp_path / "onnx", weights="reference"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(_plan(tmp_path).models)
    assert lines[0] == f"export {'am_en_enhanced':<22} skipped: there are no reference weights for this model"
    assert list(tmp_path.glob("onnx/*")) == []


STANDARD = "am_en_standard, body_standard, decoder_standard, diar_standard"
ENHANCED = "am_en_enhanced, body_enhanced, decoder_enhanced, diar_enhanced, lm_enhanced"


@pytest.mark.parametrize(
    ("name", "point", "sentence"),
    [
        ("body_large", "standard", f"the catalogue has no such model. Choose from {STANDARD}."),
        ("body_large", "enhanced", f"the catalogue has no such model. Choose from {ENHANCED}."),
        ("ensemble_en", "standard", f"the catalogue has no such model. Choose from {STANDARD}."),
        ("_standard", "standard", f"the catalogue has no such model. Choose from {STANDARD}."),
        (
            "am_en_standard",
            "enhanced",
            "it is a model of standard, and --operating-point selects enhanced only. "
            "Leave out --operating-point, or use --model am_en_enhanced.",
        ),
        (
            "lm_enhanced",
            "standard",
            "it is a model of enhanced, and --operating-point selects standard only. Leave out --operating-point.",
        ),
        ("lm_standard", None, "the catalogue has no standard model of lm. Use --model lm_enhanced."),
        (
            "body",
            None,
            "it is a family of models, not a model. Use --model body_standard or --model body_enhanced.",
        ),
        (
            "ensemble_en_standard",
            "standard",
            f"it has no network: the server composes it of body and am_en. Choose from {STANDARD}.",
        ),
    ],
)
def test_rejects_model_that_cannot_be_selected(tmp_path: Path, name: str, point: str | None, sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        _plan(tmp_path, name, point=point)
    assert str(error.value) == f"--model {name}: {sentence}"


def test_unknown_model_lists_the_models_of_every_point(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as error:
        _plan(tmp_path, "body_large")
    listed = ", ".join(sorted(f"{STANDARD}, {ENHANCED}".split(", ")))
    assert str(error.value) == f"--model body_large: the catalogue has no such model. Choose from {listed}."


@pytest.mark.parametrize("point", [None, "standard", "enhanced"])
def test_selects_the_models_of_a_point(tmp_path: Path, point: str | None) -> None:
    names = [model.name for model in _plan(tmp_path, point=point).models]
    expected = {"standard": STANDARD, "enhanced": ENHANCED}
    wanted = [expected[point]] if point else expected.values()
    assert names == sorted(", ".join(wanted).split(", "))
    assert [model.name for model in _plan(tmp_path, "body_standard", point="standard").models] == ["body_standard"]


def test_missing_record_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(GraphError) as error:
        graph.load(tmp_path / "body_standard")
    remedy = "Run `python -m export --model body_standard` first"
    assert str(error.value) == f"{tmp_path / 'body_standard'}: no graph was exported there. {remedy}."


def test_help_imports_nothing_heavy() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert "Export networks to ONNX" in result.output
