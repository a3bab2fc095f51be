"""What this host is and has: its GPU, asked of the driver, and room on its disk and in the GPU's memory."""

import platform as platform_module
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from build.job import Job
from build.options import GIBIBYTE, Options
from contract.arch import Arch, ComputeCapability
from contract.errors import CompilerUnavailableError, GpuError, OutputError

_NAME_BYTES = 256
# What the driver says where there is simply no GPU; any other refusal is a broken installation.
_NO_GPU = ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_STUB_LIBRARY")
# An engine is about as large as its graph; the rest is the inspector's output and the file that is being written.
_DISK_PER_GRAPH = 2
# The graph's weights, the engine's, and those that a builder converts and lays out anew.
_MEMORY_PER_GRAPH = 3
_CUDA_CONTEXT_BYTES = GIBIBYTE


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """The GPU that a build uses: the first visible one."""

    name: str
    capability: ComputeCapability
    visible: int
    """How many GPUs there are to this process."""
    driver: str
    """The driver's version, such as 580.95.05; where it does not tell, the CUDA version that it runs."""

    @property
    def arch(self) -> Arch:
        """Name its architecture; raise GpuError for one that no engine can be made for."""
        return Arch.of(self.capability, self.name)

    def __str__(self) -> str:
        which = f"GPU 0 of {self.visible} visible" if self.visible > 1 else "the GPU"
        return f"{which}, {self.name} ({self.arch.value}), driver {self.driver}"


def gpu() -> Gpu | None:
    """Describe the first visible GPU; None where there is none, no driver or no cuda-bindings.

    Raises GpuError for a driver that does not start.
    """
    driver = _driver()
    visible = 0 if driver is None else _ask(driver.cuDeviceGetCount)
    if driver is None or visible == 0:
        return None
    device = _ask(driver.cuDeviceGet, 0)
    attributes = driver.CUdevice_attribute
    major = _ask(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = _ask(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    name = _ask(driver.cuDeviceGetName, _NAME_BYTES, device).partition(b"\0")[0].decode(errors="replace")
    return Gpu(name=name, capability=(major, minor), visible=visible, driver=_driver_version(driver))


def check_gpu(arch: Arch, platform: str) -> Gpu:
    """Give the GPU of a build; raise CompilerUnavailableError unless it is of the architecture."""
    found = gpu()
    if found is not None and found.arch is arch:
        return found
    here = "no GPU was found here"
    if found is not None:
        which = f"the first of the {found.visible} visible GPUs" if found.visible > 1 else "the GPU here"
        here = f"{which} is {found.name}, {found.arch.value}"
    several = found is not None and found.visible > 1
    choose = "Choose the GPU with CUDA_VISIBLE_DEVICES, or run" if several else "Run"
    raise CompilerUnavailableError(
        f"--arch {arch.value}",
        f"TensorRT needs an {arch.value} GPU ({arch.gpus}) to build for it, and {here}",
        f"{choose} the same command on a host with such a GPU inside the container of platform {platform}, "
        f"or prove here that the graphs compile with `--compiler tensorrt_rtx`",
    )


def check_disk(jobs: Iterable[Job], folder: Path) -> None:
    """Raise OutputError unless the file system of a folder holds what the jobs may make, all of it anew."""
    wanted = _DISK_PER_GRAPH * sum(_graph_bytes(job) for job in jobs)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < wanted:
        cause = f"its file system has {_gib(free)} free, and these engines may take {_gib(wanted)}"
        raise OutputError(folder, cause, "Free some space, or name another folder with --out")


def check_memory(jobs: Iterable[Job], options: Options) -> None:
    """Raise CompilerUnavailableError unless the GPU has room for the largest of the jobs; none needs no room."""
    largest = max((_graph_bytes(job) for job in jobs), default=None)
    if largest is None:
        return
    wanted = options.workspace_bytes + _MEMORY_PER_GRAPH * largest + _CUDA_CONTEXT_BYTES
    found, driver = gpu(), _driver()
    if found is None or driver is None:
        return
    with _context(driver):
        free, total = _ask_two(driver.cuMemGetInfo)
    if free < wanted:
        cause = (
            f"it has {_gib(free)} of {_gib(total)} free, and this build may take {_gib(wanted)}, "
            f"{_gib(options.workspace_bytes)} of them as workspace"
        )
        remedy = "Stop what else runs on it, or lower --workspace-gib"
        raise CompilerUnavailableError(f"GPU {found.name}", cause, remedy)


def processor() -> str:
    """Name this host's processor, such as `Intel(R) Xeon(R) Platinum 8481C`, or its kind where Linux does not say."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform_module.machine()


def _graph_bytes(job: Job) -> int:
    graph = job.known_graph(job.exported)
    return graph.size_bytes if graph else 0


def _gib(size: int) -> str:
    return f"{size / GIBIBYTE:.1f} GiB"


def _driver() -> ModuleType | None:
    try:
        from cuda.bindings import driver  # noqa: PLC0415 - only hosts that build for a GPU need it
    except ImportError:
        return None
    try:
        status = driver.cuInit(0)[0]
    except RuntimeError:
        # The bindings look for libcuda.so.1 at the first call: no such library, no driver.
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
        # No libnvidia-ml.so.1, as in a container that was given the compute part of the driver alone.
        return _cuda_version(driver)


def _cuda_version(driver: ModuleType) -> str:
    version = _ask(driver.cuDriverGetVersion)
    return f"of CUDA {version // 1000}.{version % 1000 // 10}"


@contextmanager
def _context(driver: ModuleType) -> Iterator[None]:
    # Free memory is asked of a context. The primary one is what TensorRT uses too, and is given back at once.
    device = _ask(driver.cuDeviceGet, 0)
    context = _ask(driver.cuDevicePrimaryCtxRetain, device)
    try:
        _check(driver.cuCtxPushCurrent(context)[0])
        yield
        _ask(driver.cuCtxPopCurrent)
    finally:
        _check(driver.cuDevicePrimaryCtxRelease(device)[0])


def _ask(function: Any, *arguments: Any) -> Any:
    status, value = function(*arguments)
    _check(status)
    return value


def _ask_two(function: Any) -> tuple[int, int]:
    status, first, second = function()
    _check(status)
    return first, second


def _check(status: Any) -> None:
    if status.name != "CUDA_SUCCESS":
        raise GpuError(
            "NVIDIA driver", f"it refuses: {status.name}", "See what `nvidia-smi` says, and repair the driver"
        )
