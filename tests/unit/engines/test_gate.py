"""The gate: what it measures, what it rejects, and its checks of FP16 graphs on a CPU."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from build import activations, gate, observations
from build.compilers import onnxruntime, tensorrt_rtx
from build.job import Job
from contract.arch import Arch
from contract.errors import GateError, GraphError
from contract.manifest import FP16_MAX, NOT_RUN, PASSED, Gate
from export.speech import read_demo
from tests.integration.networks import network
from tests.unit.engines.exported import cpu, export, jobs
from tests.unit.export.graphs import TracedGraphs

# Squares a tenth of 300 times the audio twice, which exceeds FP16 from 16 on; a sigmoid turns infinity into one, so
# that no output shows it.
_DIAR = """
<ir_version: 8, opset_import: ["" : 17]>
diar (float[b, s] audio, int32[b] audio_lengths) => (float[b, 6] embedding)
<int64[3] shape = {{0, -1, 6}}, int64[1] from = {{0}}, int64[1] to = {{7998}}, int64[1] axes = {{1}},
 float[1] loud = {{200.0}}, float[1] scale = {{60000.0}}>
{{
    kept = Slice (audio, from, to, axes)
    rows = Reshape (kept, shape)
    bands = Mul (rows, loud)
    typed = Cast <to = {kind}> (bands)
    square = Mul (typed, typed)
    [fourth] fourth = Mul (square, square)
    divisor = Cast <to = {kind}> (scale)
    share = Div (fourth, divisor)
    bounded = Sigmoid (share)
    mean = ReduceMean <axes = [1], keepdims = 0> (bounded)
    embedding = Cast <to = 1> (mean)
}}"""


def perturbed(content: bytes, share: float) -> onnx.ModelProto:
    """Return a graph with every weight changed by a random share of itself; short constants are not weights."""
    model = onnx.load_from_string(content)
    generator = np.random.default_rng(3)
    constants = [each.t for node in model.graph.node for each in node.attribute if each.HasField("t")]
    for tensor in (*model.graph.initializer, *constants):
        values = numpy_helper.to_array(tensor)
        if np.issubdtype(values.dtype, np.floating) and values.size > 16:
            changed = values * (1.0 + share * generator.standard_normal(values.shape))
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(values.dtype), tensor.name))
    return model


def _exported(folder: Path, model: str, content: bytes | None = None, half: bytes | None = None) -> Job:
    export(folder, model, content, half)
    (job,) = jobs(folder, model)
    return job


def _checked(job: Job, engine: Path, compiler: ModuleType | None = None) -> Gate:
    return gate.check(job, compiler or cpu(), engine)


def _for_a_gpu(job: Job) -> Job:
    return replace(job, arch=Arch.SM80, precision="fp16")


def test_measures_every_case(tmp_path: Path) -> None:
    job = _exported(tmp_path, "decoder_standard")
    found = _checked(job, job.reference)
    assert found.outcome == PASSED
    assert [case.name for case in found.cases] == [
        "random batch 1 encoder_frames 48 hypothesis_count 1 hypothesis_tokens 16",
        "random batch 4 encoder_frames 198 hypothesis_count 16 hypothesis_tokens 64",
        "random batch 8 encoder_frames 498 hypothesis_count 16 hypothesis_tokens 256",
        "real sample 0",
    ]
    for case in found.cases:
        assert [(each.output, each.measure) for each in case.parity] == [("scores", "relative")]
        assert [(each.output, each.measure) for each in case.figures] == [
            ("scores", "absolute"),
            ("scores", "best_differing"),
        ]


def test_rejects_weights_off_by_one_percent(tmp_path: Path) -> None:
    job = _exported(tmp_path, "decoder_standard")
    engine = tmp_path / "perturbed.onnx"
    onnx.save(perturbed(network("decoder_standard"), 0.01), engine)
    with pytest.raises(GateError, match=r"^decoder_standard batch for cpu: the engine differs from its graph: scores"):
        _checked(job, engine)


def test_rejects_engine_that_fails(tmp_path: Path) -> None:
    job = _exported(tmp_path, "body_standard")
    model = onnx.load_from_string(network("body_standard"))
    # Adds a tensor with one value for each sample, which are more than those of the encoder.
    (made,) = (node for node in model.graph.node if node.output[0] == "encoder_out")
    made.output[0] = "selected"
    model.graph.node.append(onnx.helper.make_node("Cast", ["audio"], ["narrow"], to=onnx.TensorProto.FLOAT16))
    model.graph.node.append(onnx.helper.make_node("Add", ["selected", "narrow"], ["encoder_out"], name="planted"))
    engine = tmp_path / "broken.onnx"
    onnx.save(model, engine)
    with pytest.raises(GateError, match=r"^body_standard batch for cpu: the engine fails on .*planted"):
        _checked(job, engine)


def test_names_output_with_largest_ratio(tmp_path: Path) -> None:
    """The engine is wrong for every input, and most for the longest hypotheses."""
    job = _exported(tmp_path, "lm_enhanced")
    model = onnx.load_from_string(network("lm_enhanced"))
    # Adds the squared length of the longest hypothesis to every sum.
    model.graph.node[-1].output[0] = "exact"
    model.graph.node.extend(
        [
            onnx.helper.make_node("Shape", ["hypotheses"], ["shape"], start=2, end=3),
            onnx.helper.make_node("Cast", ["shape"], ["length"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Mul", ["length", "length"], ["much"]),
            onnx.helper.make_node("Add", ["exact", "much"], ["scores"]),
        ]
    )
    engine = tmp_path / "wrong.onnx"
    onnx.save(model, engine)
    with pytest.raises(GateError) as refusal:
        _checked(job, engine)
    assert "(random batch 8 hypothesis_count 16 hypothesis_tokens 256)" in str(refusal.value)


def test_cpu_engine_records_largest_fp16_activation(tmp_path: Path) -> None:
    job = _exported(tmp_path, "diar_standard", _diar(onnx.TensorProto.FLOAT), _diar(onnx.TensorProto.FLOAT16))
    activation = _checked(job, job.reference).activation
    assert activation is not None
    assert (activation.tensor, activation.node, activation.operator) == ("fourth", "fourth", "Mul")
    # The engine is in FP32 and does not overflow, so that its FP16 graph does not matter.
    assert activation.value == np.inf


def test_rejects_overflowing_fp16_graph_without_gpu(tmp_path: Path) -> None:
    """The sigmoid hides the overflow from every output; the gate still detects it."""
    job = _exported(tmp_path, "diar_standard", _diar(onnx.TensorProto.FLOAT), _diar(onnx.TensorProto.FLOAT16))
    with pytest.raises(GateError) as refusal:
        _checked(_for_a_gpu(job), job.reference, tensorrt_rtx)
    assert str(refusal.value) == (
        "diar_standard batch for sm80: its FP16 graph exceeds 65504 at fourth (Mul). "
        "Compute that node in FP32, or scale its inputs, and export again."
    )


def test_rejects_different_fp16_graph_without_gpu(tmp_path: Path) -> None:
    half = perturbed(network("decoder_standard"), 0.2).SerializeToString()
    job = _exported(tmp_path, "decoder_standard", half=half)
    with pytest.raises(GateError, match=r"for sm80: its FP16 graph differs from its FP32 graph: scores differs by"):
        _checked(_for_a_gpu(job), job.reference, tensorrt_rtx)


def test_records_every_case_of_fp16_graph(tmp_path: Path) -> None:
    job = _for_a_gpu(_exported(tmp_path, "body_standard"))
    found = _checked(job, job.reference, tensorrt_rtx)
    assert (found.outcome, found.parity) == (NOT_RUN, ())
    assert [case.name for case in found.cases] == [
        "FP16 graph, random batch 1 samples 32000",
        "FP16 graph, random batch 1 samples 320000",
        "FP16 graph, real sample 0",
    ]
    # This body only selects, in FP32: its only FP16 tensors are its outputs.
    assert found.activation is not None
    assert found.activation.operator == "Cast"


def test_fp16_engine_that_runs_here_is_gated_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _for_a_gpu(_exported(tmp_path, "body_standard"))
    monkeypatch.setattr(tensorrt_rtx, "RUNS_HERE", True)
    monkeypatch.setattr(tensorrt_rtx, "run", onnxruntime.run)
    found = _checked(job, job.reference, tensorrt_rtx)
    assert found.outcome == PASSED
    assert [case.name.startswith("FP16 graph, ") for case in found.cases] == [False] * 4 + [True] * 3


def test_observes_graph_once_for_all_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _exported(tmp_path, "body_standard")
    first = gate.observe(_for_a_gpu(job))
    assert gate.observe(replace(job, arch=Arch.SM75, precision="fp16")) is first
    assert gate.observe(_exported(tmp_path / "other", "body_standard")) is not first


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The FP16 graphs that were run on the CPU."""
    found: list[Path] = []
    real = activations.ObservedGraph.__init__

    def run(self: Any, path: Path) -> None:
        found.append(path)
        real(self, path)

    monkeypatch.setattr(activations.ObservedGraph, "__init__", run)
    return found


