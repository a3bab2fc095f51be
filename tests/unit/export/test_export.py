"""The command: what it chooses, keeps, refuses and leaves behind."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import save_file

from contract import graph
from contract.catalogue import catalogue
from contract.errors import CheckpointError, GraphError, SettingError
from export import exporter, samples
from export.__main__ import command
from export.checkpoints import reference
from export.checkpoints.checkpoint import Checkpoint
from export.networks.body import Body, BodyConfig
from export.plan import Plan, plan
from tests.unit.export import small

POINT = "standard"


def _plan(out: Path, *names: str, weights: str = "random", point: str | None = None) -> Plan:
    return plan(catalogue(), names, point, ("fp32",), weights, out)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every source give small networks."""

    def open_checkpoint(model: object) -> Checkpoint:
        network = small.network(model.family.name)  # type: ignore[attr-defined]
        return Checkpoint(network=network, dims=network.dims, parameters={"a": "b"}, origin="a test", digest="1")

    monkeypatch.setattr(exporter, "SOURCES", {"random": open_checkpoint})


@pytest.mark.usefixtures("tiny")
def test_exports_once_and_then_only_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = _plan(tmp_path, "diar_standard", "lm_enhanced")
    exporter.export_all(wanted)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    inputs = {"batch-samples.npz", "realtime-samples.npz"}
    assert {path.name for path in made} == {"fp32.onnx", "record.json", *inputs}
    record = graph.load(tmp_path / "diar_standard")
    assert record.dims == {"bands": 80, "embedding_size": 8}
    assert record.parameters == {"a": "b"}
    assert graph.GraphRecord.from_json(record.to_json(), "again") == record
    capsys.readouterr()
    exporter.export_all(wanted)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == made
    assert capsys.readouterr().err.count("unchanged") == 2
    (tmp_path / "lm_enhanced" / "fp32.onnx").write_bytes(b"damaged")
    exporter.export_all(wanted)
    renewed = {path.parent.name for path, time in made.items() if path.stat().st_mtime_ns != time}
    assert renewed == {"lm_enhanced"}


@pytest.mark.usefixtures("tiny")
def test_what_is_said_lies_beside_the_model_that_hears_it(tmp_path: Path) -> None:
    exporter.export_all(_plan(tmp_path, "body_standard", "diar_standard"))
    assert not (tmp_path / "diar_standard" / graph.WORDS_FILE).exists()
    with np.load(tmp_path / "body_standard" / graph.WORDS_FILE) as arrays:
        texts = [str(text) for key in arrays.files if key.startswith(graph.TEXTS) for text in arrays[key]]
        assert arrays["features.0"].shape == (1, 600, 80)
        assert arrays["feature_lengths.0"].tolist() == [424]
    assert len(texts) == 14
    assert texts[2] == "do you already know why it failed"


@pytest.mark.usefixtures("tiny")
def test_speech_of_unknown_words_is_exported_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "speech.safetensors"
    save_file({"segment_0": np.ones((60, 80), dtype=np.float16)}, path)
    monkeypatch.setattr(samples, "SPEECH_FILE", path)
    monkeypatch.setattr(exporter, "SPEECH_FILE", path)
    exporter.export_all(_plan(tmp_path / "onnx", "body_standard"))
    found = {path.name for path in (tmp_path / "onnx" / "body_standard").iterdir()}
    inputs = {"batch-samples.npz", "realtime-samples.npz"}
    assert found == {"fp32.onnx", "realtime-fp32.onnx", "record.json", *inputs}


@pytest.mark.usefixtures("tiny")
def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter.export_all(_plan(tmp_path, "diar_standard"))
    before = (tmp_path / "diar_standard" / "fp32.onnx").read_bytes()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "trace", fail)
    forced = plan(catalogue(), ("diar_standard",), None, ("fp32",), "random", tmp_path, force=True)
    with pytest.raises(KeyboardInterrupt):
        exporter.export_all(forced)
    assert (tmp_path / "diar_standard" / "fp32.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["diar_standard"]


def test_models_without_weights_are_an_error_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "REFERENCE_FOLDER", tmp_path / "nothing")
    with pytest.raises(CheckpointError) as refusal:
        exporter.export_all(_plan(tmp_path / "onnx", "lm_enhanced", weights="reference"))
    assert str(refusal.value) == (
        "lm_enhanced: there are no reference weights for it. Train them with `python -m training`, "
        "or take `--weights random` to try the pipeline without."
    )
    assert list(tmp_path.glob("onnx/*")) == []


