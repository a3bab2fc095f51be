"""`python -m build.check` with the real TensorRT-RTX, on networks of a few nodes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.engines.exported import export
from tests.unit.engines.test_inspection import FP16, FP32, head

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


def _check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "build.check", "--onnx", str(folder / "onnx"), "--out", str(folder / "engines")]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_fp32_matmul_fails_for_turing_only(tmp_path: Path) -> None:
    export(tmp_path / "onnx", "am_en_standard", head(FP32))
    export(tmp_path / "onnx", "diar_standard")
    result = _check(tmp_path, "--arch", "sm75", "--arch", "sm80", "--json")
    assert result.returncode == 32
    sentence = "node 'planted' (MatMul) multiplies matrices in FP32, which TensorRT-RTX does not support on Turing"
    cure = "Export it in FP16: an FP32 island may hold a softmax or a norm, but no matrix product"
    more = ", and 1 more of 8 fail"
    assert result.stderr.splitlines()[-1] == f"error: am_en_standard batch for sm75: {sentence}{more}. {cure}."
    found = json.loads(result.stdout)
    assert not found["compiles"]
    assert [
        (each["model"], each["mode"], each["arch"], each["compiles"], each["cause"], each["remedy"])
        for each in found["graphs"]
    ] == [
        ("am_en_standard", "batch", "sm75", False, sentence, cure),
        ("am_en_standard", "realtime", "sm75", False, sentence, cure),
        ("diar_standard", "batch", "sm75", True, "", ""),
        ("diar_standard", "realtime", "sm75", True, "", ""),
        ("am_en_standard", "batch", "sm80", True, "", ""),
        ("am_en_standard", "realtime", "sm80", True, "", ""),
        ("diar_standard", "batch", "sm80", True, "", ""),
        ("diar_standard", "realtime", "sm80", True, "", ""),
    ]


def test_prints_a_table_and_reuses_earlier_results(tmp_path: Path) -> None:
    export(tmp_path / "onnx", "am_en_standard", head(FP16))
    first = _check(tmp_path, "--arch", "sm75")
    assert (first.returncode, first.stdout.splitlines()[0].split()) == (0, ["graph", "sm75"])
    assert first.stdout.splitlines()[1].startswith("am_en_standard batch ")
    second = _check(tmp_path, "--arch", "sm75", "--json")
    assert [each["unchanged"] for each in json.loads(second.stdout)["graphs"]] == [True, True]


def test_reports_what_the_compiler_rejects(tmp_path: Path) -> None:
    export(tmp_path / "onnx", "am_en_standard", half=b"not an ONNX graph")
    result = _check(tmp_path, "--arch", "sm89")
    assert result.returncode == 32
    assert "am_en_standard batch for sm89: the compiler rejects the graph (" in result.stdout


def test_rejects_folder_without_graphs(tmp_path: Path) -> None:
    result = _check(tmp_path)
    assert result.returncode == 30
    assert "it holds no exported graph" in result.stderr


def test_rejects_int8_for_turing(tmp_path: Path) -> None:
    export(tmp_path / "onnx", "am_en_standard")
    result = _check(tmp_path, "--arch", "sm75", "--precision", "int8")
    assert (result.returncode, result.stdout) == (31, "")
    assert result.stderr == (
        "error: --precision int8: the products that are not quantised stay in FP32, which TensorRT-RTX does not "
        "support on Turing. Omit it for sm75.\n"
    )
