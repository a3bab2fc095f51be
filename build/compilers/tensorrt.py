"""TensorRT: build the plans that Triton's tensorrt backend serves, on a GPU of the same architecture."""

import importlib.util
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from build import preflight
from build.compilers import Compiled, dialect, polygraphy, timing
from build.job import Job
from build.options import Options
from contract.arch import Arch
from contract.errors import CompileError, CompilerUnavailableError
from contract.manifest import Profile
from contract.platform import Platform

NAME = "tensorrt"
FILE = "model.plan"
INSPECTION = "layers.json"
PLATFORM = "26.08"
RUNS_HERE = True
_STRONG, _PINNED = "of the graph", "FP16, and FP32 where the graph has it"


def check(arch: Arch, platform: Platform, wanted: Options) -> None:
    """Reject a host without a GPU of the architecture or the platform's TensorRT, and options they do not support."""
    subject = f"--arch {arch.value}"
    if arch is Arch.CPU:
        raise CompilerUnavailableError(subject, "TensorRT builds engines for GPUs only", "Omit --compiler")
    if platform.tensorrt is None:
        raise CompilerUnavailableError(
            f"--platform {platform.name}", "it has no TensorRT", f"Use --platform {PLATFORM} with {subject}"
        )
    dialect.check_arch(wanted, arch)
    preflight.check_gpu(arch, platform.name)
    remedy = f"Run the same command inside the container of platform {platform.name}"
    if importlib.util.find_spec("tensorrt") is None:
        raise CompilerUnavailableError(
            subject, "TensorRT is not installed here", f"{remedy}, which has {platform.tensorrt}"
        )
    library = _library()
    build = dialect.build_number(library)
    if build != platform.tensorrt:
        cause = f"its TensorRT is {platform.tensorrt}, this host has {build}, and a plan loads only in the same build"
        raise CompilerUnavailableError(f"--platform {platform.name}", cause, remedy)
    dialect.compatibility_arguments(library, wanted, arch)


def precision() -> str:
    """Return fp16, the precision that GPUs compute in."""
    return "fp16"


def toolchain() -> dict[str, str]:
    """Return names and versions of the libraries that determine an engine."""
    from polygraphy import __version__  # noqa: PLC0415

    return {"tensorrt": dialect.build_number(_library()), "polygraphy": __version__}


def host() -> dict[str, str]:
    """Return the GPU that kernels are timed on, and its driver."""
    found = _gpu()
    return {"gpu": found.name, "driver": found.driver}


def prepare(wanted: Options) -> None:
    """Create the timing cache where there is none, because its identity determines every engine."""
    cache = _cache(wanted)
    if cache is not None:
        cache.begin()


def options(wanted: Options) -> dict[str, Any]:
    """Return the options, the timing cache and TF32, which is off: what the graph has in FP32 is computed in FP32."""
    cache = _cache(wanted)
    return {
        "tf32": False,
        "types": "of the graph"
        if dialect.supports_strong_typing(_library())
        else "FP16, and FP32 where the graph has it",
        "workspace_bytes": wanted.workspace_bytes,
        "optimization_level": wanted.optimization_level,
        "compatibility": wanted.compatibility,
        "version_compatible": wanted.version_compatible,
        "timing_cache": None if cache is None else cache.identity(),
    }


def compile(job: Job, target: Path, wanted: Options) -> Compiled:  # noqa: A001 - the protocol's verb
    """Write a plan and the output of TensorRT's inspector; return the properties read back from the plan."""
    library = _library()
    cache = _cache(wanted)
    if cache is None:
        _build(job, target, wanted, None)
    else:
        with cache.held(), tempfile.TemporaryDirectory() as folder:
            measured = Path(folder) / "timing"
            measured.write_bytes(cache.content())
            _check_cache(cache, measured)
            _build(job, target, wanted, measured)
            cache.save(measured.read_bytes())
    engine = _load(target)
    inputs, outputs = polygraphy.engine_tensors(engine, library)
    inspection = target.with_name(INSPECTION)
    inspection.write_text(engine.create_engine_inspector().get_engine_information(library.LayerInformationFormat.JSON))
    return Compiled(
        inputs=inputs,
        outputs=outputs,
        profile=polygraphy.engine_profile(engine, library),
        device_memory_bytes=dialect.device_memory_bytes(engine),
        files=(inspection,),
    )


