"""Detect the GPUs: CUDA lists the visible ones and their properties, NVML gives the driver version and the MIG mode."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from contract import gpu_driver
from contract.arch import ComputeCapability
from contract.gpu_driver import CudaDevice, Unavailable
from contract.platform import Version

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
_UNNAMED = "a GPU that NVML cannot name"
# Values of CUDA_VISIBLE_DEVICES that hide every GPU on purpose: no entry, or an entry that names no GPU.
_HIDE_ALL = ("", "-1", "none", "void", "nodevfiles")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU, or the MIG instance of one, as its driver describes it."""

    name: str
    capability: ComputeCapability
    memory_bytes: int
    mig: str
    """MIG mode of the card: on, off, not offered, unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """The NVIDIA driver: the CUDA library that this process uses, and the driver in the kernel."""

    cuda: Version
    """The newest CUDA version that the library supports; CUDA's compatibility library raises it."""
    version: str | None
    """Version of the driver in the kernel; None where NVML does not report it."""
    reason: str = ""
    """Why the version is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuDetection:
    """The GPUs that this process can use, or why there is none."""

    gpus: tuple[Gpu, ...] = ()
    driver: Driver | None = None
    """None without a driver. Without a GPU it is a driver that cuda-bindings cannot use."""
    reason: str = ""
    """Why no GPU was found."""
    inaccessible: tuple[str, ...] = ()
    """Names of GPUs that NVML lists and CUDA does not, though no setting hides them on purpose."""
    remedy: str = ""
    """How to make those GPUs accessible."""


def detect(environment: Mapping[str, str]) -> GpuDetection:
    """Return every visible GPU, or the reason why there is none.

    CUDA itself applies CUDA_VISIBLE_DEVICES; `environment` only serves to explain the result. Raise GpuError for a
    driver that does not start. A missing driver, missing cuda-bindings and a machine without a GPU are not errors.
    """
    with gpu_driver.open_nvml() as (nvml, nvml_reason):
        loaded = gpu_driver.load()
        if isinstance(loaded, Unavailable):
            return _no_gpu(environment, nvml, nvml_reason, loaded)
        return GpuDetection(
            gpus=tuple(_describe(loaded.device(ordinal), nvml) for ordinal in range(loaded.device_count)),
            driver=_describe_driver(loaded.cuda, nvml, nvml_reason),
        )


def _no_gpu(
    environment: Mapping[str, str], nvml: ModuleType | None, nvml_reason: str, absent: Unavailable
) -> GpuDetection:
    visible, handles = environment.get(VISIBLE_DEVICES), _handles(nvml)
    reason, remedy, names = absent.reason, absent.remedy, _names(nvml, handles)
    if visible is not None and visible.strip().lower() in _HIDE_ALL:
        return GpuDetection(reason=f"{VISIBLE_DEVICES}={visible} hides every GPU")
    if absent.cuda is not None:
        # Where a driver is installed, there is most likely a GPU.
        return GpuDetection(
            driver=_describe_driver(absent.cuda, nvml, nvml_reason),
            reason=reason,
            inaccessible=names or (_UNNAMED,),
            remedy=remedy,
        )
    if reason == gpu_driver.NO_GPU_LISTED and handles and visible is not None:
        reason = f"{VISIBLE_DEVICES}={visible} names no GPU of this machine"
        remedy = "Use a number or UUID that `nvidia-smi -L` lists; a MIG instance needs its UUID"
    elif reason == gpu_driver.NO_GPU_LISTED and any(_mig(nvml, handle) == "on" for handle in handles):
        reason = "MIG mode is on, but no MIG instance exists"
        remedy = "Create one with `nvidia-smi mig -cgi PROFILE -C`, and select it with CUDA_VISIBLE_DEVICES=MIG-..."
    return GpuDetection(reason=reason, inaccessible=names, remedy=remedy if handles else "")


def _describe(device: CudaDevice, nvml: ModuleType | None) -> Gpu:
    return Gpu(
        name=device.name,
        capability=device.capability,
        memory_bytes=device.memory_bytes,
        mig=_mig(nvml, _handle(nvml, device.bus_id)),
    )


def _describe_driver(cuda: Version, nvml: ModuleType | None, nvml_reason: str) -> Driver:
    version, reason = gpu_driver.kernel_version(nvml, nvml_reason)
    return Driver(cuda=cuda, version=version, reason=reason)


def _handle(nvml: Any, bus_id: str) -> Any:
    # CUDA numbers only the visible GPUs, NVML numbers all of them. Both agree on the PCI bus id.
    if nvml is None:
        return None
    with contextlib.suppress(nvml.NVMLError):
        return nvml.nvmlDeviceGetHandleByPciBusId(bus_id.encode())
    return None


def _handles(nvml: Any) -> list[Any]:
    if nvml is None:
        return []
    with contextlib.suppress(nvml.NVMLError):
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return []


def _mig(nvml: Any, handle: Any) -> str:
    if handle is None:
        return "unknown"
    try:
        return "on" if nvml.nvmlDeviceGetMigMode(handle)[0] else "off"
    except nvml.NVMLError_NotSupported:
        return "not offered"
    except nvml.NVMLError:
        return "unknown"


def _names(nvml: Any, handles: list[Any]) -> tuple[str, ...]:
    if not handles:
        return ()
    with contextlib.suppress(nvml.NVMLError):
        return tuple(str(nvml.nvmlDeviceGetName(handle)) for handle in handles)
    return (_UNNAMED,) * len(handles)