def test_unknown_and_composed_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as unknown:
        _plan(tmp_path, "body_large")
    assert str(unknown.value).startswith(
        "--model body_large: the catalogue has no such model. Choose from am_en_enhanced,"
    )
    with pytest.raises(SettingError) as composed:
        _plan(tmp_path, "ensemble_en_standard", point=POINT)
    assert str(composed.value) == (
        "--model ensemble_en_standard: it has no network: the server composes it of body and am_en. "
        "Choose from am_en_standard, body_standard, decoder_standard, diar_standard."
    )


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "body.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0not a header")
    with pytest.raises(CheckpointError) as refusal:
        reference.load(path)
    assert str(refusal.value).startswith(f"{path}: it does not hold the weights of one of body, acoustic, decoder,")


def test_weights_survive_saving(tmp_path: Path) -> None:
    network = small.network("diar")
    reference.save(tmp_path / "diar.safetensors", "diarization", network, {"same_speaker_similarity": "0.5"})
    again, parameters = reference.load(tmp_path / "diar.safetensors")
    assert parameters == {"same_speaker_similarity": "0.5"}
    for ours, theirs in zip(again.state_dict().values(), network.state_dict().values(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3)


def test_weights_within_another_network_are_kept_once(tmp_path: Path) -> None:
    paths = [tmp_path / point / "body.safetensors" for point in ("enhanced", "standard")]
    large = Body(BodyConfig(size=16, layers=3, heads=2, hidden=16, channels=8, conditioned=(1,), vocabulary=12))
    small_one = Body(replace(large.config, layers=1, conditioned=(), vocabulary=0))
    small_one.load_state_dict({name: large.state_dict()[name] for name in small_one.state_dict()})
    with torch.no_grad():
        small_one.get_parameter("blocks.0.norm.bias").add_(1.0)
    reference.save(paths[0], "body", large, {})
    reference.save(paths[1], "body", small_one, {}, within=paths[0])
    with safe_open(paths[1], framework="pt") as file:
        assert list(file.keys()) == ["blocks.0.norm.bias"]
    again, _ = reference.load(paths[1])
    assert again.config == small_one.config
    for name, tensor in small_one.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.half().float())


@pytest.mark.parametrize("damage", ["missing", "another"])
def test_weights_within_another_file_than_then_are_refused(tmp_path: Path, damage: str) -> None:
    outer, inner = (tmp_path / point / "diar.safetensors" for point in ("enhanced", "standard"))
    reference.save(outer, "diarization", small.network("diar"), {})
    reference.save(inner, "diarization", small.network("diar"), {}, within=outer)
    if damage == "missing":
        outer.unlink()
    else:
        reference.save(outer, "diarization", small.network("diar"), {"same_speaker_similarity": "0.5"})
    with pytest.raises(CheckpointError) as refusal:
        reference.load(inner)
    assert str(refusal.value) == (
        f"{inner}: most of its weights lie within {outer}, which is missing or another file than when it was saved. "
        "Restore both files from the repository, or train both points again."
    )


def test_weights_of_another_network_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "REFERENCE_FOLDER", tmp_path)
    reference.save(reference.checkpoint_path("body", "standard"), "diarization", small.network("diar"), {})
    body = next(model for model in _plan(tmp_path, "body_standard").models)
    with pytest.raises(
        CheckpointError, match="it holds a Diarization, and the catalogue wants a Body for body_standard"
    ):
        reference.open_checkpoint(body)


def test_a_missing_record_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(GraphError) as refusal:
        graph.load(tmp_path / "body_standard")
    remedy = "Run `python -m export --model body_standard` first"
    assert str(refusal.value) == f"{tmp_path / 'body_standard'}: no graph was exported there. {remedy}."


def test_help_imports_nothing_heavy() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert "Export networks to ONNX" in result.output


def test_reference_weights_are_small() -> None:
    """The repository carries at most 12 MB of weights."""
    sizes = [path.stat().st_size for path in reference.REFERENCE_FOLDER.rglob("*") if path.is_file()]
    assert sum(sizes) <= 12_000_000
