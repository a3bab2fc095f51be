"""The whole TensorRT build with a fake GPU driver and a fake TensorRT that has the names of a real version."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from build.compilers.timing import Owner, TimingCache, cache
from contract import manifest
from contract.manifest import ShapeRange
from tests.fakes.driver import A10, build_host, fake_driver, needs_bindings, python
from tests.fakes.tensorrt import NAMES, STAND_INS
from tests.integration.networks import network
from tests.unit.engines.exported import export

pytestmark = needs_bindings
MODELS = ("am_en_standard", "body_standard")
LEGACY, CURRENT = ("23.12", "8.6.1"), ("26.08", "11.2.1.2")
GIBIBYTE = 1 << 30
IMAGES = {
    "26.08": "NVIDIA's image nvcr.io/nvidia/tensorrt:26.08-py3, or in the image target `builder`",
    "23.12": "an image of your own with TensorRT 8.6.1.6 and Python 3.11",
}


class Host:
    """A host with an A10 and a TensorRT, some exported graphs, and a folder for bundles."""

    def __init__(self, folder: Path, platform: str, tensorrt: str, **macros: str) -> None:
        self.folder, self.platform, self.tensorrt = folder, platform, tensorrt
        self.libraries = folder / "host"
        self.libraries.mkdir(parents=True)
        build_host(self.libraries, tensorrt, **{**A10, **macros})
        # A build host has no torch, which Polygraphy would otherwise import for a second in every process.
        (self.libraries / "packages" / "torch.py").write_text("raise ImportError('not installed on a build host')\n")
        for model in MODELS:
            export(folder / "onnx", model)

    def build(self, *options: str, arch: str = "sm86") -> subprocess.CompletedProcess[str]:
        return python(
            self.libraries,
            *("-m", "build.engines", "--arch", arch, "--mode", "batch", "--platform", self.platform),
            *("--onnx", str(self.folder / "onnx"), "--out", str(self.folder / "engines"), *options),
            VOXWRIGHT_CALLS=str(self.folder / "calls"),
        )

    def error(self, *options: str, code: int) -> str:
        result = self.build(*options)
        assert result.returncode == code, result.stderr
        return result.stderr.splitlines()[-1].removeprefix("error: ").replace(str(self.folder), "")

    @property
    def bundle(self) -> Path:
        return self.folder / "engines" / self.platform / "sm86"

    def timings(self) -> Path:
        (path,) = (self.folder / "store" / "timing").glob("*.cache")
        return path

    def inspection(self, model: str) -> Any:
        return json.loads((self.bundle / model / "batch" / "layers.json").read_text())


@pytest.fixture(scope="module", params=[LEGACY, CURRENT], ids=["legacy", "current"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Host:
    host = Host(tmp_path_factory.mktemp(request.param[0]), *request.param)
    result = host.build()
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[0] == "build sm86 on the GPU, NVIDIA A10 (sm86), driver 580.65.06"
    return host


def test_record_describes_the_engine(built: Host) -> None:
    made = manifest.load(built.bundle)
    full = {"8.6.1": "8.6.1.6"}.get(built.tensorrt, built.tensorrt)
    assert (made.platform, made.arch.value, made.toolchain["tensorrt"]) == (built.platform, "sm86", full)
    body = made.engines[1]
    assert (body.compiler, body.precision, body.gate.outcome) == ("tensorrt", "fp16", manifest.PASSED)
    # Three corners of the profile, and the real input.
    assert body.gate.reason == "4 inputs"
    assert body.inputs[0] == manifest.BoundTensor(name="audio", type="FP32", dims=(-1, -1))
    assert body.profile == {
        "audio": ShapeRange(min=(1, 32_000), opt=(8, 128_000), max=(16, 320_000)),
        "audio_lengths": ShapeRange(min=(1,), opt=(8,), max=(16,)),
    }
    assert body.device_memory_bytes == 1 << 20
    assert body.built_on == {"gpu": "NVIDIA A10", "driver": "580.65.06"}
    assert [each.file for each in body.files] == ["body_standard/batch/layers.json"]
    assert {each.file for each in made.every_file()} == {
        str(path.relative_to(built.bundle)) for path in built.bundle.rglob("*") if path.is_file()
    } - {manifest.MANIFEST_FILE}


def test_builder_receives_the_options(built: Host) -> None:
    inspection = built.inspection("am_en_standard")
    assert "TF32" not in inspection["flags"]
    assert inspection["limits"] == {"WORKSPACE": 4 * GIBIBYTE}
    assert inspection["settings"] == {"builder_optimization_level": 3, "profiling_verbosity": "DETAILED"}
    names = NAMES[STAND_INS.get(built.tensorrt, built.tensorrt)]["classes"]
    # The fake numbers its formats in the order of their names.
    linear = 1 << names["TensorFormat"].index("LINEAR")
    record = manifest.load(built.bundle).engines[0]
    assert inspection["formats"] == {tensor.name: linear for tensor in (*record.inputs, *record.outputs)}
    flags = names["NetworkDefinitionCreationFlag"]
    network_flags = [flag for index, flag in enumerate(flags) if inspection["network_flags"] >> index & 1]
    if built.platform == "23.12":
        assert network_flags == ["EXPLICIT_BATCH"]
        assert inspection["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
        # The layers that compute and sort log-probabilities, in FP32.
        assert inspection["pinned"] == ["log_probs", "top_log_probs"]
        # Without CUBLAS, CUBLAS_LT and CUDNN.
        assert inspection["tactics"] == 0b11000
    else:
        assert network_flags == ["STRONGLY_TYPED"]
        assert (inspection["flags"], inspection["pinned"], inspection["tactics"]) == ([], [], 0)


def test_key_contains_every_option(built: Host) -> None:
    parts = manifest.load(built.bundle).engines[0].key_parts
    head = json.loads(built.timings().read_bytes().partition(b"\n")[0])
    kept = {"23.12": "FP16, and FP32 where the graph has it", "26.08": "of the graph"}
    assert parts["options"] == {
        "tf32": False,
        "types": kept[built.platform],
        "workspace_bytes": 4 * GIBIBYTE,
        "optimization_level": 3,
        "compatibility": "none",
        "formats": "linear",
        "timing_cache": head["identity"],
    }
    assert parts["profile"]["encoder_lengths"] == {"min": [1], "opt": [8], "max": [16]}


def test_uses_only_names_of_the_real_library(built: Host) -> None:
    """Compare the calls of a build and of its gate, also those of Polygraphy, with the names in NVIDIA's wheel."""
    names = NAMES[STAND_INS.get(built.tensorrt, built.tensorrt)]["classes"]
    calls = [line.split(".") for line in (built.folder / "calls").read_text().splitlines()]
    assert [f"{kind}.{name}" for kind, name in calls if name not in names[kind]] == []
    if built.platform == "26.08":
        # TensorRT-RTX has the interface of TensorRT 11 and can be imported without a GPU.
        library = pytest.importorskip("tensorrt_rtx")
        assert [f"{kind}.{name}" for kind, name in calls if not hasattr(getattr(library, kind), name)] == []
    ours = {
        *("IBuilderConfig.set_memory_pool_limit", "IBuilderConfig.builder_optimization_level"),
        *("IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache", "ITimingCache.serialize"),
        *("ICudaEngine.get_tensor_profile_shape", "ICudaEngine.create_engine_inspector"),
        *("EngineInspector.get_engine_information", "IExecutionContext.execute_async_v3"),
    }
    assert ours <= {".".join(call) for call in calls}


