"""Everything that the proof uses of `build`: the target, one engine at a time, its record, its plan."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from build import engines, preflight
from build.bundle import Target
from build.compilers import compiler, dialect, polygraphy
from build.job import Job
from build.options import Options
from build.planning import plan
from contract.arch import Arch
from contract.catalogue import Family, Mode, read_catalogue
from contract.errors import BundleError, CompilerUnavailableError, GpuError
from contract.graph import RECORD_FILE
from contract.graph import load as load_record
from contract.manifest import MANIFEST_FILE, EngineRecord
from contract.manifest import load as load_manifest
from contract.platform import Platform, platforms

COMPILER = "tensorrt"
PLAN, LAYERS = "model.plan", "layers.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A plan of the proof, and what its inputs look like."""

    model: str
    family: Family
    """As it is in the mode."""
    mode: Mode
    dims: dict[str, int]
    plan: Path
    record: EngineRecord | None
    """None for a plan that did not pass its gate: it is measured all the same."""

    @property
    def name(self) -> str:
        """Name the engine for people and for files: `body_standard-batch`."""
        return f"{self.model}-{self.mode.name}"

    @property
    def job_name(self) -> str:
        """Name the engine as its job does: `body_standard batch`."""
        return f"{self.model} {self.mode.name}"


def check_gpu(wanted: Arch | None) -> preflight.Gpu:
    """Return the GPU; raise GpuError where there is none, CompilerUnavailableError for another architecture."""
    found = preflight.gpu()
    if found is None:
        raise GpuError("GPU", "no GPU was found here", "Run it on a host with a GPU; see what `nvidia-smi` prints")
    if wanted is not None and found.arch is not wanted:
        cause = f"the GPU here is {found.name}, which is {found.arch.value}"
        raise CompilerUnavailableError(f"--arch {wanted.value}", cause, "Leave --arch out, or use the other GPU")
    return found


def library() -> Any:
    """Return the module of TensorRT, to which Polygraphy is bound; raise CompilerUnavailableError without one."""
    try:
        import tensorrt  # noqa: PLC0415 - only the steps on a GPU need it
    except ImportError as error:
        remedy = "Run it inside NVIDIA's TensorRT container of the platform"
        raise CompilerUnavailableError("tensorrt", f"it cannot be imported ({error})", remedy) from error
    polygraphy.bind(COMPILER)
    return tensorrt


def cuda_runtime() -> dict[str, str]:
    """Load the CUDA runtime library that Polygraphy runs engines with; raise CompilerUnavailableError without one."""
    library()
    from polygraphy import cuda  # noqa: PLC0415 - it looks for the library
    from polygraphy.exception import PolygraphyException  # noqa: PLC0415

    try:
        return {"library": str(cuda.wrapper().handle._name)}  # noqa: SLF001 - a ctypes handle has no other name
    except (OSError, PolygraphyException) as error:
        cause = f"Polygraphy, which runs the gate, finds no CUDA runtime ({' '.join(str(error).split())})"
        remedy = "Name the folder of libcudart.so with LD_LIBRARY_PATH"
        raise CompilerUnavailableError("libcudart.so", cause.rstrip("."), remedy) from error


def platform_of(name: str | None, *, accept_tensorrt: bool) -> Platform:
    """Return the platform to build for: the named one, or the one that has the installed TensorRT.

    With `accept_tensorrt`, a platform of the same major version takes the installed TensorRT for its own.
    """
    build = dialect.build_number(library())
    known = {each.name: each for each in platforms().values() if each.tensorrt and name in (None, each.name)}
    exact = [each for each in known.values() if each.tensorrt == build]
    alike = [each for each in known.values() if str(each.tensorrt).partition(".")[0] == build.partition(".")[0]]
    if exact or (accept_tensorrt and alike):
        return exact[0] if exact else replace(alike[0], tensorrt=build)
    cause = f"no platform has TensorRT {build}" if name is None else f"its TensorRT is another one than {build}"
    remedy = "Use the TensorRT container of a platform, or measure with --accept-tensorrt"
    raise CompilerUnavailableError(f"--platform {name}" if name else "TensorRT", cause, remedy)


