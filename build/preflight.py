"""Check the host before a build: its GPU as the driver reports it, free disk space and free GPU memory."""

import platform as platform_module
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from build.job import Job
from build.options import Options
from build.units import GIBIBYTE, gibibytes
from contract.arch import Arch, ComputeCapability
from contract.errors import CompilerUnavailableError, GpuError, OutputError

_NAME_BYTES = 256
# The driver's status where there is no GPU; any other error means a broken installation.
_NO_GPU = ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_STUB_LIBRARY")
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

    @property
    def arch(self) -> Arch:
        """Return its architecture; raise GpuError for one that Voxwright does not build for."""
        return Arch.from_capability(self.capability, self.name)

    def __str__(self) -> str:
        which = f"GPU 0 of {self.visible} visible" if self.visible > 1 else "the GPU"
        return f"{which}, {self.name} ({self.arch.value}), driver {self.driver}"


def gpu() -> Gpu | None:
    """Return the first visible GPU; None without a GPU, a driver or cuda-bindings.

    Raises GpuError for a driver that does not start.
    """
    driver = _driver()
    visible = 0 if driver is None else _query(driver.cuDeviceGetCount)
    if driver is None or visible == 0:
        return None
    device = _query(driver.cuDeviceGet, 0)
    attributes = driver.CUdevice_attribute
    major = _query(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = _query(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    name = _query(driver.cuDeviceGetName, _NAME_BYTES, device).partition(b"\0")[0].decode(errors="replace")
    return Gpu(name=name, capability=(major, minor), visible=visible, driver=_driver_version(driver))


def check_gpu(arch: Arch, platform: str) -> Gpu:
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
        f"{choose} the same command on a host with such a GPU inside the container of platform {platform}, "
        f"or prove here that the graphs compile with `--compiler tensorrt_rtx`",
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
    with _context(driver):
        free, total = _query_pair(driver.cuMemGetInfo)
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
    return graph.size_bytes if graph else 0


def _driver() -> ModuleType | None:
    try:
        from cuda.bindings import driver  # noqa: PLC0415 - only hosts that build for a GPU need it
    except ImportError:
        return None
    try:
        status = driver.cuInit(0)[0]
    except RuntimeError:
        # The bindings load libcuda.so.1 at the first call: without that library there is no driver.
        return None
    if status.name in _NO_GPU:
        return None
    _check(status)
    return driver  # type: ignore[no-any-return]


def _driver_version(driver: ModuleType) -> str:
    try:
        import pynvml  # noqa: PLC0415 - only hosts that build for a GPU need it
    except ImportError:
        return _cuda_version(driver)
    try:
        pynvml.nvmlInitWithFlags(0)
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        # No libnvidia-ml.so.1, as in a container that has only the compute part of the driver.
        return _cuda_version(driver)


def _cuda_version(driver: ModuleType) -> str:
    version = _query(driver.cuDriverGetVersion)
    return f"of CUDA {version // 1000}.{version % 1000 // 10}"


@contextmanager
def _context(driver: ModuleType) -> Iterator[None]:
    # Only a context reports free memory. The primary one is what TensorRT uses too; it is released at once.
    device = _query(driver.cuDeviceGet, 0)
    context = _query(driver.cuDevicePrimaryCtxRetain, device)
    try:
        _check(driver.cuCtxPushCurrent(context)[0])
        yield
        _query(driver.cuCtxPopCurrent)
    finally:
        _check(driver.cuDevicePrimaryCtxRelease(device)[0])


def _query(function: Any, *arguments: Any) -> Any:
    status, value = function(*arguments)
    _check(status)
    return value


def _query_pair(function: Any) -> tuple[int, int]:
    status, first, second = function()
    _check(status)
    return first, second


def _check(status: Any) -> None:
    if status.name != "CUDA_SUCCESS":
        raise GpuError(
            "NVIDIA driver", f"it fails with {status.name}", "Run `nvidia-smi` to find the error, and repair the driver"
        )
