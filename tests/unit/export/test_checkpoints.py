"""Sources of weights: the command line, the size of production weights, and files with keys of earlier releases."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from contract.catalogue import read_catalogue
from contract.errors import CheckpointError
from export import __main__ as export_command
from export.checkpoints import SOURCES, production, reference
from export.checkpoints.weight_keys import RENAMED_PARTS, current_key, with_current_keys
from export.networks.conformer_encoder import ConformerEncoder
from export.plan import WEIGHTS, Plan
from tests.unit.export import small

OLD_PARTS = {new: old for old, new in RENAMED_PARTS.items()}


def test_command_line_lists_every_source() -> None:
    assert tuple(SOURCES) == WEIGHTS


@pytest.mark.parametrize("weights", WEIGHTS)
def test_command_line_accepts_every_source(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr(export_command, "run", plans.append)
    result = CliRunner().invoke(export_command.command, ["--weights", weights, "--model", "body_standard"])
    assert result.exit_code == 0, result.output
    assert [(plan.weights, plan.models[0].name) for plan in plans] == [(weights, "body_standard")]


@pytest.mark.parametrize("point", read_catalogue().operating_points)
def test_production_body_has_about_120_million_parameters(point: str) -> None:
    body: Any = _without_memory("body", point).network
    assert 115e6 < sum(weight.numel() for weight in body.parameters()) < 125e6


@pytest.mark.parametrize("point", read_catalogue().operating_points)
def test_production_networks_have_the_same_encoder_size(point: str) -> None:
    sizes = {family: _without_memory(family, point).dims["encoder_size"] for family in ("body", "am_en", "decoder")}
    assert sizes == dict.fromkeys(sizes, 512)


def test_production_checkpoint_states_its_origin() -> None:
    checkpoint = _without_memory("am_en", "standard")
    assert checkpoint.origin == "random weights of production size, seed 20260801"
    assert len(checkpoint.client.tokens.pieces) == checkpoint.dims["vocabulary"]
    assert checkpoint.digest != SOURCES["random"](read_catalogue().models()["am_en_standard"]).digest


def _without_memory(family: str, point: str) -> Any:
    # On torch's meta device a weight has a shape but no storage.
    with torch.device("meta"):
        return production.open_checkpoint(read_catalogue().models()[f"{family}_{point}"])


def _old_key(key: str) -> str:
    return ".".join(OLD_PARTS.get(part, part) for part in key.split("."))


def _write_with_old_keys(path: Path) -> None:
    """Rewrite a file of weights as an earlier release wrote it."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {_old_key(key): file.get_tensor(key) for key in file.keys()}
    save_file(tensors, path, metadata)


def test_maps_old_keys_to_attributes_of_the_networks() -> None:
    keys = set(small.network("body").state_dict())
    renamed = {key for key in keys if set(key.split(".")) & set(RENAMED_PARTS.values())}
    assert {key.split(".")[2] for key in renamed} == set(RENAMED_PARTS.values())
    assert {current_key(_old_key(key)) for key in keys} == {current_key(key) for key in keys} == keys
    assert not keys & {_old_key(key) for key in renamed}


def test_maps_keys_with_a_prefix() -> None:
    tensors = {f"body.{_old_key(key)}": tensor for key, tensor in small.network("body").state_dict().items()}
    assert list(with_current_keys(tensors)) == [f"body.{key}" for key in small.network("body").state_dict()]


@pytest.mark.parametrize("point", read_catalogue().operating_points)
def test_shipped_weights_load(point: str) -> None:
    """The files have the old keys and are unchanged; every value arrives in the network."""
    path = reference.checkpoint_path("body", point)
    stored = reference.checkpoint_path("body", "enhanced")
    with safe_open(stored, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    assert {old for old in RENAMED_PARTS if any(f".{old}." in key for key in tensors)} == set(RENAMED_PARTS)
    network, _ = reference.load(path)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[_old_key(key)].float())


