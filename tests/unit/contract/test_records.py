"""Manifests and export records: the round trip, and the errors of wrong files."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contract import graph, manifest
from contract.arch import Arch
from contract.client import AudioSpec, ClientSpec, SearchSpec, SpeakerSpec, TokenSpec
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
    Gate,
    GateCase,
    Measurement,
    ShapeRange,
    Signature,
)

REMEDY = "Build the bundle again with `python -m build.engines`"
PARITY = Difference(output="y", measure="relative", value=0.25, limit=0.5)
CLIENT = ClientSpec(
    audio=AudioSpec(sample_rate_hz=8_000, shortest_samples=680, hop_s=0.04, first_centre_s=0.0425, padding="exact"),
    tokens=TokenSpec(pieces=("▁the", "|", "ß"), blank=2, unspoken=(1,), boundary=1, style="delimiter"),
    search=SearchSpec(ngram_weight=0.5, rescorers={"rescorer": 0.25}, rescorers_with_ngram={"lm": 0.125}, ngram="abc"),
    speaker=SpeakerSpec(sample_rate_hz=16_000, same_speaker_similarity=0.5, window_s=2.0, hop_s=1.0),
)
ENGINE = EngineRecord(
    model="body_standard",
    family="body",
    operating_point="standard",
    mode="batch",
    file="body_standard/batch/model.onnx",
    sha256="ab" * 32,
    size_bytes=12,
    key="cd" * 32,
    key_parts={"onnx": "ef", "profile": [1, {"max": 2.5}]},
    compiler="onnxruntime",
    precision="fp32",
    max_batch=16,
    inputs=(BoundTensor(name="x", type="FP16", dims=(-1, -1, 80)),),
    outputs=(BoundTensor(name="y", type="FP32", dims=(-1,)),),
    dims={"encoder_size": 8},
    client=CLIENT,
    build_seconds=1.5,
    languages=("en",),
    gate=Gate(
        outcome="passed",
        reason="",
        parity=(PARITY,),
        cases=(
            GateCase(
                name="random batch 1",
                parity=(PARITY,),
                figures=(Measurement(output="y", measure="absolute", value=0.125),),
            ),
        ),
        activation=Activation(value=321.5, tensor="t", node="n", operator="MatMul"),
    ),
    profile={"x": ShapeRange(min=(1, 8, 80), opt=(2, 16, 80), max=(4, 32, 80))},
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
    client=CLIENT,
    graphs={"fp32": GraphFile(file="fp32.onnx", sha256="cd", size_bytes=1, parity=(PARITY,))},
)


def changed(text: str, path: str, value: Any) -> str:
    """Return a JSON text with one field set, by its path; None removes the field."""
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
def test_manifest_reads_back_equal(signature: Signature | None) -> None:
    full = BundleManifest(
        platform="26.08", arch=Arch.SM86, toolchain=BUNDLE.toolchain, engines=(ENGINE, ENGINE), signature=signature
    )
    assert BundleManifest.from_json(full.to_json(), "m") == full


def test_full_manifest_reads_back_equal_and_lists_every_file() -> None:
    assert BundleManifest.from_json(BUNDLE.to_json(), "m") == BUNDLE
    assert [each.file for each in BUNDLE.every_file()] == [
        "body_standard/batch/model.onnx",
        "body_standard/batch/layers.json",
        "report.html",
    ]


def test_signed_bytes_leave_out_only_the_signature() -> None:
    assert BUNDLE.signed_bytes() == replace(BUNDLE, signature=None).signed_bytes()
    assert BUNDLE.signed_bytes() != replace(BUNDLE, platform="26.08").signed_bytes()
    assert BUNDLE.signed_bytes() == BundleManifest.from_json(BUNDLE.to_json(), "m").signed_bytes()


def test_record_reads_back_equal() -> None:
    assert GraphRecord.from_json(RECORD.to_json(), "r") == RECORD


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        ("platform", None, "platform: this field is missing"),
        ("arch", "sm70", "arch: this release has no architecture 'sm70'"),
        ("toolchain", {"torch": 2}, "toolchain.torch: expected a string, found an integer"),
        ("engines", {}, "engines: expected a list, found a table"),
        ("engines.0.max_batch", "16", "engines[0].max_batch: expected an integer, found a string"),
        ("engines.0.inputs.0.dims", [-1, "n"], "engines[0].inputs[0].dims[1]: expected an integer, found a string"),
        ("engines.0.gate.outcome", "failed", "engines[0].gate.outcome: 'failed' is neither 'passed' nor 'not run'"),
        (
            "engines.0.gate.parity.0.value",
            "small",
            "engines[0].gate.parity[0].value: expected a number, found a string",
        ),
        ("engines.0.key_parts", [], "engines[0].key_parts: expected a table, found a list"),
        ("engines.0.inputs.0.type", "INT64", "engines[0].inputs[0].type: 'INT64' is not one of FP16, FP32, INT32"),
        ("engines.0.outputs.0.dims", [1 << 70], "engines[0].outputs[0].dims[0]: a number of 71 bits is too large"),
        ("engines.0.build_seconds", math.inf, "engines[0].build_seconds: inf is not a finite number"),
        ("engines.0.file", "/etc/passwd", "engines[0].file: '/etc/passwd' leads out of the bundle"),
        ("engines.0.file", "a/../../b", "engines[0].file: 'a/../../b' leads out of the bundle"),
        ("engines.0.file", "..", "engines[0].file: '..' leads out of the bundle"),
        ("engines.0.file", "", "engines[0].file: '.' leads out of the bundle"),
    ],
)
def test_rejects_wrong_manifest(path: str, value: Any, cause: str) -> None:
    with pytest.raises(ManifestError) as error:
        BundleManifest.from_json(changed(BUNDLE.to_json(), path, value), "b/manifest.json")
    assert str(error.value) == f"b/manifest.json: {cause}. {REMEDY}."


@pytest.mark.parametrize("version", [0, 1, 99])
def test_rejects_other_schema_versions(version: int) -> None:
    with pytest.raises(ManifestError) as error:
        BundleManifest.from_json(changed(BUNDLE.to_json(), "schema_version", version), "m")
    assert str(error.value) == (
        f"m: schema_version: it is {version}, and this release reads 4. {REMEDY}, or use the release that wrote it."
    )


@pytest.mark.parametrize("end", [0, 1, 40, -3])
def test_rejects_truncated_manifest(end: int) -> None:
    with pytest.raises(ManifestError, match=r"^m: it is not JSON \("):
        BundleManifest.from_json(BUNDLE.to_json()[:end], "m")


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("9" * 5_000, "a number in it has too many digits"),
        ("[" * 2_000 + "]" * 2_000, "it is nested more than 64 levels deep"),
        ("[" * 400 + "]" * 400, "it is nested more than 64 levels deep"),
    ],
)
def test_rejects_long_numbers_and_deep_values(value: str, cause: str) -> None:
    with pytest.raises(ManifestError) as error:
        BundleManifest.from_json(changed(BUNDLE.to_json(), "engines.0.size_bytes", "X").replace('"X"', value), "m")
    assert str(error.value) == f"m: it is not JSON ({cause}). {REMEDY}."


@pytest.mark.parametrize(("text", "kind"), [("[]", "a list"), ("3", "an integer"), ("null", "null")])
def test_rejects_json_that_is_not_a_table(text: str, kind: str) -> None:
    with pytest.raises(ManifestError, match=f"^m: expected a table, found {kind}\\. "):
        BundleManifest.from_json(text, "m")


def test_load(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(BUNDLE.to_json(), encoding="utf-8")
    assert manifest.load(tmp_path) == BUNDLE
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match="it is not text"):
        manifest.load(tmp_path)


def test_rejects_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as error:
        manifest.load(tmp_path)
    assert str(error.value) == f"{tmp_path}: it holds no manifest.json, so it is not a bundle. {REMEDY}."


def test_load_record(tmp_path: Path) -> None:
    folder = tmp_path / "body_standard"
    with pytest.raises(GraphError) as error:
        graph.load(folder)
    assert str(error.value) == (
        f"{folder}: no graph was exported there. Run `python -m export --model body_standard` first."
    )
    folder.mkdir()
    (folder / "record.json").write_text(RECORD.to_json(), encoding="utf-8")
    assert graph.load(folder) == RECORD


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 200_000, b"", b"null"])
def test_rejects_damaged_record(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "diar_standard"
    folder.mkdir()
    (folder / "record.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"record\.json: .*Run `python -m export` again\."):
        graph.load(folder)


def test_overflow_is_null_in_json_and_infinite_when_read_back() -> None:
    over = Activation(value=math.inf, tensor="t", node="n", operator="MatMul")
    made = replace(BUNDLE, engines=(replace(ENGINE, gate=replace(ENGINE.gate, activation=over)),))
    assert json.loads(made.to_json())["engines"][0]["gate"]["activation"]["value"] is None
    assert BundleManifest.from_json(made.to_json(), "m") == made
    assert over.headroom == 0.0
    assert Activation(value=32_752.0, tensor="t", node="n", operator="MatMul").headroom == 2.0


def test_wer_increase() -> None:
    assert BUNDLE.accuracy[0].wer_increase == pytest.approx(100 / 90)
    assert replace(BUNDLE.accuracy[0], words=0).wer_increase == 0.0