def _observed_by_new_process(job: Job, store: Path, *, fresh: bool = False) -> observations.Observed | None:
    gate._observe.cache_clear()
    return gate.observe(_for_a_gpu(job), store, fresh=fresh)


def test_later_process_reads_observation_from_store(tmp_path: Path, runs: list[Path]) -> None:
    store = tmp_path / "store"
    overflowing = _exported(tmp_path, "diar_standard", _diar(onnx.TensorProto.FLOAT), _diar(onnx.TensorProto.FLOAT16))
    scored = _exported(tmp_path, "decoder_standard")
    first = [_observed_by_new_process(job, store) for job in (overflowing, scored)]
    assert len(runs) == 2
    assert [_observed_by_new_process(job, store) for job in (overflowing, scored)] == first
    assert len(runs) == 2
    assert first[0] is not None
    assert first[0].activation is not None
    assert first[0].activation.value == np.inf
    assert _observed_by_new_process(scored, store, fresh=True) == first[1]
    assert len(runs) == 3
    # A process without a store measures.
    gate._observe.cache_clear()
    assert gate.observe(_for_a_gpu(scored)) == first[1]
    assert len(runs) == 4


def test_other_inputs_graph_or_tolerance_are_observed_again(tmp_path: Path, runs: list[Path]) -> None:
    store = tmp_path / "store"
    job = _exported(tmp_path, "decoder_standard")
    _observed_by_new_process(job, store)
    with np.load(job.samples) as arrays:
        changed = {name: array[..., ::-1] if name == "encoder_out.0" else array for name, array in arrays.items()}
    np.savez(job.samples, **changed)
    _observed_by_new_process(job, store)
    assert len(runs) == 2
    half = perturbed(network("decoder_standard"), 0.0001).SerializeToString()
    job = _exported(tmp_path, "decoder_standard", half=half)
    _observed_by_new_process(job, store)
    assert len(runs) == 3
    outputs = tuple(
        replace(each, tolerance=replace(each.tolerance, fp16=0.5) if each.tolerance else None)
        for each in job.family.outputs
    )
    found = _observed_by_new_process(replace(job, family=replace(job.family, outputs=outputs)), store)
    assert len(runs) == 4
    assert found is not None
    assert {each.limit for case in found.cases for each in case.parity} == {0.5}


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"\xff" + data, lambda _: b""])
def test_damaged_observation_is_replaced(tmp_path: Path, runs: list[Path], damage: Callable[[bytes], bytes]) -> None:
    store = tmp_path / "store"
    job = _exported(tmp_path, "decoder_standard")
    first = _observed_by_new_process(job, store)
    (path,) = (store / observations.NAME).rglob("*.json")
    intact = path.read_bytes()
    path.write_bytes(damage(intact))
    assert _observed_by_new_process(job, store) == first
    assert (len(runs), path.read_bytes()) == (2, intact)


