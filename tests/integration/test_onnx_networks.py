"""Networks in ONNX with real compilers and real weights: what TensorRT-RTX parses, and the recogniser of hama."""

import contextlib
import io
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from build.compilers import polygraphy
from contract.arch import Arch
from contract.client import EXACT
from export import speech
from export.checkpoints import onnx as importer
from export.checkpoints import onnx_file
from export.checkpoints.imported import ImportedGraph
from tests.integration import own

pytestmark = pytest.mark.integration
needs_hama = pytest.mark.skipif(own.HAMA is None, reason="the package hama is not installed")
RATE_HZ = 16_000


def node_graph(operator: str) -> onnx.ModelProto:
    """Return a graph of one operator."""
    kinds = TensorProto
    values: dict[str, tuple[list[str], list[int], dict[str, Any]]] = {
        "Compress": (["float", "boolean"], [kinds.FLOAT], {"axis": 0}),
        "ConvInteger": (["bytes", "kernel"], [kinds.INT32], {}),
        "DFT": (["signal"], [kinds.FLOAT], {"axis": 1}),
        "Det": (["square"], [kinds.FLOAT], {}),
        "DynamicQuantizeLinear": (["float"], [kinds.UINT8, kinds.FLOAT, kinds.UINT8], {}),
        "MatMulInteger": (["byte_rows", "byte_matrix"], [kinds.INT32], {}),
        "NonZero": (["float"], [kinds.INT64], {}),
        "Unique": (["float"], [kinds.FLOAT], {"axis": 0}),
        "MatMul": (["float", "matrix"], [kinds.FLOAT], {}),
    }
    shapes: dict[str, tuple[int, list[int | str]]] = {
        "float": (kinds.FLOAT, ["batch", 4]),
        "boolean": (kinds.BOOL, ["batch"]),
        "signal": (kinds.FLOAT, ["batch", 400, 1]),
        "square": (kinds.FLOAT, ["batch", 3, 3]),
        "bytes": (kinds.UINT8, ["batch", 4, 8]),
        "byte_rows": (kinds.UINT8, ["batch", 4]),
    }
    constants: dict[str, NDArray[Any]] = {
        "kernel": np.ones((4, 4, 3), dtype=np.uint8),
        "byte_matrix": np.ones((4, 4), dtype=np.uint8),
        "matrix": np.ones((4, 4), dtype=np.float32),
    }
    inputs, outputs, attributes = values[operator]
    names = [f"out{place}" for place in range(len(outputs))]
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, names, **attributes)],
        operator,
        [helper.make_tensor_value_info(name, *shapes[name]) for name in inputs if name in shapes],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(names, outputs, strict=True)],
        [numpy_helper.from_array(constants[name], name) for name in inputs if name in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def parses(model: onnx.ModelProto) -> bool:
    """Return whether TensorRT-RTX parses a graph."""
    import tensorrt_rtx

    logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.INTERNAL_ERROR)
    network = tensorrt_rtx.Builder(logger).create_network()
    return bool(tensorrt_rtx.OnnxParser(network, logger).parse(model.SerializeToString()))


def compiles(graph: Path, arch: Arch) -> bool:
    """Return whether TensorRT-RTX compiles a graph from audio for an architecture, with one item a request."""
    polygraphy.bind("tensorrt_rtx")
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath, Profile
    from polygraphy.exception import PolygraphyException

    profile = Profile()
    profile.add("audio", (1, 2 * RATE_HZ), (1, 8 * RATE_HZ), (1, 20 * RATE_HZ))
    profile.add("audio_lengths", (1,), (1,), (1,))
    config = CreateConfigRTX(profiles=[profile], compute_capabilities=[arch.capability])
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            EngineBytesFromNetwork(NetworkFromOnnxPath(str(graph), strongly_typed=True), config=config)()
        except PolygraphyException:
            return False
    return True


@pytest.mark.parametrize("operator", sorted(onnx_file.UNSUPPORTED))
def test_table_of_unsupported_operators_is_that_of_the_parser(operator: str) -> None:
    assert parses(node_graph("MatMul"))
    assert not parses(node_graph(operator))


@pytest.fixture(scope="module")
def hama(tmp_path_factory: pytest.TempPathFactory) -> ImportedGraph:
    folder = tmp_path_factory.mktemp("onnx") / "hama"
    own.hama_network(folder)
    return importer.read(folder)


@needs_hama
def test_finds_what_the_recogniser_of_hama_cannot_do(hama: ImportedGraph) -> None:
    """It takes lengths, and still pools over padding; it reflects 200 samples at the edge."""
    assert hama.dims == {"vocabulary": 191, "top": 16}
    assert hama.audio.padding == EXACT
    assert hama.audio.shortest_samples == 201
    assert hama.tokens.blank == 190
    assert [remark.split(" (")[0].split(":")[0] for remark in hama.remarks] == [
        "Padding changes the results of this network",
        "This graph does not compile for Turing",
        "Measured on speech",
    ]


@needs_hama
@pytest.mark.parametrize("number", range(len(speech.read_demo().segments)))
def test_graph_decodes_as_hama_does(hama: ImportedGraph, number: int) -> None:
    """Its own decoding, without the bias of the blank that it adds afterwards."""
    from hama import ASRDecodeConfig, ASRModel

    audio = speech.read_demo().segments[number].at(RATE_HZ)
    expected = ASRModel(decode=ASRDecodeConfig(blank_bias=0.0))(audio, RATE_HZ)
    session = onnxruntime.InferenceSession(hama.graph.SerializeToString())
    feeds = {"audio": audio[None], "audio_lengths": np.array([len(audio)], dtype=np.int32)}
    tokens, (frames,) = session.run(["top_tokens", "encoder_lengths"], feeds)
    path = tokens[0, :frames, 0].tolist()
    assert path == expected.frame_token_ids
    assert [token for token, _ in groupby(path) if token != hama.tokens.blank] == expected.token_ids
    assert len(expected.phonemes) > 10


@needs_hama
@pytest.mark.parametrize(("arch", "expected"), [(Arch.SM86, True), (Arch.SM75, False)])
def test_graph_compiles_where_its_remarks_state(
    hama: ImportedGraph, tmp_path: Path, arch: Arch, expected: bool
) -> None:
    onnx.save(hama.graph, tmp_path / "graph.onnx")
    assert compiles(tmp_path / "graph.onnx", arch) == expected