def test_grown_timing_cache_keeps_engines_valid(tmp_path: Path) -> None:
    host = Host(tmp_path, *CURRENT)
    assert host.build("--model", "am_en_standard").returncode == 0
    first = host.timings().read_bytes()
    result = host.build()
    assert [line.split()[-1] == "unchanged" for line in result.stderr.splitlines()[1:3]] == [True, False], result.stderr
    assert host.timings().read_bytes() != first
    assert host.inspection("body_standard")["timings"] == first.partition(b"\n")[2].decode()
    assert [line.split()[-1] for line in host.build().stderr.splitlines()[1:3]] == ["unchanged", "unchanged"]
    # A file next to an engine belongs to the engine.
    (host.bundle / "am_en_standard" / "batch" / "layers.json").write_text("")
    result = host.build()
    assert [line.split()[-1] == "unchanged" for line in result.stderr.splitlines()[1:3]] == [False, True]


def test_new_timing_cache_and_other_options_make_other_engines(tmp_path: Path) -> None:
    host = Host(tmp_path, *CURRENT)
    keys = set()
    for options in ([], ["--workspace-gib", "1.5"], ["--compatibility", "same-capability"]):
        assert host.build("--model", "am_en_standard", *options).returncode == 0
        keys.add(manifest.load(host.bundle).engines[0].key)
    host.timings().unlink()
    # The new cache has other content, because another model is built first.
    assert host.build("--model", "body_standard").returncode == 0
    assert host.build("--model", "am_en_standard", "--optimization-level", "5").returncode == 0
    keys.add(manifest.load(host.bundle).engines[0].key)
    assert host.inspection("am_en_standard")["settings"]["builder_optimization_level"] == 5
    assert len(keys) == 4


def test_rejects_timing_cache_of_another_gpu(tmp_path: Path) -> None:
    host = Host(tmp_path, *CURRENT)
    assert host.build("--model", "am_en_standard").returncode == 0
    path = host.timings()
    path.write_bytes(path.read_bytes().replace(b'"NVIDIA A10"', b'"NVIDIA A40"', 1))
    assert host.error(code=31) == (
        "/store/timing/11.2.1.2-nvidia-a10.cache: it is the timing cache of TensorRT 11.2.1.2 on NVIDIA A40, "
        "and this build is for TensorRT 11.2.1.2 on NVIDIA A10. "
        "Remove the file: the next build measures the timings again."
    )


