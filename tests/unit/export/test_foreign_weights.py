"""Damaged files of torch.save: whatever bytes the pickle has, they are tensors or a CheckpointError."""

import io
import random
import zipfile
from pathlib import Path

import pytest
import torch

from contract.errors import CheckpointError
from export.checkpoints.weights import read_pickle
from tests.unit.export import foreign


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_reads_or_rejects_changed_bytes(tmp_path: Path) -> None:
    path, generator, rejected = tmp_path / "weights.bin", random.Random(0), 0
    with zipfile.ZipFile(io.BytesIO(foreign.saved({"a": torch.ones(3, 4)}))) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in entries if name.endswith("data.pkl"))
    for _ in range(300):
        damaged = bytearray(entries[pickled])
        damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, bytes(damaged) if name == pickled else content)
        try:
            read_pickle(path)
        except CheckpointError:
            rejected += 1
    assert rejected > 200


def test_rejects_what_is_not_a_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(foreign.saved([torch.ones(3)]))
    with pytest.raises(CheckpointError) as error:
        read_pickle(path)
    assert str(error.value) == f"{path}: it does not hold a state dict. Copy or download the checkpoint again."