def target_of(out: Path, arch: Arch, place: Platform) -> Target:
    """Return where bundles below `out` go and how they are built; the compiler's own checks are `platform_of`'s."""
    store = out / "store"
    return Target(
        catalogue=read_catalogue(),
        folder=out / place.name / arch.value,
        platform=place,
        arch=arch,
        compiler=compiler(COMPILER, arch),
        store=store,
        options=Options(timing=store / "timing"),
    )


def jobs(onnx: Path, arch: Arch, names: tuple[str, ...] = ()) -> list[Job]:
    """List the engines of exported models in every mode; raise GraphError where nothing was exported."""
    return plan(read_catalogue(), onnx, arch, compiler(COMPILER, arch), names)


def build_engine(target: Target, job: Job) -> dict[str, Any]:
    """Build one engine into the bundle and hold it against its graph; return what is recorded of it."""
    engines.build(target, [job])
    record = next(each for each in _records(target.folder) if (each.model, each.mode) == _place(job))
    return {
        "build_s": record.build_seconds,
        "size_bytes": record.size_bytes,
        "device_memory_bytes": record.device_memory_bytes,
        "built_on": record.built_on,
        "gate": record.gate.outcome,
    }


def compile_plan(target: Target, job: Job, folder: Path) -> dict[str, Any]:
    """Compile a plan without its gate, with the inspector's output beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    target.compiler.prepare(target.options)
    started = time.monotonic()
    compiled = target.compiler.compile(job, folder / PLAN, target.options)
    return {
        "build_s": round(time.monotonic() - started, 3),
        "size_bytes": (folder / PLAN).stat().st_size,
        "device_memory_bytes": compiled.device_memory_bytes,
        "gate": "not run",
    }


def ungated_folder(out: Path, job: Job) -> Path:
    """Return the folder of a plan that did not pass its gate."""
    return out / "ungated" / job.record.model / job.mode.name


def built(bundles: Path, onnx: Path) -> list[Built]:
    """List the plans of a proof, those of the bundle first; raise BundleError where there is none."""
    found = {(each.model, each.mode.name): each for each in (*_ungated(bundles.parent, onnx), *_bundled(bundles))}
    if not found:
        raise BundleError(bundles, "it holds no engine", "Run the step build first")
    return [each for _, each in sorted(found.items())]


def load(plan: Path) -> Any:
    """Deserialise a plan; raise CompilerUnavailableError without TensorRT."""
    library()
    from polygraphy.backend.trt import EngineFromBytes  # noqa: PLC0415 - it imports TensorRT

    return EngineFromBytes(plan.read_bytes())()


def build_plain(graph: Path, plan: Path) -> None:
    """Compile an ONNX file of fixed shapes in the types that it states."""
    tensorrt = library()
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath  # noqa: PLC0415

    network = NetworkFromOnnxPath(str(graph), strongly_typed=dialect.supports_strong_typing(tensorrt))
    arguments = {**dialect.precision_arguments(tensorrt), **dialect.tactic_arguments(tensorrt)}
    config = CreateConfig(tf32=False, **arguments)
    plan.write_bytes(bytes(EngineBytesFromNetwork(network, config=config)()))


def _place(job: Job) -> tuple[str, str]:
    return job.record.model, job.mode.name


def _records(folder: Path) -> tuple[EngineRecord, ...]:
    return load_manifest(folder).engines


def _bundled(bundles: Path) -> Iterator[Built]:
    for manifest in sorted(bundles.glob(f"*/*/{MANIFEST_FILE}")):
        for record in _records(manifest.parent):
            family = read_catalogue().families[record.family].in_mode(record.mode)
            yield Built(
                model=record.model,
                family=family,
                mode=family.modes[record.mode],
                dims=record.dims,
                plan=manifest.parent / record.file,
                record=record,
            )


def _ungated(out: Path, onnx: Path) -> Iterator[Built]:
    for path in sorted((out / "ungated").glob(f"*/*/{PLAN}")):
        model, mode = path.parts[-3:-1]
        if (onnx / model / RECORD_FILE).is_file():
            record = load_record(onnx / model)
            family = read_catalogue().families[record.family].in_mode(mode)
            yield Built(model=model, family=family, mode=family.modes[mode], dims=record.dims, plan=path, record=None)
