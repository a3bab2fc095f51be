"""Finds the GPUs to serve on: CUDA tells which are visible and what they are, NVML the driver and its MIG mode."""

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
# What the driver says where there is simply no GPU; any other refusal is a broken installation.
_NO_GPU = ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_STUB_LIBRARY")
# What people write to hide every GPU: no entry, or one that names none.
_HIDING = ("", "-1", "none", "void", "nodevfiles")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU, or the MIG instance of one, as its driver describes it."""

    name: str
    capability: ComputeCapability
    memory_bytes: int
    mig: str
    """Whether the card is divided into MIG instances: on, off, not offered, unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """The NVIDIA driver."""

    cuda: Version
    """The newest CUDA version that it runs."""
    version: str | None
    """Its own version; None where NVML does not tell."""
    reason: str = ""
    """Why the version is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """What this process sees of GPUs."""

    gpus: tuple[Gpu, ...] = ()
    driver: Driver | None = None
    absence: str = ""
    """Why no GPU is seen."""
    out_of_reach: tuple[str, ...] = ()
    """GPUs that this machine has where CUDA shows none, and nobody asked that they be hidden."""
    remedy: str = ""
    """How to bring those within reach."""


def detect(environment: Mapping[str, str]) -> Sighting:
    """Describe every visible GPU; CUDA itself reads CUDA_VISIBLE_DEVICES, this only explains what comes of it.

    Raise GpuError for a driver that does not start. No driver, no cuda-bindings and no GPU are no errors.
    """
    with _management() as (nvml, reason):
        driver, absence, remedy = _start_driver()
        count = _ask(driver.cuDeviceGetCount) if driver else 0
        if driver is None or count == 0:
            return _nothing(environment, nvml, absence, remedy)
        return Sighting(
            gpus=tuple(_describe(driver, nvml, _ask(driver.cuDeviceGet, ordinal)) for ordinal in range(count)),
            driver=_describe_driver(driver, nvml, reason),
        )


def _start_driver() -> tuple[ModuleType | None, str, str]:
    try:
        from cuda.bindings import driver  # noqa: PLC0415 - only machines that serve on a GPU have this package
    except ImportError:
        return None, "cuda-bindings is not installed", "Install it with `pip install 'voxwright[serve]'`"
    try:
        status = driver.cuInit(0)[0]
    except RuntimeError:
        # The bindings look for libcuda.so.1 at the first call: no such library, no driver.
        remedy = "Install the NVIDIA driver, or in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        return None, "there is no libcuda.so.1", remedy
    if status.name in _NO_GPU:
        return None, "CUDA shows none", "See what `nvidia-smi` says, and in a container add `--gpus device=0`"
    _check(status)
    return driver, "", ""


def _nothing(environment: Mapping[str, str], nvml: ModuleType | None, absence: str, remedy: str) -> Sighting:
    visible, handles = environment.get(VISIBLE_DEVICES), _handles(nvml)
    if visible is not None and visible.strip().lower() in _HIDING:
        return Sighting(absence=f"{VISIBLE_DEVICES}={visible} hides every GPU")
    if handles and visible is not None:
        absence = f"{VISIBLE_DEVICES}={visible} names no GPU of this machine"
        remedy = "Name one as `nvidia-smi -L` lists it: by number or UUID, and a MIG instance by its UUID"
    elif any(_mig(nvml, handle) == "on" for handle in handles):
        absence = "MIG mode is on, and there is no instance"
        remedy = "Make one with `nvidia-smi mig -cgi PROFILE -C`, and name it with CUDA_VISIBLE_DEVICES=MIG-..."
    return Sighting(absence=absence, out_of_reach=_names(nvml, handles), remedy=remedy if handles else "")


def _describe(driver: ModuleType, nvml: ModuleType | None, device: Any) -> Gpu:
    attributes = driver.CUdevice_attribute
    major = _ask(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = _ask(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    bus_id = _text(_ask(driver.cuDeviceGetPCIBusId, _BUS_ID_BYTES, device))
    return Gpu(
        name=_text(_ask(driver.cuDeviceGetName, _NAME_BYTES, device)),
        capability=(major, minor),
        memory_bytes=_ask(driver.cuDeviceTotalMem, device),
        mig=_mig(nvml, _handle(nvml, bus_id)),
    )


def _describe_driver(driver: ModuleType, nvml: ModuleType | None, reason: str) -> Driver:
    cuda = _ask(driver.cuDriverGetVersion)
    version = None
    if nvml is not None:
        try:
            version = nvml.nvmlSystemGetDriverVersion()
        except nvml.NVMLError as error:
            reason = f"NVML does not tell it ({error})"
    return Driver(cuda=(cuda // 1000, cuda % 1000 // 10), version=version, reason=reason)


@contextlib.contextmanager
def _management() -> Iterator[tuple[ModuleType | None, str]]:
    """Give NVML while it is open, or None and why there is none."""
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
    # CUDA numbers the visible GPUs only, NVML all of them: the place on the bus is what both agree on.
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


def _ask(function: Any, *arguments: Any) -> Any:
    status, value = function(*arguments)
    _check(status)
    return value


def _check(status: Any) -> None:
    if status.name != "CUDA_SUCCESS":
        raise GpuError(
            "NVIDIA driver", f"it does not start: {status.name}", "See what `nvidia-smi` says, and repair the driver"
        )
