"""Graphs of wenet's networks compile with TensorRT-RTX, for GPUs without and with FP32 matrix products."""

from pathlib import Path
from typing import Any

import pytest

from build.compilers import tensorrt_rtx
from build.job import Job
from build.options import Options
from contract.arch import Arch
from contract.client import ClientSpec
from contract.graph import GraphFile, GraphRecord, graph_name
from export.checkpoints import wenet
from tests.unit.export.wenet import STATIC, SYMMETRIC, TRANSFORMER, U2PP, job, traced, write

pytestmark = pytest.mark.integration
GRAPHS = (
    (U2PP, "encoder", "body", ""),
    (U2PP, "encoder", "body", "realtime"),
    (U2PP, "rescorer", "decoder", ""),
    (SYMMETRIC, "encoder", "body", ""),
    (STATIC, "encoder", "body", ""),
    (TRANSFORMER, "encoder", "body", ""),
)


@pytest.mark.parametrize("arch", [Arch.SM75, Arch.SM86])
@pytest.mark.parametrize(("variant", "part", "family", "mode"), GRAPHS)
def test_compiles(tmp_path: Path, arch: Arch, variant: str, part: str, family: str, mode: str) -> None:
    network: Any = getattr(wenet.read(write(tmp_path / variant, variant)), part)
    exported = job(tmp_path, network, family, "fp16", mode)
    path = traced(tmp_path, network, family, "fp16", mode)
    file = GraphFile(file=path.name, sha256="", size_bytes=path.stat().st_size, parity=())
    record = GraphRecord(
        model=exported.model.name,
        family=family,
        operating_point=exported.model.operating_point,
        key="",
        opset=18,
        weights="a test",
        libraries={},
        dims=exported.dims,
        client=ClientSpec(),
        graphs={graph_name(mode, "fp16"): file},
    )
    chosen = exported.family.modes[mode or "batch"]
    wanted = Job(family=exported.family, record=record, folder=tmp_path, mode=chosen, arch=arch, precision="fp16")
    compiled = tensorrt_rtx.compile(wanted, tmp_path / "engine", Options())
    assert [each.name for each in compiled.inputs] == [tensor.name for tensor in exported.family.inputs]
    assert (tmp_path / "engine").stat().st_size > 10_000
