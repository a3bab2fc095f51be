"""Graphs of networks that others trained: equal to torch at several lengths, room in FP16, and compiled for GPUs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from build.compilers import polygraphy
from contract.arch import Arch
from contract.catalogue import AxisRange, Model, read_catalogue
from contract.client import ClientSpec
from export import parity
from export.checkpoints.checkpoint import Checkpoint
from export.job import Job
from export.networks.fast_conformer import FastConformer, FastConformerConfig
from export.networks.nemo_front_end import NemoFrontEndConfig
from export.networks.w2v_bert import W2vBert, W2vBertConfig
from export.networks.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from export.tracing import Boundary, trace
from tests.unit.export import foreign

FP16_MAX = 65_504.0
SAMPLES = AxisRange(min=8_000, opt=32_000, max=64_000)
# At least, traced, optimal and beyond the largest that a mode allows; one ends within a frame.
LENGTHS = (8_000, 8_001, 32_000, 100_003)
LIMITS = {"fp32": 1e-3, "fp16": 2e-2}
_WAVE = Wav2Vec2Config(channels=(16,) * 7, size=32, layers=2, heads=4, hidden=64, position_kernel=16, position_groups=4)
_CONFORMER = FastConformerConfig(channels=8, size=32, layers=2, heads=4, hidden=64)
_BERT = W2vBertConfig(size=32, layers=2, heads=4, hidden=64, kernel=7, left=20, right=4, adapter_size=48)
NETWORKS: dict[str, Callable[[], Any]] = {
    "fast conformer": lambda: FastConformer(_CONFORMER),
    "fast conformer of 128 bands": lambda: FastConformer(replace(_CONFORMER, front_end=NemoFrontEndConfig(bands=128))),
    "group norm": lambda: Wav2Vec2(_WAVE),
    "layer norm": lambda: Wav2Vec2(replace(_WAVE, feature_norm="layer", norm_first=True)),
    "distance bias": lambda: Wav2Vec2(replace(_WAVE, farthest=800)),
    "w2v-bert": lambda: W2vBert(_BERT),
    "w2v-bert with adapters": lambda: W2vBert(replace(_BERT, adapters=2, widened=True)),
}


def network(name: str) -> Any:
    """Build a network with random weights, the same at every call."""
    return foreign.randomise(NETWORKS[name]())


def job(name: str, precision: str) -> Job:
    """Return the export job of a network in the place of the catalogue's encoder."""
    built, body = network(name), read_catalogue().families["body"]
    frames = built.config.frames
    sizes = (frames.count(size) for size in (SAMPLES.min, SAMPLES.opt, SAMPLES.max))
    encoded = AxisRange(**dict(zip(("min", "opt", "max"), sizes, strict=True)))
    batch = AxisRange(min=1, opt=2, max=4)
    mode = replace(body.modes["batch"], batch=batch, axes={"samples": SAMPLES, "encoder_frames": encoded})
    family = replace(body, frames=frames, modes={"batch": mode})
    checkpoint = Checkpoint(network=built, dims=built.dims, client=ClientSpec(), origin="a test", digest="1")
    model = Model(name="body_test", family=family, operating_point="test")
    return Job(model=model, checkpoint=checkpoint, precision=precision)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return a function that traces a network at a precision, each at most once."""
    folder = tmp_path_factory.mktemp("graphs")

    def traced(name: str, precision: str) -> Path:
        path = folder / f"{name}-{precision}.onnx"
        if not path.is_file():
            trace(job(name, precision), path)
        return path

    return traced


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("name", NETWORKS)
def test_graph_equals_torch_at_every_length(name: str, precision: str, graphs: Callable[[str, str], Path]) -> None:
    session = parity.open_session(graphs(name, precision))
    reference = Boundary(network(name), job(name, precision).family, "fp32")
    for length in LENGTHS:
        audio, lengths = foreign.padded(foreign.recordings((length, 2 * length // 3)), length)
        inputs = {"audio": audio.numpy(), "audio_lengths": lengths.numpy()}
        for ours, theirs in zip(parity.run_graph(session, inputs), parity.run_network(reference, inputs), strict=True):
            scale = np.abs(theirs.astype(np.float32)).max()
            assert np.abs(ours.astype(np.float32) - theirs.astype(np.float32)).max() <= LIMITS[precision] * scale


@pytest.mark.parametrize("name", NETWORKS)
def test_padded_item_of_the_graph_equals_the_item_alone(name: str, graphs: Callable[[str, str], Path]) -> None:
    session = parity.open_session(graphs(name, "fp32"))
    audio = foreign.recordings((20_000, 9_000))
    batch, lengths = foreign.padded(audio, 50_000)
    together = parity.run_graph(session, {"audio": batch.numpy(), "audio_lengths": lengths.numpy()})
    for row, count, values in zip(*together, audio, strict=True):
        inputs = {"audio": values[None], "audio_lengths": np.array([len(values)], np.int32)}
        alone, (own,) = parity.run_graph(session, inputs)
        assert own == count
        assert np.allclose(row[:count], alone[0, :count], atol=4e-3)
        assert not row[count:].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_of_fp16_graphs_compute_in_fp32(name: str, graphs: Callable[[str, str], Path]) -> None:
    """The epsilon of some checkpoints, 1e-12, is 0 in FP16."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load(graphs(name, "fp16"))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    norms = [node for node in inferred.node if node.op_type == "LayerNormalization"]
    assert norms
    assert {types[node.output[0]] for node in norms} == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("name", NETWORKS)
