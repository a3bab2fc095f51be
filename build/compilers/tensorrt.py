"""TensorRT: makes the plans that Triton's tensorrt backend serves, on a GPU of the very architecture."""

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


def check(arch: Arch, platform: Platform, wanted: Options) -> None:
    """Refuse a host without a GPU of the architecture, or without the platform's TensorRT, and what neither can do."""
    subject = f"--arch {arch.value}"
    if arch is Arch.CPU:
        raise CompilerUnavailableError(subject, "TensorRT makes engines for GPUs only", "Leave --compiler out")
    if platform.tensorrt is None:
        raise CompilerUnavailableError(
            f"--platform {platform.name}", "it carries no TensorRT", f"Use --platform {PLATFORM} with {subject}"
        )
    dialect.check_arch(wanted, arch)
    preflight.check_gpu(arch, platform.name)
    remedy = f"Run the same command inside the container of platform {platform.name}"
    if importlib.util.find_spec("tensorrt") is None:
        raise CompilerUnavailableError(
            subject, "TensorRT is not installed here", f"{remedy}, which carries {platform.tensorrt}"
        )
    library = _library()
    build = dialect.build_number(library)
    if build != platform.tensorrt:
        cause = f"its TensorRT is {platform.tensorrt}, this host has {build}, and a plan loads in the same build only"
        raise CompilerUnavailableError(f"--platform {platform.name}", cause, remedy)
    dialect.compatibility_arguments(library, wanted, arch)


def precision() -> str:
    """GPUs compute in FP16."""
    return "fp16"


def toolchain() -> dict[str, str]:
    """Name the libraries that decide an engine."""
    from polygraphy import __version__  # noqa: PLC0415

    return {"tensorrt": dialect.build_number(_library()), "polygraphy": __version__}


def host() -> dict[str, str]:
    """Name the GPU that kernels are measured on, and its driver."""
    found = _gpu()
    return {"gpu": found.name, "driver": found.driver}


def prepare(wanted: Options) -> None:
    """Begin the cache of timings where there is none: which one it is decides every engine."""
    cache = _cache(wanted)
    if cache is not None:
        cache.begin()


def options(wanted: Options) -> dict[str, Any]:
    """Give the choices, TF32 that is off (what a graph calls FP32 is computed in FP32), and the cache of timings."""
    cache = _cache(wanted)
    return {
        "tf32": False,
        "types": "of the graph" if dialect.keeps_types(_library()) else "FP16, and FP32 where the graph has it",
        "workspace_bytes": wanted.workspace_bytes,
        "optimization_level": wanted.optimization_level,
        "compatibility": wanted.compatibility,
        "version_compatible": wanted.version_compatible,
        "timing_cache": None if cache is None else cache.identity(),
    }


def compile(job: Job, target: Path, wanted: Options) -> Compiled:  # noqa: A001 - the protocol's verb
    """Write a plan and what TensorRT's inspector says of it, and read back from the plan what it is."""
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
        profiles=polygraphy.engine_profiles(engine, library),
        device_memory_bytes=dialect.device_memory_bytes(engine),
        files=(inspection,),
    )


def run(engine: Path, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run a plan on several inputs, each in the first profile that holds it; outputs by name."""
    return list(stream(engine, inputs))


def stream(engine: Path, inputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Run a plan on inputs that may depend on the outputs before them."""
    library = _library()
    from polygraphy.backend.trt import TrtRunner  # noqa: PLC0415

    loaded = _load(engine)
    profiles = polygraphy.engine_profiles(loaded, library)
    active = 0
    with TrtRunner(loaded) as runner:
        for feed in inputs:
            index = _profile_of(profiles, feed, engine)
            if index != active:
                runner.set_profile(index)
                active = index
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
            **dialect.compatibility_arguments(library, wanted, job.arch),
        )

    with dialect.readable(library, job) as readable:
        polygraphy.compile_network(
            readable,
            config,
            target,
            strongly_typed=dialect.keeps_types(library),
            prepare=lambda network: dialect.pin(library, network),
            timing=measured,
        )


def _cache(wanted: Options) -> timing.TimingCache | None:
    if wanted.timing is None:
        return None
    owner = timing.Owner(tensorrt=dialect.build_number(_library()), gpu=_gpu().name)
    return timing.cache(wanted.timing, owner)


def _check_cache(cache: timing.TimingCache, measured: Path) -> None:
    # Polygraphy does not look at what TensorRT answers, and TensorRT then builds without the cache.
    library = _library()
    from polygraphy.backend.trt import get_trt_logger  # noqa: PLC0415

    config = library.Builder(get_trt_logger()).create_builder_config()
    if not config.set_timing_cache(config.create_timing_cache(measured.read_bytes()), ignore_mismatch=False):
        raise cache.foreign()


def _load(path: Path) -> Any:
    # Not Polygraphy's EngineFromPath: it streams, which TensorRT 8.6 cannot.
    from polygraphy.backend.trt import EngineFromBytes  # noqa: PLC0415

    return EngineFromBytes(path.read_bytes())()


def _profile_of(profiles: tuple[Profile, ...], feed: dict[str, Any], engine: Path) -> int:
    for index, profile in enumerate(profiles):
        if all(
            len(shapes.min) == len(feed[name].shape)
            and all(
                least <= size <= most
                for least, size, most in zip(shapes.min, feed[name].shape, shapes.max, strict=True)
            )
            for name, shapes in profile.items()
        ):
            return index
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
    model, mode = engine.parts[-3:-1]
    remedy = f"Run `python -m export --model {model} --force`, which makes inputs that fit the catalogue"
    raise CompileError(f"{model} {mode}", f"none of the engine's profiles holds {shapes}", remedy)


def _gpu() -> preflight.Gpu:
    found = preflight.gpu()
    if found is None:
        raise CompilerUnavailableError(
            "GPU", "it is gone", "See what `nvidia-smi` says, and run the same command again"
        )
    return found


def _library() -> Any:
    polygraphy.bind(NAME)
    import tensorrt  # noqa: PLC0415

    return tensorrt