def _diar(kind: Any) -> bytes:
    model = onnx.parser.parse_model(_DIAR.format(kind=kind))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def test_filter_bank_is_no_fp16_activation(traced_graphs: TracedGraphs) -> None:
    """The power of loud speech exceeds FP16; the filter bank computes it in FP32, so that it is no overflow."""
    graph = activations.ObservedGraph(traced_graphs.path("diar", "fp16"))
    loudest = read_demo().segments[0].samples
    audio = (loudest / np.abs(loudest).max())[None]
    graph.run({"audio": audio, "audio_lengths": np.array([audio.shape[1]], dtype=np.int32)})
    in_fp16, in_fp32 = graph.largest(activations.FP16), graph.largest(activations.FP32)
    assert in_fp16 is not None
    assert in_fp16.value < FP16_MAX
    assert in_fp32 is not None
    assert FP16_MAX < in_fp32.value < np.inf


def test_rejects_real_inputs_of_another_network(tmp_path: Path) -> None:
    job = _exported(tmp_path, "diar_standard")
    np.savez(job.samples, **{"features.0": np.zeros((1, 60, 80), np.float16)})
    with pytest.raises(GraphError) as refusal:
        gate.real_inputs(job)
    assert str(refusal.value) == (
        f"{job.samples}: it holds features, and the catalogue's inputs are audio, audio_lengths. "
        "Run `python -m export --model diar_standard --force`."
    )


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