def test_graph_holds_no_operator_that_gpus_refuse(name: str, graphs: Callable[[str, str], Path]) -> None:
    """TensorRT-RTX takes no NonZero and no ScatterND, and for Turing no FP32 product of matrices."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load(graphs(name, "fp16"))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    types |= {value.name: value.data_type for value in inferred.initializer}
    products = [node for node in inferred.node if node.op_type in ("MatMul", "Gemm")]
    assert products
    assert {types[tensor] for node in products for tensor in node.input} == {onnx.TensorProto.FLOAT16}
    assert not {node.op_type for node in inferred.node} & {"NonZero", "ScatterND", "ScatterElements", "If", "Loop"}


# The blocks of the others normalise every sum.
@pytest.mark.parametrize("name", ["fast conformer", "layer norm", "w2v-bert"])
def test_values_between_blocks_may_exceed_fp16(name: str) -> None:
    """The first block adds more than the largest FP16 value, as weights of others may."""
    built = network(name)
    block = built.blocks[0]
    last = block.before.second if isinstance(built, FastConformer | W2vBert) else block.second
    with torch.no_grad():
        last.bias[0], last.bias[1] = 0.9 * FP16_MAX, -0.9 * FP16_MAX
        # A second layer of the block adds as much.
        block.attention.out.bias[:2] = last.bias[:2]
    audio = foreign.padded(foreign.recordings((32_000, 20_000)), 32_000)
    peaks: list[float] = []
    for norm in (each for each in built.modules() if type(each).__name__ == "Norm"):
        norm.register_forward_pre_hook(lambda _, inputs: peaks.append(float(inputs[0].detach().abs().max())))
    expected, _ = built(*audio)
    assert max(peaks) > FP16_MAX
    found, _ = built.to(torch.float16)(*audio)
    assert bool(found.isfinite().all())
    assert float((found - expected).abs().max()) <= LIMITS["fp16"] * float(expected.abs().max())


@pytest.mark.integration
@pytest.mark.parametrize("arch", [Arch.SM75, Arch.SM86])
@pytest.mark.parametrize("name", NETWORKS)
def test_graph_compiles(name: str, arch: Arch, graphs: Callable[[str, str], Path]) -> None:
    polygraphy.bind("tensorrt_rtx")
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath, Profile

    profile = Profile()
    profile.add("audio", (1, SAMPLES.min), (2, SAMPLES.opt), (4, SAMPLES.max))
    profile.add("audio_lengths", (1,), (2,), (4,))
    config = CreateConfigRTX(profiles=[profile], compute_capabilities=[arch.capability])
    engine = EngineBytesFromNetwork(NetworkFromOnnxPath(str(graphs(name, "fp16"))), config=config)()
    assert len(bytes(engine)) > 100_000
