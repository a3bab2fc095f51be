"""Which features of each TensorRT a build uses, checked against the names of the real libraries."""

import dataclasses
import sys
from types import ModuleType
from typing import Any

import onnx
import pytest

from build.compilers import dialect
from build.job import Job
from build.options import Options
from contract.arch import Arch
from contract.compatibility import AMPERE_PLUS, NONE, SAME_CAPABILITY
from contract.errors import CompileError, SettingError
from tests.fakes import capture
from tests.fakes.tensorrt import NAMES, install
from tests.integration.networks import network
from tests.unit.engines.exported import export, jobs
from tests.unit.export.graphs import TracedGraphs

LEGACY, TEN, ELEVEN = "8.6.1", "10.16.1.11", "11.2.1.2"


def fake(version: str) -> Any:
    module = ModuleType("tensorrt")
    install(module, version)
    return module


def test_recorded_names_equal_the_installed_library() -> None:
    """`tests.fakes.capture` recorded the names of the other versions in the same way."""
    library = pytest.importorskip("tensorrt_rtx")
    written = NAMES[f"rtx {library.__version__}"]
    assert {"source": written["source"], **capture.query("tensorrt_rtx", sys.executable, None)} == written


def test_names_come_from_wheels() -> None:
    assert {version: names["source"] for version, names in NAMES.items() if not version.startswith("rtx")} == {
        "8.6.0": "tensorrt-8.6.0-cp310-none-manylinux_2_17_x86_64.whl",
        "10.16.1.11": "tensorrt_cu12_bindings-10.16.1.11-cp311-none-manylinux_2_28_x86_64.whl",
        "11.2.1.2": "tensorrt_cu13_bindings-11.2.1.2-cp311-none-manylinux_2_28_x86_64.whl",
        "11.4.0.106": "tensorrt_cu12_bindings-11.4.0.106-cp311-none-manylinux_2_28_x86_64.whl",
    }


def test_fake_lacks_names_of_other_versions() -> None:
    old, new = fake(LEGACY), fake(ELEVEN)
    assert hasattr(old.ICudaEngine, "device_memory_size")
    assert not hasattr(new.ICudaEngine, "device_memory_size")
    assert hasattr(old.BuilderFlag, "FP16")
    assert not hasattr(new.BuilderFlag, "FP16")
    with pytest.raises(AttributeError, match="IBuilderConfig has no attribute max_workspace_size"):
        new.Builder(None).create_builder_config().max_workspace_size = 1
    old.Builder(None).create_builder_config().max_workspace_size = 1


@pytest.mark.parametrize(("version", "build"), [(LEGACY, "8.6.1.6"), ("8.6.0", "8.6.0"), (TEN, TEN), (ELEVEN, ELEVEN)])
def test_build_number(version: str, build: str) -> None:
    assert dialect.build_number(fake(version)) == build


@pytest.mark.parametrize(
    ("version", "keeps", "arguments"),
    [(LEGACY, False, {"fp16": True, "precision_constraints": "obey"}), (TEN, True, {}), (ELEVEN, True, {})],
)
def test_strong_typing(version: str, keeps: bool, arguments: dict[str, Any]) -> None:
    library = fake(version)
    assert dialect.supports_strong_typing(library) == keeps
    assert dialect.precision_arguments(library) == arguments


@pytest.mark.parametrize("version", [LEGACY, TEN, ELEVEN])
def test_format_has_its_real_name(version: str) -> None:
    names = NAMES[{LEGACY: "8.6.0"}.get(version, version)]["classes"]
    assert "LINEAR" in names["TensorFormat"]
    assert "allowed_formats" in names["ITensor"]


def test_pins_formats_of_a_parsed_network() -> None:
    library, made, _owners = _parsed_by_rtx(network("body_standard"))
    tensors = [made.get_input(index) for index in range(made.num_inputs)]
    tensors += [made.get_output(index) for index in range(made.num_outputs)]
    assert {tensor.allowed_formats for tensor in tensors} != {1}
    dialect.pin_formats(library, made)
    assert {tensor.allowed_formats for tensor in tensors} == {1 << int(library.TensorFormat.LINEAR)} == {1}


def _parsed_by_rtx(content: bytes) -> Any:
    library = pytest.importorskip("tensorrt_rtx")
    logger = library.Logger(library.Logger.ERROR)
    builder = library.Builder(logger)
    made = builder.create_network(0)
    parser = library.OnnxParser(made, logger)
    assert parser.parse(content)
    # The network is valid only while these objects exist.
    return library, made, (builder, parser)


def test_finds_fp32_layers_of_a_parsed_network() -> None:
    library, made, _owners = _parsed_by_rtx(network("am_en_standard"))
    found = [layer.type.name for layer in dialect.fp32_layers(library, made)]
    # TensorRT makes two layers of the log-softmax, and one that restores its shape before TopK.
    assert found == ["SOFTMAX", "UNARY", "SHUFFLE", "TOPK"]