@pytest.mark.parametrize(
    "change",
    [lambda content: content.replace(b"on NVIDIA A10", b"on NVIDIA A10G"), lambda _: b"no timings"],
    ids=["another device", "damaged"],
)
def test_rejects_timing_cache_that_tensorrt_rejects(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    """The first line is correct, but TensorRT compares the properties of the device, and may not read the content."""
    host = Host(tmp_path, *CURRENT)
    assert host.build("--model", "am_en_standard").returncode == 0
    timings = _timings(host)
    timings.save(change(timings.content()))
    assert host.error("--force", code=31) == (
        "/store/timing/11.2.1.2-nvidia-a10.cache: TensorRT 11.2.1.2 rejects it as a timing cache for this "
        "NVIDIA A10. Remove the file: the next build measures the timings again."
    )


def _timings(host: Host) -> TimingCache:
    return cache(host.timings().parent, Owner(tensorrt="11.2.1.2", gpu="NVIDIA A10"))


@pytest.mark.parametrize(
    ("place", "macros", "needed", "found"),
    [
        (CURRENT, {"DRIVER": '"570.86.15"', "CUDA": "12080"}, "580 or later", "570.86.15"),
        (CURRENT, {"NVML": "absent", "CUDA": "12080"}, "580 or later", "of CUDA 12.8"),
        (
            LEGACY,
            {"DRIVER": '"530.41.03"', "CUDA": "12010"},
            "545 or later, or 470.57 or later of branch 470 with CUDA's compatibility library, "
            "or 525.85 or later of branch 525, or 535.86 or later of branch 535",
            "530.41.03",
        ),
    ],
)
def test_rejects_driver_that_is_too_old(
    tmp_path: Path, place: tuple[str, str], macros: dict[str, str], needed: str, found: str
) -> None:
    host = Host(tmp_path, *place, **macros)
    assert host.error(code=31) == (
        f"--platform {place[0]}: it needs driver {needed} on NVIDIA A10, and the driver here is {found}. "
        "Install such a driver, or build on another host."
    )
    assert not (tmp_path / "engines").exists()


def test_rejects_host_on_which_tensorrt_does_not_start(tmp_path: Path) -> None:
    """The version of the driver is supported, but TensorRT's builder still is a null pointer."""
    host = Host(tmp_path, *CURRENT, CUDA="12080")
    assert host.error(code=31) == (
        "TensorRT 11.2.1.2: it does not start on NVIDIA A10 with driver 580.65.06 "
        "(CUDA initialization failure with error: 35); platform 26.08 needs driver 580 or later. "
        "Check the GPU with `nvidia-smi`, install a newer driver, and run the same command again."
    )


@pytest.mark.parametrize(
    ("platform", "tensorrt", "wanted", "found"),
    [("26.08", "10.16.1.11", "11.2.1.2", "10.16.1.11"), ("23.12", "8.6.0", "8.6.1.6", "8.6.0")],
)
def test_rejects_another_tensorrt_build(tmp_path: Path, platform: str, tensorrt: str, wanted: str, found: str) -> None:
    host = Host(tmp_path, platform, tensorrt)
    assert host.error(code=31) == (
        f"--platform {platform}: its TensorRT is {wanted}, this host has {found}, and a plan loads only in the "
        f"same build. Run the same command in {IMAGES[platform]}."
    )
    assert not (tmp_path / "engines").exists()


def test_rejects_unsupported_compatibility_before_building(tmp_path: Path) -> None:
    host = Host(tmp_path, *LEGACY)
    assert host.error("--compatibility", "same-capability", code=10) == (
        "--compatibility same-capability: TensorRT 8.6.1.6 does not support this level. Use one of: none, ampere-plus."
    )
    assert not (tmp_path / "engines").exists()


def test_names_first_of_several_gpus(tmp_path: Path) -> None:
    host = Host(tmp_path, *CURRENT, GPUS="2")
    result = host.build("--model", "am_en_standard")
    assert result.stderr.splitlines()[0] == "build sm86 on GPU 0 of 2 visible, NVIDIA A10 (sm86), driver 580.65.06"


def test_driver_without_version(tmp_path: Path) -> None:
    """A container may have only the compute part of a driver."""
    host = Host(tmp_path, *CURRENT, NVML="absent")
    result = host.build("--model", "am_en_standard")
    assert result.stderr.splitlines()[0] == "build sm86 on the GPU, NVIDIA A10 (sm86), driver of CUDA 13.0"
    assert manifest.load(host.bundle).engines[0].built_on == {"gpu": "NVIDIA A10", "driver": "of CUDA 13.0"}


def test_rejects_busy_gpu(tmp_path: Path) -> None:
    host = Host(tmp_path, *CURRENT, FREE="3072")
    assert host.error(code=31) == (
        "GPU NVIDIA A10: it has 3.0 GiB of 22.1 GiB free, and this build may need 5.0 GiB, 4.0 GiB of them as "
        "workspace. Stop other processes on this GPU, or lower --workspace-gib."
    )
    assert host.build("--workspace-gib", "1").returncode == 0
    # A busy GPU does not matter when there is nothing to build.
    fake_driver(host.libraries, **{**A10, "FREE": "512"})
    assert host.build("--workspace-gib", "1").stderr.count("unchanged") == len(MODELS)
    assert host.error("--workspace-gib", "1", "--force", code=31).startswith("GPU NVIDIA A10: it has 0.5 GiB of 22.1")


def test_rejects_axis_that_the_graph_fixes(tmp_path: Path) -> None:
    host = Host(tmp_path, *CURRENT)
    graph = onnx.load_from_string(network("body_standard"))
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 800
    export(tmp_path / "onnx", "body_standard", graph.SerializeToString())
    assert host.error("--model", "body_standard", code=32) == (
        "body_standard batch for sm86: input 'audio' is [-1, 800] in the graph, and the profile requires "
        "[1, 32000] to [16, 320000]. "
        "Correct the network or model.toml, then run `python -m export --model body_standard --force`."
    )


def test_rejects_input_without_profile(tmp_path: Path) -> None:
    """Polygraphy would invent its shapes."""
    host = Host(tmp_path, *CURRENT)
    graph = onnx.load_from_string(network("body_standard"))
    extra = graph.graph.input.add()
    extra.CopyFrom(graph.graph.input[1])
    extra.name = "chunk"
    export(tmp_path / "onnx", "body_standard", graph.SerializeToString())
    assert host.error("--model", "body_standard", code=32) == (
        "body_standard batch for sm86: the graph has an input 'chunk', and the catalogue has no shapes for it. "
        "Correct the network or model.toml, then run `python -m export --model body_standard --force`."
    )


def test_rejects_type_lost_in_conversion(tmp_path: Path) -> None:
    host = Host(tmp_path, *CURRENT)
    graph = onnx.load_from_string(network("diar_standard"))
    graph.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    graph.graph.node[-1].output[0] = "exact"
    graph.graph.node.append(onnx.helper.make_node("Cast", ["exact"], ["embedding"], to=onnx.TensorProto.FLOAT16))
    export(tmp_path / "onnx", "diar_standard", graph.SerializeToString())
    assert host.error("--model", "diar_standard", code=32) == (
        "diar_standard batch: the engine's tensors are "
        "{'audio': 'FP32', 'audio_lengths': 'INT32', 'embedding': 'FP16'}, and the catalogue's are "
        "{'audio': 'FP32', 'audio_lengths': 'INT32', 'embedding': 'FP32'}. "
        "Correct the network or model.toml, so that names and types are equal."
    )


def test_parser_rejects_file_that_is_no_graph(tmp_path: Path) -> None:
    host = Host(tmp_path, *CURRENT)
    export(tmp_path / "onnx", "body_standard", b"not an ONNX graph")
    refusal = host.error("--model", "body_standard", code=32)
    assert refusal.startswith(
        "body_standard batch for sm86: the compiler rejects the graph (In node -1 (importModel): "
    )
    assert refusal.endswith("). Change the network so that it exports without that operator.")


def test_converts_graph_to_supported_opset(tmp_path: Path) -> None:
    """The fake parser reads any opset; test_dialect.py checks the graph that it receives."""
    host = Host(tmp_path, *LEGACY)
    path = tmp_path / "onnx" / "body_standard" / "record.json"
    path.write_text(path.read_text().replace('"opset": 17', '"opset": 18'))
    host.build("--model", "body_standard")


def test_names_inputs_outside_the_profile(tmp_path: Path) -> None:
    host = Host(tmp_path, *CURRENT)
    source, target = (tmp_path / "onnx" / model / "batch-samples.npz" for model in ("body_standard", "am_en_standard"))
    script = (
        "import numpy, sys\n"
        "numpy.savez(sys.argv[1], **{'audio.0': numpy.zeros((1, 9600), 'float32'),"
        " 'audio_lengths.0': numpy.ones(1, 'int32')})"
    )
    assert python(None, "-c", script, str(source)).returncode == 0
    assert target.exists()
    assert host.error("--model", "body_standard", code=32) == (
        "body_standard batch: audio [1, 9600], audio_lengths [1] is outside the engine's profile. "
        "Run `python -m export --model body_standard --force`, which writes inputs that fit the catalogue."
    )
