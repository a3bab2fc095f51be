"""Checkpoints of trainings that an earlier release began: their old keys are translated when they are read."""

from dataclasses import replace
from pathlib import Path

import torch

from export.checkpoints.weight_keys import RENAMED_PARTS
from tests.unit.training import tiny
from training.checkpoints import Progress, checkpoint_path, read_checkpoint
from training.model import JointModel


def test_reads_checkpoint_with_old_keys(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path)
    point = replace(recipe.point("standard"), body=replace(recipe.point("standard").body, conditioned=(1,)))
    network = JointModel(point, tiny.VOCABULARY, len(tiny.PHONEMES))
    old_parts = {new: old for old, new in RENAMED_PARTS.items()}
    old_keys = {".".join(old_parts.get(part, part) for part in key.split(".")): key for key in network.state_dict()}
    assert sum(old != new for old, new in old_keys.items()) == 4
    weights = {old: network.state_dict()[new] for old, new in old_keys.items()}
    state = {"network": weights, "average": weights, "optimiser": {}, "progress": Progress(step=3)}
    torch.save(state, checkpoint_path(recipe, "standard"))
    found = read_checkpoint(recipe, "standard")
    assert found["progress"] == Progress(step=3)
    other = JointModel(point, tiny.VOCABULARY, len(tiny.PHONEMES))
    for name in ("network", "average"):
        other.load_state_dict(found[name])
        assert all(torch.equal(other.state_dict()[key], tensor) for key, tensor in network.state_dict().items())