def test_finds_the_filter_bank_of_a_parsed_network(traced_graphs: TracedGraphs) -> None:
    """A library without strong typing would compute it in FP16, which cannot hold the power of a frame."""
    library, made, _owners = _parsed_by_rtx(traced_graphs.path("body", "fp16").read_bytes())
    convolutions = [
        layer.name
        for layer in map(made.get_layer, range(made.num_layers))
        if layer.type == library.LayerType.CONVOLUTION and layer.get_output(0).dtype == library.DataType.FLOAT
    ]
    pinned = [(layer.type.name, layer.name) for layer in dialect.fp32_layers(library, made)]
    assert [name for kind, name in pinned if kind == "CONVOLUTION"] == convolutions
    # Pre-emphasis with the first sample of a frame; the mean; sums and differences, each with its part of the spectrum;
    # its power, the mel filters, their floor and the logarithm.
    computing = [kind for kind, _ in pinned if kind in ("CONVOLUTION", "ELEMENTWISE", "ACTIVATION", "UNARY")]
    halves = ["ELEMENTWISE", "CONVOLUTION"] * 2
    power = [*["ELEMENTWISE"] * 3, "CONVOLUTION", "ACTIVATION", "UNARY"]
    assert computing[:15] == [*["ELEMENTWISE"] * 4, "CONVOLUTION", *halves, *power]


@pytest.mark.parametrize(
    ("version", "level", "arch", "arguments"),
    [
        (LEGACY, NONE, Arch.SM75, {}),
        (LEGACY, AMPERE_PLUS, Arch.SM80, {"hardware_compatibility_level": "AMPERE_PLUS"}),
        (TEN, SAME_CAPABILITY, Arch.SM75, {"hardware_compatibility_level": "SAME_COMPUTE_CAPABILITY"}),
        (ELEVEN, SAME_CAPABILITY, Arch.SM86, {"hardware_compatibility_level": "SAME_COMPUTE_CAPABILITY"}),
        (ELEVEN, AMPERE_PLUS, Arch.SM90, {"hardware_compatibility_level": "AMPERE_PLUS"}),
    ],
)
def test_compatibility(version: str, level: str, arch: Arch, arguments: dict[str, str]) -> None:
    made = dialect.compatibility_arguments(fake(version), Options(compatibility=level), arch)
    assert {key: value.name for key, value in made.items()} == arguments


@pytest.mark.parametrize(
    ("options", "arch", "sentence"),
    [
        (
            Options(compatibility=SAME_CAPABILITY),
            Arch.SM86,
            "--compatibility same-capability: TensorRT 8.6.1.6 does not support this level. "
            "Use one of: none, ampere-plus.",
        ),
        (
            Options(compatibility=AMPERE_PLUS),
            Arch.SM75,
            "--compatibility ampere-plus: sm75 is Turing, and such an engine needs Ampere or later. "
            "Use --compatibility none, or build on another architecture.",
        ),
    ],
)
def test_rejects_unsupported_compatibility(options: Options, arch: Arch, sentence: str) -> None:
    with pytest.raises(SettingError) as refusal:
        dialect.compatibility_arguments(fake(LEGACY), options, arch)
    assert str(refusal.value) == sentence


def test_library_without_compatibility_levels() -> None:
    bare: Any = ModuleType("tensorrt")
    bare.__version__, bare.BuilderFlag = "8.5.3.1", fake(LEGACY).DataType
    with pytest.raises(SettingError) as refusal:
        dialect.compatibility_arguments(bare, Options(compatibility=AMPERE_PLUS), Arch.SM80)
    assert str(refusal.value) == (
        "--compatibility ampere-plus: TensorRT 8.5.3.1 does not support this level. Use one of: none."
    )


@pytest.mark.parametrize(
    ("version", "stated", "lowered"), [(LEGACY, 17, False), (LEGACY, 18, True), (TEN, 18, False), (ELEVEN, 25, False)]
)
def test_parser_receives_supported_opset(tmp_path: Any, version: str, stated: int, lowered: bool) -> None:
    job = _job(tmp_path, stated)
    with dialect.with_supported_opset(fake(version), job) as supported:
        assert (supported.graph != job.graph) == lowered
        (import_,) = onnx.load(supported.graph).opset_import
        assert import_.version == (17 if lowered else 18)
    assert job.graph.is_file()
    assert supported.graph.exists() == (not lowered)


def test_rejects_operator_missing_in_older_opset(tmp_path: Any) -> None:
    job = _job(tmp_path, 18, "x = Mish (features)")
    with pytest.raises(CompileError) as refusal, dialect.with_supported_opset(fake(LEGACY), job):
        pass
    assert str(refusal.value) == (
        "diar_standard batch for sm80: the graph has ONNX opset 18, the parser of TensorRT 8.6.1.6 reads up to 17, and "
        "its Mish cannot be converted to opset 17. "
        "Export the network without that operator, or build for a platform with a newer TensorRT."
    )


def _job(folder: Any, stated: int, node: str = "x, y = Split <axis = 2, num_outputs = 2> (features)") -> Job:
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    graph (float[B, 4, 6] features) => (float[B, 4, M] x) {{ {node} }}"""
    export(folder, "diar_standard", onnx.parser.parse_model(text).SerializeToString())
    (job,) = jobs(folder, "diar_standard")
    return dataclasses.replace(job, arch=Arch.SM80, record=dataclasses.replace(job.record, opset=stated))


@pytest.mark.parametrize(("version", "name"), [(LEGACY, "device_memory_size"), (ELEVEN, "device_memory_size_v2")])
def test_device_memory(version: str, name: str) -> None:
    made = type("ICudaEngine", (), {name: 7})()
    assert name in NAMES[{LEGACY: "8.6.0"}.get(version, version)]["classes"]["ICudaEngine"]
    assert dialect.device_memory_bytes(made) == 7
