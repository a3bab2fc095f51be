"""INT8: which products are quantised, the key of an engine, its gate, and what is rejected."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from benchmarks import quantised
from build import quantisation
from build.bundle import Target, make
from build.compilers import compiler, tensorrt_rtx
from build.job import Job
from build.options import Options
from build.planning import plan
from build.reference import run_session, session
from contract import manifest
from contract.arch import Arch
from contract.catalogue import INT8, read_catalogue
from contract.errors import CompileError, CompilerUnavailableError, GateError, GraphError
from contract.platform import platform
from tests.unit.engines.exported import cpu, export
from tests.unit.export.graphs import TracedGraphs

# A decoder that computes its scores from the first frame with two products, one large and one small.
_DECODER = """
<ir_version: 8, opset_import: ["" : 18]>
decoder (float16[b, e, 8] encoder_out, int32[b] encoder_lengths, int32[b, n, l] hypotheses,
         int32[b, n] hypothesis_lengths) => (float[b, n] scores)
<int64[1] zero = {0}, int64[1] last = {-1}, int64[1] one = {1}>
{
    frame = Gather <axis = 1> (encoder_out, zero)
    wide = Cast <to = 1> (frame)
    [small] hidden = MatMul (wide, small_weight)
    active = Relu (hidden)
    [large] out = MatMul (active, large_weight)
    sums = ReduceSum <keepdims = 0> (out, last)
    counts = Cast <to = 1> (hypothesis_lengths)
    scores = Add (sums, counts)
}"""


def decoder() -> bytes:
    """Return the decoder with random weights; those of the large product are positive, to keep scores from zero."""
    model = onnx.parser.parse_model(_DECODER)
    generator = np.random.default_rng(5)
    for name, shape in (("small_weight", (8, 256)), ("large_weight", (256, 64))):
        weights = generator.standard_normal(shape).astype(np.float32)
        weights = np.abs(weights) if name == "large_weight" else weights
        model.graph.initializer.append(numpy_helper.from_array(weights, name))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _job(folder: Path, content: bytes | None = None) -> Job:
    export(folder, "decoder_standard", content or decoder())
    (job,) = plan(read_catalogue(), folder, Arch.CPU, cpu(), ("decoder_standard",), mode="batch", precision=INT8)
    return job


def _make(job: Job, folder: Path) -> str:
    outcomes: list[str] = []
    target = Target(
        folder=folder,
        catalogue=read_catalogue(),
        platform=platform("embedded"),
        arch=Arch.CPU,
        compiler=cpu(),
        store=folder.with_name("store"),
    )
    make(target, [job], lambda _, __, outcome: outcomes.append(outcome))
    return outcomes[0]


def test_quantises_only_large_products(tmp_path: Path) -> None:
    job = _job(tmp_path)
    assert quantisation.large_products(job) == ["large"]
    with quantisation.prepared(job, cpu().NAME) as ready:
        graph = onnx.load(ready.graph).graph
        assert ready.reference == job.reference == job.graph
    weights = {value.name: value for value in graph.initializer}
    bytes_held = [
        value for value in weights.values() if value.data_type == onnx.TensorProto.INT8 and len(value.dims) > 1
    ]
    assert [tuple(value.dims) for value in bytes_held] == [(256, 64)]
    # Seven bits, by channel.
    assert np.abs(numpy_helper.to_array(bytes_held[0]).astype(int)).max() <= 64
    scales = [each for name, each in weights.items() if name.startswith("large_weight") and name.endswith("_scale")]
    assert [tuple(each.dims) for each in scales] == [(64,)]
    assert not ready.graph.exists()


def test_never_quantises_the_filter_bank(
    tmp_path: Path, traced_graphs: TracedGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernels are the largest constants of a small body; only matrix products are quantised."""
    monkeypatch.setattr(quantisation, "MIN_WEIGHTS", 1)
    export(tmp_path, "body_standard", traced_graphs.path("body").read_bytes())
    (job,) = plan(read_catalogue(), tmp_path, Arch.CPU, cpu(), ("body_standard",), mode="batch", precision=INT8)
    chosen = quantisation.large_products(job)
    exact = {node.name: node for node in onnx.load(job.reference).graph.node}
    assert chosen
    assert {exact[name].op_type for name in chosen} <= {"MatMul", "Gemm"}
    with quantisation.prepared(job, cpu().NAME) as ready:
        graph = onnx.load(ready.graph).graph
    kernels = {node.input[1] for node in exact.values() if node.op_type == "Conv"}
    assert {node.input[1] for node in graph.node if node.op_type == "Conv"} == kernels
    types = {value.name: value.data_type for value in graph.initializer}
    assert {types[name] for name in kernels} == {onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.INT8 in types.values()


def test_gpu_graphs_have_signed_bytes_around_zero(tmp_path: Path) -> None:
    with quantisation.prepared(_job(tmp_path), tensorrt_rtx.NAME) as ready:
        graph = onnx.load(ready.graph).graph
    points = [value for value in graph.initializer if value.name.endswith("_zero_point")]
    assert points
    for value in points:
        assert value.data_type == onnx.TensorProto.INT8
        assert not numpy_helper.to_array(value).any()


def test_builds_gates_and_reuses_int8_engine(tmp_path: Path) -> None:
    job = _job(tmp_path / "onnx")
    assert _make(job, tmp_path / "cpu") == "built"
    (record,) = manifest.load(tmp_path / "cpu").engines
    assert (record.precision, record.gate.parity[0].limit) == (INT8, 5e-2)
    assert 0.0 < record.gate.parity[0].value < 5e-2
    assert record.key_parts["options"]["quantisation"]["seven_bits"] is True
    assert _make(job, tmp_path / "cpu") == "unchanged"
    # Another calibration makes another engine, and so does FP32.
    with np.load(job.folder / "batch-samples.npz") as arrays:
        changed = {name: arrays[name] * np.array(2, arrays[name].dtype) for name in arrays.files}
    np.savez(job.folder / "batch-samples.npz", **changed)
    assert _make(job, tmp_path / "cpu") != "unchanged"
    assert _make(replace(job, precision="fp32"), tmp_path / "cpu") != "unchanged"


def test_rejects_int8_engine_beyond_tolerance(tmp_path: Path) -> None:
    """Activations outside the range of the calibration are clipped."""
    job = _job(tmp_path / "onnx")
    with np.load(job.folder / "batch-samples.npz") as arrays:
        quiet = {name: arrays[name] * np.array(name != "encoder_out.0", arrays[name].dtype) for name in arrays.files}
    np.savez(job.folder / "batch-samples.npz", **quiet)
    with pytest.raises(GateError, match=r"^decoder_standard batch for cpu: the engine differs from its graph: scores"):
        _make(job, tmp_path / "cpu")


def test_rejects_network_without_large_product(tmp_path: Path) -> None:
    export(tmp_path, "decoder_standard")
    (job,) = plan(read_catalogue(), tmp_path, Arch.CPU, cpu(), ("decoder_standard",), mode="batch", precision=INT8)
    with pytest.raises(GraphError) as refusal, quantisation.prepared(job, cpu().NAME):
        pass
    assert str(refusal.value) == (
        f"{job.graph}: it has no matrix product with 16384 weights or more, so that INT8 would save nothing. "
        "Omit --precision for it."
    )


def test_model_without_int8_tolerance_keeps_its_precision(tmp_path: Path) -> None:
    for model in ("body_standard", "diar_standard"):
        export(tmp_path, model)
    planned = plan(read_catalogue(), tmp_path, Arch.CPU, cpu(), precision=INT8)
    assert {job.record.model: job.precision for job in planned} == {"body_standard": INT8, "diar_standard": "fp32"}
    with pytest.raises(CompilerUnavailableError) as refusal:
        plan(read_catalogue(), tmp_path, Arch.CPU, cpu(), ("diar_standard",), precision=INT8)
    assert str(refusal.value) == (
        "--precision int8: diar_standard cannot be quantised: the catalogue states no int8 tolerance for it. "
        "Omit diar_standard, or build it without --precision."
    )


@pytest.mark.parametrize(
    ("name", "arch", "sentence"),
    [
        (
            "tensorrt_rtx",
            Arch.SM75,
            "--precision int8: the products that are not quantised stay in FP32, which TensorRT-RTX does not support "
            "on Turing. Omit it for sm75.",
        ),
        (
            "tensorrt",
            Arch.SM86,
            "--precision int8: no INT8 engine of tensorrt has been measured on a GPU. "
            "Omit it, or use --compiler onnxruntime or tensorrt_rtx.",
        ),
    ],
)
def test_rejects_int8_for_unsupported_targets(name: str, arch: Arch, sentence: str) -> None:
    with pytest.raises(CompilerUnavailableError) as refusal:
        quantisation.check_precision(INT8, compiler(name, arch), arch)
    assert str(refusal.value) == sentence


@pytest.mark.integration
def test_quantised_graph_compiles_for_gpu(tmp_path: Path) -> None:
    job = replace(_job(tmp_path), arch=Arch.SM80)
    with quantisation.prepared(job, tensorrt_rtx.NAME) as ready:
        made = tensorrt_rtx.compile(ready, tmp_path / "model.rtx", Options())
        assert (tmp_path / "model.rtx").stat().st_size > 10_000
        assert [each.name for each in (*made.inputs, *made.outputs)] == [
            each.name for each in (*job.family.inputs, *job.family.outputs)
        ]
        with pytest.raises(CompileError, match="multiplies matrices in FP32"):
            tensorrt_rtx.compile(replace(ready, arch=Arch.SM75), tmp_path / "model.rtx", Options())


def test_times_both_precisions_alternately(tmp_path: Path) -> None:
    job = _job(tmp_path)
    (found,) = quantised.comparisons(tmp_path, rounds=3)
    assert (found.title, found.first_name, found.second_name) == (
        "decoder_standard batch, its longest real input",
        "FP32",
        "INT8",
    )
    assert len(found.first) == len(found.second) == 3
    assert found.ratio > 0.0
    assert run_session(session(job.reference), quantised.longest_input(job))["scores"].shape == (2, 3)
