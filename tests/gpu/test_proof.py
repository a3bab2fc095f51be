"""Detection, one engine with its gate, and a server of engines, on the GPU of this host (`pytest -m gpu tests/gpu`)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contract.catalogue import read_catalogue
from runtime import probe
from tests.integration.serving import started

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
MODEL = "body_standard"
COMMAND_S, READY_S = 600, 120


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of results that the tests share, as one proof does."""
    return tmp_path_factory.mktemp("gpu")


def proof(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run steps of the proof: with the torch of VOXWRIGHT_TORCH_PYTHON and the graphs of VOXWRIGHT_ONNX."""
    onnx = os.environ.get("VOXWRIGHT_ONNX", "dist/onnx")
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(out), "--onnx", onnx, "--accept-tensorrt"]
    command += ["--torch-python", os.environ.get("VOXWRIGHT_TORCH_PYTHON", ""), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_S, check=False)


def values(out: Path, step: str) -> Any:
    """Return the measurements of a step."""
    return json.loads((out / f"{step}.json").read_text())["values"]


def test_detects_the_real_gpu(out: Path) -> None:
    done = proof(out, "--step", "detect")
    assert done.returncode == 0, done.stdout
    found = values(out, "detect")
    seen = found["detection"]["gpus"][0]
    assert (found["gpu"]["name"], found["gpu"]["capability"]) == (seen["name"], seen["capability"])
    assert seen["name"] in found["nvidia_smi"]["query"]
    assert found["doctor"]["printed"]["gpus"][0]["name"] == seen["name"]


def test_builds_an_engine_that_passes_its_gate(out: Path) -> None:
    steps = [option for step in ("graphs", "build", "gate") for option in ("--step", step)]
    done = proof(out, "--model", MODEL, *steps)
    assert done.returncode == 0, done.stdout
    body = values(out, "gate")["engines"][f"{MODEL}-batch"]
    assert (body["outcome"], body["outputs"]["encoder_out"]["share_of_limit"] <= 1.0) == ("passed", True)
    assert body["real_audio_cases"] > 0


@pytest.mark.skipif(shutil.which("tritonserver") is None, reason="needs tritonserver on the PATH")
def test_serves_the_engines_with_the_tensorrt_backend(out: Path, tmp_path: Path) -> None:
    standard = [name for name, model in read_catalogue().models("standard").items() if model.family.network]
    chosen = [option for name in standard for option in ("--model", name)]
    done = proof(out, *chosen, "--force", "--step", "graphs", "--step", "build")
    assert done.returncode == 0, done.stdout
    place = values(out, "build")["platform"]
    with started(out / "engines", tmp_path, (f"--platform={place}",)) as server:
        # Raises ProbeError for an answer that cannot be right.
        printed = probe.run(
            server.url, READY_S, live=False, inference=True, answer_timeout_s=10.0, catalogue=read_catalogue()
        )
    assert f"{len(standard) + 1} models" in printed
