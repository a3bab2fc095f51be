"""Check the host before a build: its GPU as the driver reports it, free disk space and free GPU memory."""

import platform as platform_module
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from build import images
from build.job import Job
from build.options import Options
from build.units import GIBIBYTE, gibibytes
from contract import gpu_driver
from contract.arch import Arch, ComputeCapability
from contract.errors import CompilerUnavailableError, GpuError, OutputError
from contract.gpu_driver import CudaDriver
from contract.platform import Platform, Version, format_version, parse_version, requirements

# An engine is about as large as its graph; the rest is for the inspector's output and the file being written.
_DISK_PER_GRAPH = 2
# The weights of the graph, of the engine, and those that the builder converts to another layout.
_MEMORY_PER_GRAPH = 3
_CUDA_CONTEXT_BYTES = GIBIBYTE


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """The GPU that a build uses: the first visible GPU."""

    name: str
    capability: ComputeCapability
    visible: int
    """How many GPUs are visible to this process."""
    driver: str
    """The driver's version, such as 580.95.05; where that is not available, the CUDA version that it supports."""
    cuda: Version
    """The newest CUDA version that the driver library supports."""

    @property
    def arch(self) -> Arch:
        """Return its architecture; raise GpuError for one that Voxwright does not build for."""
        return Arch.from_capability(self.capability, self.name)

    def __str__(self) -> str:
        which = f"GPU 0 of {self.visible} visible" if self.visible > 1 else "the GPU"
        return f"{which}, {self.name} ({self.arch.value}), driver {self.driver}"


def gpu() -> Gpu | None:
    """Return the first visible GPU; None without a GPU, a driver or cuda-bindings.

    Raises GpuError for a driver that does not start or that is too old for cuda-bindings.
    """
    driver = _driver()
    visible = 0 if driver is None else driver.device_count
    if driver is None or visible == 0:
        return None
    first = driver.device(0)
    return Gpu(
        name=first.name,
        capability=first.capability,
        visible=visible,
        driver=_driver_version(driver),
        cuda=driver.cuda,
    )


def check_gpu(arch: Arch, place: Platform) -> Gpu:
    """Return the GPU of a build; raise CompilerUnavailableError unless it has the architecture."""
    found = gpu()
    if found is not None and found.arch is arch:
        return found
    here = "no GPU was found here"
    if found is not None:
        which = f"the first of the {found.visible} visible GPUs" if found.visible > 1 else "the GPU here"
        here = f"{which} is {found.name}, {found.arch.value}"
    several = found is not None and found.visible > 1
    choose = "Select the GPU with CUDA_VISIBLE_DEVICES, or run" if several else "Run"
    raise CompilerUnavailableError(
        f"--arch {arch.value}",
        f"TensorRT needs an {arch.value} GPU ({arch.example_gpus}) to build for it, and {here}",
        f"{choose} the same command on a host with such a GPU in {images.described(place)}, "
        f"or prove here that the graphs compile with `--compiler tensorrt_rtx`",
    )


def check_driver(found: Gpu, place: Platform) -> None:
    """Raise CompilerUnavailableError for a driver that is too old for a platform's TensorRT."""
    centre = requirements().is_data_centre(found.name)
    version = parse_version(found.driver)
    admitted = (
        place.admits_cuda(found.cuda, data_centre=centre)
        if version is None
        else place.admits_driver(version, found.cuda, data_centre=centre)
    )
    if not admitted:
        needed = place.supported_drivers(data_centre=centre)
        raise CompilerUnavailableError(
            f"--platform {place.name}",
            f"it needs driver {needed} on {found.name}, and the driver here is {found.driver}",
            "Install such a driver, or build on another host",
        )


def check_disk(jobs: Iterable[Job], folder: Path) -> None:
    """Raise OutputError unless the file system of a folder has room for the engines of all jobs."""
    wanted = _DISK_PER_GRAPH * sum(_graph_bytes(job) for job in jobs)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < wanted:
        cause = f"its file system has {gibibytes(free)} free, and these engines may need {gibibytes(wanted)}"
        raise OutputError(folder, cause, "Free some space, or name a folder elsewhere with --out")


def check_memory(jobs: Iterable[Job], options: Options) -> None:
    """Raise CompilerUnavailableError unless the GPU has room for the largest of the jobs; no jobs need no room."""
    largest = max((_graph_bytes(job) for job in jobs), default=None)
    if largest is None:
        return
    wanted = options.workspace_bytes + _MEMORY_PER_GRAPH * largest + _CUDA_CONTEXT_BYTES
    found, driver = gpu(), _driver()
    if found is None or driver is None:
        return
    free, total = driver.memory()
    if free < wanted:
        cause = (
            f"it has {gibibytes(free)} of {gibibytes(total)} free, and this build may need {gibibytes(wanted)}, "
            f"{gibibytes(options.workspace_bytes)} of them as workspace"
        )
        remedy = "Stop other processes on this GPU, or lower --workspace-gib"
        raise CompilerUnavailableError(f"GPU {found.name}", cause, remedy)


def processor() -> str:
    """Return this host's processor, such as `Intel(R) Xeon(R) Platinum 8481C`; its architecture where unknown."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform_module.machine()


def _graph_bytes(job: Job) -> int:
    graph = job.known_graph(job.exported)
    return graph.total_bytes if graph else 0


def _driver() -> CudaDriver | None:
    loaded = gpu_driver.load()
    if isinstance(loaded, CudaDriver):
        return loaded
    if loaded.cuda is not None:
        raise GpuError("NVIDIA driver", loaded.reason, loaded.remedy)
    return None


def _driver_version(driver: CudaDriver) -> str:
    # NVML is absent in a container that has only the compute part of the driver.
    with gpu_driver.open_nvml() as (nvml, reason):
        version, _ = gpu_driver.kernel_version(nvml, reason)
    return version or f"of CUDA {format_version(driver.cuda)}"
