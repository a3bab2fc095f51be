"""What each TensorRT is asked for, and which library vouches that it has it."""

import dataclasses
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from build.compilers import dialect
from build.options import Options
from contract.arch import Arch
from contract.compatibility import AMPERE_PLUS, NONE, SAME_CAPABILITY
from contract.errors import CompileError, SettingError
from tests.fakes import capture
from tests.fakes.tensorrt import NAMES, install
from tests.integration.networks import network
from tests.unit.engines.exported import export, jobs

LEGACY, TEN, ELEVEN = "8.6.1", "10.16.1.11", "11.2.1.2"


def fake(version: str) -> Any:
    module = ModuleType("tensorrt")
    install(module, version)
    return module


def test_the_names_of_the_library_that_is_here_are_the_written_ones() -> None:
    """What `tests.fakes.capture` wrote of the others it wrote by the same question."""
    library = pytest.importorskip("tensorrt_rtx")
    written = NAMES[f"rtx {library.__version__}"]
    assert {"source": written["source"], **capture.ask("tensorrt_rtx", sys.executable, None)} == written


def test_each_version_is_from_a_wheel() -> None:
    assert {version: names["source"] for version, names in NAMES.items() if not version.startswith("rtx")} == {
        "8.6.0": "tensorrt-8.6.0-cp310-none-manylinux_2_17_x86_64.whl",
        "10.16.1.11": "tensorrt_cu12_bindings-10.16.1.11-cp311-none-manylinux_2_28_x86_64.whl",
        "11.2.1.2": "tensorrt_cu13_bindings-11.2.1.2-cp311-none-manylinux_2_28_x86_64.whl",
        "11.4.0.106": "tensorrt_cu12_bindings-11.4.0.106-cp311-none-manylinux_2_28_x86_64.whl",
    }


def test_a_fake_has_no_name_that_its_version_lacks() -> None:
    old, new = fake(LEGACY), fake(ELEVEN)
    assert hasattr(old.ICudaEngine, "device_memory_size")
    assert not hasattr(new.ICudaEngine, "device_memory_size")
    assert hasattr(old.BuilderFlag, "FP16")
    assert not hasattr(new.BuilderFlag, "FP16")
    with pytest.raises(AttributeError, match="IBuilderConfig has no attribute max_workspace_size"):
        new.Builder(None).create_builder_config().max_workspace_size = 1
    old.Builder(None).create_builder_config().max_workspace_size = 1


@pytest.mark.parametrize(("version", "build"), [(LEGACY, "8.6.1.6"), ("8.6.0", "8.6.0"), (TEN, TEN), (ELEVEN, ELEVEN)])
def test_the_build_number(version: str, build: str) -> None:
    assert dialect.build_number(fake(version)) == build


@pytest.mark.parametrize(
    ("version", "keeps", "arguments"),
    [(LEGACY, False, {"fp16": True, "precision_constraints": "obey"}), (TEN, True, {}), (ELEVEN, True, {})],
)
def test_who_keeps_the_types_of_a_graph(version: str, keeps: bool, arguments: dict[str, Any]) -> None:
    library = fake(version)
    assert dialect.keeps_types(library) == keeps
    assert dialect.precision_arguments(library) == arguments


def _parsed_by_rtx(content: bytes) -> Any:
    library = pytest.importorskip("tensorrt_rtx")
    logger = library.Logger(library.Logger.ERROR)
    builder = library.Builder(logger)
    made = builder.create_network(0)
    parser = library.OnnxParser(made, logger)
    assert parser.parse(content)
    # The network lives as long as these do.
    return library, made, (builder, parser)


def test_the_islands_of_fp32_in_a_network_that_a_real_parser_made() -> None:
    library, made, _owners = _parsed_by_rtx(network("am_en_standard"))
    found = [layer.type.name for layer in dialect.fp32_layers(library, made)]
    # The log-softmax is two layers to TensorRT, and its shape is put right before the best few are taken.
    assert found == ["SOFTMAX", "UNARY", "SHUFFLE", "TOPK"]
    library, made, _owners = _parsed_by_rtx(network("body_standard"))
    assert list(dialect.fp32_layers(library, made)) == []


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
    for version_compatible in (False, True):
        options = Options(compatibility=level, version_compatible=version_compatible)
        made = dialect.compatibility_arguments(fake(version), options, arch)
        flag = {"version_compatible": True} if version_compatible else {}
        assert {key: getattr(value, "name", value) for key, value in made.items()} == {**arguments, **flag}


@pytest.mark.parametrize(
    ("options", "arch", "sentence"),
    [
        (
            Options(compatibility=SAME_CAPABILITY),
            Arch.SM86,
            "--compatibility same-capability: TensorRT 8.6.1.6 has no such level. "
            "Use one that it has: none, ampere-plus.",
        ),
        (
            Options(compatibility=AMPERE_PLUS),
            Arch.SM75,
            "--compatibility ampere-plus: sm75 is Turing, and such an engine is built on Ampere or later for Ampere "
            "and later. Use --compatibility none, or build on another architecture.",
        ),
    ],
)
def test_compatibility_that_cannot_be(options: Options, arch: Arch, sentence: str) -> None:
    with pytest.raises(SettingError) as refusal:
        dialect.compatibility_arguments(fake(LEGACY), options, arch)
    assert str(refusal.value) == sentence


def test_a_library_without_any_compatibility() -> None:
    bare: Any = ModuleType("tensorrt")
    bare.__version__, bare.BuilderFlag = "8.5.3.1", fake(LEGACY).DataType
    for options, sentence in (
        (
            Options(compatibility=AMPERE_PLUS),
            "--compatibility ampere-plus: TensorRT 8.5.3.1 has no such level. Use one that it has: none.",
        ),
        (
            Options(version_compatible=True),
            "--version-compatible: TensorRT 8.5.3.1 makes no such engines. Leave it out.",
        ),
    ):
        with pytest.raises(SettingError) as refusal:
            dialect.compatibility_arguments(bare, options, Arch.SM80)
        assert str(refusal.value) == sentence


@pytest.mark.parametrize(
    ("version", "opset", "refused"),
    [(LEGACY, 17, False), (LEGACY, 18, True), (TEN, 18, False), (ELEVEN, 25, False), (ELEVEN, 26, True)],
)
def test_opsets(tmp_path: Any, version: str, opset: int, refused: bool) -> None:
    export(tmp_path, "diar_standard")
    (job,) = jobs(tmp_path, "diar_standard")
    job = dataclasses.replace(job, arch=Arch.SM80, record=dataclasses.replace(job.record, opset=opset))
    check: Callable[[], None] = lambda: dialect.check_opset(fake(version), job)  # noqa: E731
    if not refused:
        check()
        return
    with pytest.raises(CompileError) as refusal:
        check()
    largest, build = ("17", "8.6.1.6") if version == LEGACY else ("25", ELEVEN)
    assert str(refusal.value) == (
        f"diar_standard batch for sm80: the graph has ONNX opset {opset}, and the parser of TensorRT {build} reads up "
        f"to {largest}. Build for a platform whose TensorRT reads it."
    )


@pytest.mark.parametrize(("version", "name"), [(LEGACY, "device_memory_size"), (ELEVEN, "device_memory_size_v2")])
def test_device_memory(version: str, name: str) -> None:
    made = type("ICudaEngine", (), {name: 7})()
    assert name in NAMES[{LEGACY: "8.6.0"}.get(version, version)]["classes"]["ICudaEngine"]
    assert dialect.device_memory_bytes(made) == 7
