"""Detect the GPUs: CUDA lists the visible ones and their properties, NVML gives the driver version and the MIG mode."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from contract.arch import ComputeCapability
from contract.errors import GpuError
from contract.platform import Version

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
_NAME_BYTES = 256
_BUS_ID_BYTES = 32
# The statuses of a driver on a machine without a GPU. Any other error status is a broken installation.
_NO_GPU = ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_STUB_LIBRARY")
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
    """The NVIDIA driver."""

    cuda: Version
    """The newest CUDA version that it runs."""
    version: str | None
    """Driver version; None where NVML does not report it."""
    reason: str = ""
    """Why the version is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuDetection:
    """The GPUs that this process can use, or why there is none."""

    gpus: tuple[Gpu, ...] = ()
    driver: Driver | None = None
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
    with _open_nvml() as (nvml, nvml_reason):
        driver, reason, remedy = _start_driver()
        count = _call(driver.cuDeviceGetCount) if driver else 0
        if driver is None or count == 0:
            return _no_gpu(environment, nvml, reason, remedy)
        return GpuDetection(
            gpus=tuple(_describe(driver, nvml, _call(driver.cuDeviceGet, ordinal)) for ordinal in range(count)),
            driver=_describe_driver(driver, nvml, nvml_reason),
        )


def _start_driver() -> tuple[ModuleType | None, str, str]:
    try:
        from cuda.bindings import driver  # noqa: PLC0415 - only machines that serve on a GPU have this package
    except ImportError:
        return None, "cuda-bindings is not installed", "Install it with `pip install 'voxwright[serve]'`"
    try:
        status = driver.cuInit(0)[0]
    except RuntimeError:
        # The bindings load libcuda.so.1 at the first call. No such library means no driver.
        remedy = "Install the NVIDIA driver, or in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        return None, "there is no libcuda.so.1", remedy
    if status.name in _NO_GPU:
        return None, "CUDA lists no GPU", "Check the output of `nvidia-smi`; in a container add `--gpus device=0`"
    _check(status)
    return driver, "", ""


def _no_gpu(environment: Mapping[str, str], nvml: ModuleType | None, reason: str, remedy: str) -> GpuDetection:
    visible, handles = environment.get(VISIBLE_DEVICES), _handles(nvml)
    if visible is not None and visible.strip().lower() in _HIDE_ALL:
        return GpuDetection(reason=f"{VISIBLE_DEVICES}={visible} hides every GPU")
    if handles and visible is not None:
        reason = f"{VISIBLE_DEVICES}={visible} names no GPU of this machine"
        remedy = "Use a number or UUID that `nvidia-smi -L` lists; a MIG instance needs its UUID"
    elif any(_mig(nvml, handle) == "on" for handle in handles):
        reason = "MIG mode is on, but no MIG instance exists"
        remedy = "Create one with `nvidia-smi mig -cgi PROFILE -C`, and select it with CUDA_VISIBLE_DEVICES=MIG-..."
    return GpuDetection(reason=reason, inaccessible=_names(nvml, handles), remedy=remedy if handles else "")


def _describe(driver: ModuleType, nvml: ModuleType | None, device: Any) -> Gpu:
    attributes = driver.CUdevice_attribute
    major = _call(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = _call(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    bus_id = _text(_call(driver.cuDeviceGetPCIBusId, _BUS_ID_BYTES, device))
    return Gpu(
        name=_text(_call(driver.cuDeviceGetName, _NAME_BYTES, device)),
        capability=(major, minor),
        memory_bytes=_call(driver.cuDeviceTotalMem, device),
        mig=_mig(nvml, _handle(nvml, bus_id)),
    )


def _describe_driver(driver: ModuleType, nvml: ModuleType | None, reason: str) -> Driver:
    cuda = _call(driver.cuDriverGetVersion)
    version = None
    if nvml is not None:
        try:
            version = nvml.nvmlSystemGetDriverVersion()
        except nvml.NVMLError as error:
            reason = f"NVML does not report it ({error})"
    return Driver(cuda=(cuda // 1000, cuda % 1000 // 10), version=version, reason=reason)


@contextlib.contextmanager
def _open_nvml() -> Iterator[tuple[ModuleType | None, str]]:
    """Yield NVML and an empty reason, or None and why NVML is unavailable; shut NVML down at the end."""
    try:
        import pynvml  # noqa: PLC0415 - as cuda.bindings
    except ImportError:
        yield None, "nvidia-ml-py is not installed"
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        yield None, "there is no libnvidia-ml.so.1"
        return
    except pynvml.NVMLError as error:
        yield None, f"NVML does not start ({error})"
        return
    try:
        yield pynvml, ""
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


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
    return ("a GPU that NVML cannot name",) * len(handles)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")


def _call(function: Any, *arguments: Any) -> Any:
    status, value = function(*arguments)
    _check(status)
    return value


def _check(status: Any) -> None:
    if status.name != "CUDA_SUCCESS":
        raise GpuError(
            "NVIDIA driver",
            f"it does not start: {status.name}",
            "Check the output of `nvidia-smi`, and reinstall the driver",
        )