def run(engine: Path, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run a plan on several inputs; return the outputs by name."""
    return list(stream(engine, inputs))


def stream(engine: Path, inputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Run a plan on inputs that may depend on earlier outputs; raise CompileError for one outside its profile."""
    library = _library()
    from polygraphy.backend.trt import TrtRunner  # noqa: PLC0415

    loaded = _load(engine)
    profile = polygraphy.engine_profile(loaded, library)
    with TrtRunner(loaded) as runner:
        for feed in inputs:
            _check_shapes(profile, feed, engine)
            yield {name: array.copy() for name, array in runner.infer(feed).items()}


def _build(job: Job, target: Path, wanted: Options, measured: Path | None) -> None:
    library = _library()
    from polygraphy.backend.trt import CreateConfig  # noqa: PLC0415

    def config(profiles: Any) -> Any:
        return CreateConfig(
            profiles=profiles,
            tf32=False,
            memory_pool_limits={library.MemoryPoolType.WORKSPACE: wanted.workspace_bytes},
            builder_optimization_level=wanted.optimization_level,
            profiling_verbosity=library.ProfilingVerbosity.DETAILED,
            load_timing_cache=None if measured is None else str(measured),
            **dialect.precision_arguments(library),
            **dialect.tactic_arguments(library),
            **dialect.compatibility_arguments(library, wanted, job.arch),
        )

    with dialect.with_supported_opset(library, job) as supported:
        polygraphy.compile_network(
            supported,
            config,
            target,
            strongly_typed=dialect.supports_strong_typing(library),
            prepare=lambda network: dialect.pin_fp32_layers(library, network),
            timing=measured,
        )


def _cache(wanted: Options) -> timing.TimingCache | None:
    if wanted.timing is None:
        return None
    owner = timing.Owner(tensorrt=dialect.build_number(_library()), gpu=_gpu().name)
    return timing.cache(wanted.timing, owner)


def _check_cache(cache: timing.TimingCache, measured: Path) -> None:
    # Polygraphy ignores the result of set_timing_cache, and TensorRT would then build without the cache.
    library = _library()
    from polygraphy.backend.trt import get_trt_logger  # noqa: PLC0415

    config = library.Builder(get_trt_logger()).create_builder_config()
    if not config.set_timing_cache(config.create_timing_cache(measured.read_bytes()), ignore_mismatch=False):
        raise cache.rejected()


def _load(path: Path) -> Any:
    # Not Polygraphy's EngineFromPath: it streams the file, which TensorRT 8.6 does not support.
    from polygraphy.backend.trt import EngineFromBytes  # noqa: PLC0415

    return EngineFromBytes(path.read_bytes())()


def _check_shapes(profile: Profile, feed: dict[str, Any], engine: Path) -> None:
    fits = all(
        len(shapes.min) == len(feed[name].shape)
        and all(
            least <= size <= most for least, size, most in zip(shapes.min, feed[name].shape, shapes.max, strict=True)
        )
        for name, shapes in profile.items()
    )
    if not fits:
        found = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
        model, mode = engine.parts[-3:-1]
        remedy = f"Run `python -m export --model {model} --force`, which writes inputs that fit the catalogue"
        raise CompileError(f"{model} {mode}", f"{found} is outside the engine's profile", remedy)


def _gpu() -> preflight.Gpu:
    found = preflight.gpu()
    if found is None:
        raise CompilerUnavailableError(
            "GPU",
            "it was found before and is now missing",
            "Check it with `nvidia-smi`, and run the same command again",
        )
    return found


def _library() -> Any:
    polygraphy.bind(NAME)
    import tensorrt  # noqa: PLC0415

    return tensorrt
