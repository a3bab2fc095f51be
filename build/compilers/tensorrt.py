"""TensorRT: build the plans that Triton's tensorrt backend serves, on a GPU of the same architecture."""

import contextlib
import importlib.util
import io
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from build import images, preflight
from build.compilers import Compiled, dialect, polygraphy, timing
from build.job import Job
from build.options import Options
from contract.arch import Arch
from contract.errors import CompileError, CompilerUnavailableError
from contract.manifest import Profile
from contract.platform import Platform, platforms, requirements

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
    preflight.check_driver(preflight.check_gpu(arch, platform), platform)
    remedy = f"Run the same command in {images.described(platform)}"
    if importlib.util.find_spec("tensorrt") is None:
        raise CompilerUnavailableError(subject, f"TensorRT {platform.tensorrt} is not installed here", remedy)
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
        "formats": "linear",
        "types": "of the graph"
        if dialect.supports_strong_typing(_library())
        else "FP16, and FP32 where the graph has it",
        "workspace_bytes": wanted.workspace_bytes,
        "optimization_level": wanted.optimization_level,
        "compatibility": wanted.compatibility,
        "timing_cache": None if cache is None else cache.identity(),
    }


def compile(job: Job, target: Path, wanted: Options) -> Compiled:  # noqa: A001 - the protocol's verb
    """Write a plan and the output of TensorRT's inspector; return the properties read back from the plan."""
    library = _library()
    cache = _cache(wanted)
    builder = _builder(library)
    if cache is None:
        _build(job, target, wanted, None)
    else:
        with cache.held(), tempfile.TemporaryDirectory() as folder:
            measured = Path(folder) / "timing"
            measured.write_bytes(cache.content())
            _check_cache(cache, builder, measured.read_bytes())
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

    def pin(network: Any) -> None:
        dialect.pin_fp32_layers(library, network)
        dialect.pin_formats(library, network)

    with dialect.with_supported_opset(library, job) as supported:
        polygraphy.compile_network(
            supported,
            config,
            target,
            strongly_typed=dialect.supports_strong_typing(library),
            prepare=pin,
            timing=measured,
        )


def _builder(library: Any) -> Any:
    from polygraphy.backend.trt import get_trt_logger  # noqa: PLC0415

    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            made = library.Builder(get_trt_logger())
    except TypeError:
        # createInferBuilder returned a null pointer, which pybind11 reports as a TypeError.
        made = None
    if made is None:
        raise _no_builder(dialect.build_number(library), polygraphy.first_error(output.getvalue()))
    return made


def _no_builder(build: str, reason: str) -> CompilerUnavailableError:
    found = _gpu()
    centre = requirements().is_data_centre(found.name)
    drivers = [
        f"platform {each.name} needs driver {each.supported_drivers(data_centre=centre)}"
        for each in platforms().values()
        if each.tensorrt == build
    ]
    cause = f"it does not start on {found.name} with driver {found.driver} ({reason or 'it states no reason'})"
    needed = "".join(f"; {each}" for each in drivers)
    remedy = "Check the GPU with `nvidia-smi`, install a newer driver, and run the same command again"
    return CompilerUnavailableError(f"TensorRT {build}", f"{cause}{needed}", remedy)


def _cache(wanted: Options) -> timing.TimingCache | None:
    if wanted.timing is None:
        return None
    owner = timing.Owner(tensorrt=dialect.build_number(_library()), gpu=_gpu().name)
    return timing.cache(wanted.timing, owner)


def _check_cache(cache: timing.TimingCache, builder: Any, content: bytes) -> None:
    # Polygraphy ignores the result of set_timing_cache, and TensorRT would then build without the cache.
    config = builder.create_builder_config()
    made = config.create_timing_cache(content)
    # TensorRT returns no cache for content that it cannot read.
    if made is None or not config.set_timing_cache(made, ignore_mismatch=False):
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
