"""Disk space for a build, and the name of the processor."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from build import preflight
from contract.errors import OutputError
from tests.unit.engines.exported import export, jobs

GIBIBYTE = 1 << 30


def test_rejects_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tmp_path / "onnx", "body_standard")
    (job,) = jobs(tmp_path / "onnx", "body_standard")
    large = dataclasses.replace(job.record.graphs["fp32"], size_bytes=3 * GIBIBYTE)
    job = dataclasses.replace(job, record=dataclasses.replace(job.record, graphs={"fp32": large}))
    queried = []

    def usage(path: Path) -> SimpleNamespace:
        queried.append(path)
        return SimpleNamespace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    folder, free = tmp_path / "engines" / "embedded" / "cpu", 6 * GIBIBYTE
    preflight.check_disk([job], folder)
    free -= GIBIBYTE // 2
    with pytest.raises(OutputError) as refusal:
        preflight.check_disk([job], folder)
    assert str(refusal.value) == (
        f"{folder}: its file system has 5.5 GiB free, and these engines may need 6.0 GiB. "
        "Free some space, or name a folder elsewhere with --out."
    )
    # None of the folders below it exists yet.
    assert set(queried) == {tmp_path}


def test_names_processor() -> None:
    assert preflight.processor().strip()