@pytest.mark.parametrize("old_keys", [False, True], ids=["current keys", "old keys"])
def test_saved_weights_load(tmp_path: Path, old_keys: bool) -> None:
    network, path = small.network("body"), tmp_path / "body.safetensors"
    reference.save(path, "body", network, {"a": "b"})
    if old_keys:
        _write_with_old_keys(path)
    loaded, parameters = reference.load(path)
    assert parameters == {"a": "b"}
    _assert_same_in_fp16(loaded, network)


def test_saves_with_current_keys(tmp_path: Path) -> None:
    network, path = small.network("body"), tmp_path / "body.safetensors"
    reference.save(path, "body", network, {})
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(network.state_dict())
        assert json.loads(file.metadata()["network"]) == "body"


@pytest.mark.parametrize("old_keys", [False, True], ids=["current keys", "old keys"])
def test_stores_weights_within_another_file_once(tmp_path: Path, old_keys: bool) -> None:
    outer, inner = (tmp_path / point / "body.safetensors" for point in ("enhanced", "standard"))
    large = ConformerEncoder(replace(small.ENCODER, layers=3))
    smaller = ConformerEncoder(replace(large.config, layers=2))
    smaller.load_state_dict({name: large.state_dict()[name] for name in smaller.state_dict()})
    with torch.no_grad():
        smaller.get_parameter("blocks.0.norm.bias").add_(1.0)
    reference.save(outer, "body", large, {})
    if old_keys:
        _write_with_old_keys(outer)
    reference.save(inner, "body", smaller, {}, within=outer)
    with safe_open(inner, framework="pt") as file:
        assert list(file.keys()) == ["blocks.0.norm.bias"]
    loaded, _ = reference.load(inner)
    assert loaded.config == smaller.config
    _assert_same_in_fp16(loaded, smaller)


def _assert_same_in_fp16(loaded: Any, saved: Any) -> None:
    expected: dict[str, Tensor] = saved.state_dict()
    assert set(loaded.state_dict()) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_rejects_missing_or_changed_outer_file(tmp_path: Path, damage: str) -> None:
    outer, inner = (tmp_path / point / "diar.safetensors" for point in ("enhanced", "standard"))
    reference.save(outer, "diarization", small.network("diar"), {})
    reference.save(inner, "diarization", small.network("diar"), {}, within=outer)
    if damage == "missing":
        outer.unlink()
    else:
        reference.save(outer, "diarization", small.network("diar"), {"same_speaker_similarity": "0.5"})
    with pytest.raises(CheckpointError) as error:
        reference.load(inner)
    assert str(error.value) == (
        f"{inner}: most of its weights are in {outer}, which is missing or has changed since this file was saved. "
        "Restore both files from the repository, or train both points again."
    )


def test_rejects_damaged_weights(tmp_path: Path) -> None:
    path = tmp_path / "body.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0not a header")
    with pytest.raises(CheckpointError) as error:
        reference.load(path)
    assert str(error.value).startswith(f"{path}: it does not hold the weights of one of body, acoustic, decoder,")


def test_rejects_weights_of_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "REFERENCE_FOLDER", tmp_path)
    path = reference.checkpoint_path("body", "standard")
    reference.save(path, "diarization", small.network("diar"), {})
    with pytest.raises(CheckpointError) as error:
        reference.open_checkpoint(read_catalogue().models()["body_standard"])
    assert str(error.value) == (
        f"{path}: it holds the weights of a SpeakerEncoder, but body_standard is a ConformerEncoder in the catalogue. "
        "Replace the file with weights of a ConformerEncoder."
    )


def test_reference_weights_are_small() -> None:
    """The repository holds at most 12 MB of weights."""
    sizes = [path.stat().st_size for path in reference.REFERENCE_FOLDER.rglob("*") if path.is_file()]
    assert sum(sizes) <= 12_000_000
