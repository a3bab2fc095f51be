"""Findings in a graph before it is compiled."""

from dataclasses import replace
from pathlib import Path

import onnx
import onnx.parser
import pytest

from build import inspection
from contract.arch import Arch
from contract.errors import CompileError
from tests.integration.networks import network
from tests.unit.engines.exported import export, jobs

FP16, FP32, BF16, INT64 = 10, 1, 16, 7
# The head with a matrix product in another type between two casts.
_HEAD = """
<ir_version: 8, opset_import: ["" : 18]>
am (float16[b, e, 8] encoder_out, int32[b] encoder_lengths)
    => (float[b, e, 4] top_log_probs, int32[b, e, 4] top_tokens)
<int64[1] four = {{4}}, float[8, 8] weight = {{{weights}}}>
{{
    typed = Cast <to = {kind}> (encoder_out)
    typed_weight = Cast <to = {kind}> (weight)
    [planted] product = MatMul (typed, typed_weight)
    wide = Cast <to = 1> (product)
    top_log_probs, places = TopK (wide, four)
    top_tokens = Cast <to = 6> (places)
}}"""


def head(kind: int) -> bytes:
    """Return an acoustic head whose matrix product has a type, given as ONNX's number."""
    weights = ", ".join(str(index % 7 / 7) for index in range(64))
    model = onnx.parser.parse_model(_HEAD.format(kind=kind, weights=weights))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _check(folder: Path, half: bytes, arch: Arch) -> None:
    export(folder, "am_en_standard", half=half)
    (job,) = jobs(folder, "am_en_standard")
    inspection.check(replace(job, arch=arch, precision="fp16"))


def test_rejects_fp32_product_for_turing(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as refusal:
        _check(tmp_path, head(FP32), Arch.SM75)
    assert str(refusal.value) == (
        "am_en_standard batch for sm75: node 'planted' (MatMul) multiplies matrices in FP32, which TensorRT-RTX does "
        "not support on Turing. Export it in FP16: an FP32 island may hold a softmax or a norm, but no matrix product."
    )


@pytest.mark.parametrize(("kind", "arch"), [(FP32, Arch.SM80), (FP16, Arch.SM75), (FP16, Arch.SM89)])
def test_accepts_other_products(tmp_path: Path, kind: int, arch: Arch) -> None:
    _check(tmp_path, head(kind), arch)


@pytest.mark.parametrize("arch", [Arch.SM75, Arch.SM80])
def test_rejects_bfloat16(tmp_path: Path, arch: Arch) -> None:
    with pytest.raises(CompileError, match=r"node '.*' \(Cast\) computes in BFLOAT16.* \(and 3 more: .*planted"):
        _check(tmp_path, head(BF16), arch)


@pytest.mark.parametrize("what", ["input", "output"])
def test_rejects_int64_input_and_output(tmp_path: Path, what: str) -> None:
    model = onnx.load_from_string(network("am_en_standard"))
    value = model.graph.input[1] if what == "input" else model.graph.output[1]
    value.type.tensor_type.elem_type = INT64
    if what == "output":
        model.graph.node[-1].attribute[0].i = INT64
    with pytest.raises(CompileError) as refusal:
        _check(tmp_path, model.SerializeToString(), Arch.SM86)
    assert str(refusal.value) == (
        f"am_en_standard batch for sm86: {what} {value.name!r} is INT64, which no client sends or reads. "
        "Use one of the catalogue's types: FP16, FP32, INT32."
    )


def test_leaves_file_that_is_no_graph_to_the_compiler(tmp_path: Path) -> None:
    _check(tmp_path, b"not an ONNX graph", Arch.SM75)
