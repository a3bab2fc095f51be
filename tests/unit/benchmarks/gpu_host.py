"""A host with a made-up GPU, TensorRT and torch, and small exported graphs, for tests of `benchmarks.gpu`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx.checker
import onnx.parser

from tests.fakes.driver import H100, build_host, python
from tests.unit.engines.exported import export

MODELS = ("am_en_standard", "body_standard", "diar_standard")
CURRENT, LEGACY = "11.2.1.2", "8.6.0"
# Eight samples of every 40 ms, and one attention over them: scores and softmax in FP32.
_BODY = """<ir_version: 8, opset_import: ["" : 17]>
body (float[b, s] audio, int32[b] audio_lengths)
    => (float16[b, e, 8] encoder_out, int32[b] encoder_lengths)
<int64[1] from = {0}, int64[1] to = {-1352}, int64[1] axes = {1}, float[8, 1, 8] first = {IDENTITY},
 int32[1] before = {720}, int32[1] hop = {640}, int32[1] one = {1}, bool[1] is_kept = {1}, float[1] masked = {-1.0e9}>
{
    kept = Slice (audio, from, to, axes)
    upright = Unsqueeze (kept, axes)
    columns = Conv <strides = [640]> (upright, first)
    rows = Transpose <perm = [0, 2, 1]> (columns)
    values = Cast <to = TYPE> (rows)
    turned = Transpose <perm = [0, 2, 1]> (values)
    scores = MatMul (values, turned)
    wide = Cast <to = 1> (scores)
    chosen = Where (is_kept, wide, masked)
    weights = Softmax <axis = -1> (chosen)
    narrow = Cast <to = TYPE> (weights)
    attended = MatMul (narrow, values)
    encoder_out = Cast <to = 10> (attended)
    beyond = Sub (audio_lengths, before)
    counted = Div (beyond, hop)
    encoder_lengths = Max (counted, one)
}"""
_IDENTITY = ", ".join(str(float(row == column)) for row in range(8) for column in range(8))
# In place of an interpreter with torch: every case takes one millisecond, compiled half of it.
_TORCH = """
import json, sys
if sys.argv[1] == "-c":
    print(json.dumps({"torch": "2.13.0", "cuda": "13.0", "gpu": "made up"}))
    sys.exit()
cases, target = sys.argv[3:5]
with open(target, "w") as file:
    for case in json.load(open(cases))["cases"]:
        for way in ("eager", "compile")[: 1 + case.pop("compile")]:
            print(json.dumps({**case, "way": way, "median_ms": 1.0 if way == "eager" else 0.5}), file=file)
"""


def body(kind: int) -> bytes:
    """Return the ONNX file of a body that computes in a type of onnx.TensorProto."""
    identity = ", ".join(str(float(row == column)) for row in range(8) for column in range(8))
    made = onnx.parser.parse_model(_BODY.replace("TYPE", str(kind)).replace("IDENTITY", identity))
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


class GpuHost:
    """A host with one H100, some exported graphs, and a folder for results."""

    def __init__(self, folder: Path, tensorrt: str = CURRENT, **macros: str) -> None:
        self.folder, self.out, self.onnx = folder, folder / "gpu", folder / "onnx"
        self.libraries = folder / "host"
        self.libraries.mkdir(parents=True)
        build_host(self.libraries, tensorrt, **{**H100, **macros})
        for model in MODELS:
            self.export(self.onnx, model)
        self.torch = folder / "torch-python"
        folder.joinpath("torch.py").write_text(_TORCH)
        self.torch.write_text(f'#!/bin/sh\nexec {sys.executable} {folder / "torch.py"} "$@"\n')
        self.torch.chmod(0o755)

    def export(self, folder: Path, model: str) -> None:
        graphs = (body(1), body(10)) if model.startswith("body") else (None, None)
        export(folder, model, *graphs)

    def arguments(self, *options: str) -> tuple[str, ...]:
        models = [option for model in MODELS for option in ("--model", model)]
        measured = ("--seconds-per-case", "0.0005", "--peak-size", "32")
        folders = ("--out", str(self.out), "--onnx", str(self.onnx), "--torch-python", str(self.torch))
        return ("-m", "benchmarks.gpu", *folders, *measured, *models, *options)

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        return python(self.libraries, *self.arguments(*options))

    def result(self, step: str) -> Any:
        return json.loads((self.out / f"{step}.json").read_text())

    def values(self, step: str) -> Any:
        return self.result(step)["values"]


def states(output: str) -> dict[str, str]:
    """Return what became of every step by the lines that a run prints."""
    rows = [line.split() for line in output.splitlines()]
    return {
        row[0]: row[1].rstrip(":") for row in rows if row[1].rstrip(":") in ("passed", "failed", "blocked", "skipped")
    }
