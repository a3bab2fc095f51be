"""Manifests and export records: the round trip, and every way in which a file can be wrong."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contract import graph, manifest
from contract.arch import Arch
from contract.differences import Difference
from contract.errors import BundleError, GraphError, ManifestError
from contract.graph import GraphFile, GraphRecord
from contract.manifest import (
    Accuracy,
    Activation,
    BoundTensor,
    BundleFile,
    BundleManifest,
    Change,
    EngineRecord,
    Figure,
    Gate,
    GateCase,
    Shapes,
    Signature,
)

REMEDY = "Build the bundle again with `python -m build.engines`"
PARITY = Difference(output="y", measure="relative", value=0.25, limit=0.5)
ENGINE = EngineRecord(
    model="body_standard",
    family="body",
    operating_point="standard",
    mode="batch",
    file="body_standard/batch/model.onnx",
    sha256="ab" * 32,
    size_bytes=12,
    key="cd" * 32,
    key_parts={"onnx": "ef", "profiles": [1, {"max": 2.5}]},
    compiler="onnxruntime",
    precision="fp32",
    max_batch=16,
    inputs=(BoundTensor(name="x", type="FP16", dims=(-1, -1, 80)),),
    outputs=(BoundTensor(name="y", type="FP32", dims=(-1,)),),
    dims={"bands": 80},
    parameters={"tokens": '["▁the"]'},
    build_seconds=1.5,
    gate=Gate(
        outcome="passed",
        reason="",
        parity=(PARITY,),
        cases=(
            GateCase(
                name="random batch 1", parity=(PARITY,), figures=(Figure(output="y", measure="absolute", value=0.125),)
            ),
        ),
        activation=Activation(value=321.5, tensor="t", node="n", operator="MatMul"),
    ),
    profiles=({"x": Shapes(min=(1, 8, 80), opt=(2, 16, 80), max=(4, 32, 80))},),
    device_memory_bytes=1024,
    built_on={"gpu": "NVIDIA A10", "driver": "580.65"},
    files=(BundleFile(file="body_standard/batch/layers.json", sha256="98" * 32, size_bytes=3),),
    changes=(Change(part="toolchain.tensorrt", before='"10.9"', after='"11.2"'),),
)
SIGNATURE = Signature(key="0a" * 8, value="c2lnbmVk")
BUNDLE = BundleManifest(
    platform="embedded",
    arch=Arch.CPU,
    toolchain={"onnxruntime": "1.32.0"},
    engines=(ENGINE,),
    files=(BundleFile(file="report.html", sha256="76" * 32, size_bytes=5),),
    accuracy=(
        Accuracy(operating_point="standard", mode="batch", words=90, wrong=4, wrong_in_fp32=3, allowed_points=1.0),
    ),
    signature=SIGNATURE,
)
RECORD = GraphRecord(
    model="body_standard",
    family="body",
    operating_point="standard",
    key="ab",
    opset=17,
    weights="the reference weights",
    libraries={"torch": "2.13.0"},
    dims={"encoder_size": 256},
    parameters={"tokens": "[]"},
    graphs={"fp32": GraphFile(file="fp32.onnx", sha256="cd", size_bytes=1, parity=(PARITY,))},
)


def changed(text: str, path: str, value: Any) -> str:
    """Set a field of a JSON text by its path; None removes it."""
    table = json.loads(text)
    *parents, last = path.split(".")
    inner = table
    for key in parents:
        inner = inner[int(key) if key.isdigit() else key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(table)


@pytest.mark.parametrize("signature", [None, SIGNATURE])
def test_a_manifest_reads_back_equal(signature: Signature | None) -> None:
    made = BundleManifest(
        platform="26.08", arch=Arch.SM86, toolchain=BUNDLE.toolchain, engines=(ENGINE, ENGINE), signature=signature
    )
    assert BundleManifest.from_json(made.to_json(), "m") == made


def test_a_full_manifest_reads_back_equal_and_names_all_its_files() -> None:
    assert BundleManifest.from_json(BUNDLE.to_json(), "m") == BUNDLE
    assert [each.file for each in BUNDLE.every_file()] == [
        "body_standard/batch/model.onnx",
        "body_standard/batch/layers.json",
        "report.html",
    ]


def test_what_is_signed_is_all_but_the_signature() -> None:
    assert BUNDLE.signed_bytes() == replace(BUNDLE, signature=None).signed_bytes()
    assert BUNDLE.signed_bytes() != replace(BUNDLE, platform="26.08").signed_bytes()
    assert BUNDLE.signed_bytes() == BundleManifest.from_json(BUNDLE.to_json(), "m").signed_bytes()


def test_a_record_reads_back_equal() -> None:
    assert GraphRecord.from_json(RECORD.to_json(), "r") == RECORD


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        ("platform", None, "platform: this field is missing"),
        ("arch", "sm70", "arch: 'sm70' is no architecture this release knows"),
        ("toolchain", {"torch": 2}, "toolchain.torch: a text is wanted, not an integer"),
        ("engines", {}, "engines: a list is wanted, not a table"),
        ("engines.0.max_batch", "16", "engines[0].max_batch: an integer is wanted, not a text"),
        ("engines.0.inputs.0.dims", [-1, "n"], "engines[0].inputs[0].dims[1]: an integer is wanted, not a text"),
        ("engines.0.gate.outcome", "failed", "engines[0].gate.outcome: 'failed' is neither 'passed' nor 'not run'"),
        ("engines.0.gate.parity.0.value", "small", "engines[0].gate.parity[0].value: a number is wanted, not a text"),
        ("engines.0.file", "/etc/passwd", "engines[0].file: '/etc/passwd' leads out of the bundle"),
        ("engines.0.file", "a/../../b", "engines[0].file: 'a/../../b' leads out of the bundle"),
        ("engines.0.file", "..", "engines[0].file: '..' leads out of the bundle"),
        ("engines.0.file", "", "engines[0].file: '.' leads out of the bundle"),
    ],
)
def test_a_wrong_manifest(path: str, value: Any, cause: str) -> None:
    with pytest.raises(ManifestError) as refusal:
        BundleManifest.from_json(changed(BUNDLE.to_json(), path, value), "b/manifest.json")
    assert str(refusal.value) == f"b/manifest.json: {cause}. {REMEDY}."


@pytest.mark.parametrize("version", [0, 1, 99])
def test_another_schema(version: int) -> None:
    with pytest.raises(ManifestError) as refusal:
        BundleManifest.from_json(changed(BUNDLE.to_json(), "schema_version", version), "m")
    assert str(refusal.value) == (
        f"m: schema_version: it is {version}, and this release reads 2. {REMEDY}, or use the release that wrote it."
    )


@pytest.mark.parametrize("end", [0, 1, 40, -3])
def test_a_truncated_manifest(end: int) -> None:
    with pytest.raises(ManifestError, match=r"^m: it is not JSON \("):
        BundleManifest.from_json(BUNDLE.to_json()[:end], "m")


@pytest.mark.parametrize(("text", "kind"), [("[]", "a list"), ("3", "an integer"), ("null", "null")])
def test_json_that_is_no_table(text: str, kind: str) -> None:
    with pytest.raises(ManifestError, match=f"^m: a table is wanted, not {kind}\\. "):
        BundleManifest.from_json(text, "m")


def test_load(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(BUNDLE.to_json(), encoding="utf-8")
    assert manifest.load(tmp_path) == BUNDLE
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match="it is not text"):
        manifest.load(tmp_path)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as refusal:
        manifest.load(tmp_path)
    assert str(refusal.value) == f"{tmp_path}: it holds no manifest.json, so it is no bundle. {REMEDY}."


def test_load_a_record(tmp_path: Path) -> None:
    folder = tmp_path / "body_standard"
    with pytest.raises(GraphError) as refusal:
        graph.load(folder)
    assert str(refusal.value) == (
        f"{folder}: no graph was exported there. Run `python -m export --model body_standard` first."
    )
    folder.mkdir()
    (folder / "record.json").write_text(RECORD.to_json(), encoding="utf-8")
    assert graph.load(folder) == RECORD


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 200_000, b"", b"null"])
def test_a_damaged_record_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "diar_standard"
    folder.mkdir()
    (folder / "record.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"record\.json: .*Run `python -m export` again\."):
        graph.load(folder)


def test_an_overflow_is_null_in_json_and_infinite_when_read_back() -> None:
    over = Activation(value=math.inf, tensor="t", node="n", operator="MatMul")
    made = replace(BUNDLE, engines=(replace(ENGINE, gate=replace(ENGINE.gate, activation=over)),))
    assert json.loads(made.to_json())["engines"][0]["gate"]["activation"]["value"] is None
    assert BundleManifest.from_json(made.to_json(), "m") == made
    assert over.headroom == 0.0
    assert Activation(value=32_752.0, tensor="t", node="n", operator="MatMul").headroom == 2.0


def test_the_points_of_a_word_error_rate() -> None:
    assert BUNDLE.accuracy[0].points == pytest.approx(100 / 90)
    assert replace(BUNDLE.accuracy[0], words=0).points == 0.0