WHOLE = _npz(**{"audio.0": np.zeros((1, 4)), "audio_lengths.0": np.zeros((1, 1))})


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "its arrays cannot be read (No data left in file)"),
        (b"PK\3\4 and nothing more", "its arrays cannot be read (File is not a zip file)"),
        (WHOLE[:-30], "its arrays cannot be read (File is not a zip file)"),
        (WHOLE.replace(b"NUMPY", b"OTHER"), "its arrays cannot be read ("),
        (b"not an archive", "its arrays cannot be read ("),
        (_npz(**{"audio.0": np.array([{}])}), "its arrays cannot be read (Object arrays cannot be loaded"),
        (_npz(audio=np.zeros(1)), "'audio' is not the name of an input with a number"),
        (_npz(**{"audio.x": np.zeros(1)}), "'audio.x' is not the name of an input with a number"),
        (_npz(**{"audio.0": np.zeros(1), "audio_lengths.1": np.zeros(1)}), "it lacks audio_lengths.0"),
    ],
)
def test_rejects_damaged_real_inputs(tmp_path: Path, content: bytes, cause: str) -> None:
    job = _exported(tmp_path, "diar_standard")
    job.samples.write_bytes(content)
    with pytest.raises(GraphError) as refusal:
        gate.real_inputs(job)
    assert str(refusal.value).startswith(f"{job.samples}: {cause}")
    assert refusal.value.remedy == "Run `python -m export --model diar_standard --force`"


def test_rejects_export_without_real_inputs(tmp_path: Path) -> None:
    """Older exports have no inputs for each mode."""
    export(tmp_path, "diar_standard")
    path = tmp_path / "diar_standard" / "batch-samples.npz"
    path.rename(path.with_name("samples.npz"))
    (job,) = jobs(tmp_path, "diar_standard")
    with pytest.raises(GraphError) as refusal:
        gate.real_inputs(job)
    assert str(refusal.value) == (
        f"{path}: the file with the real inputs of the gate is missing. "
        "Run `python -m export --model diar_standard --force`."
    )
