"""Finds the one GPU to serve on, by asking the NVIDIA driver."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from contract.arch import ComputeCapability
from contract.errors import GpuError

_NAME_BYTES = 256
# What the driver says where there is simply no GPU; any other refusal is a broken installation.
_NO_GPU = ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_STUB_LIBRARY")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU as its driver describes it."""

    name: str
    capability: ComputeCapability
    memory_bytes: int
    cuda: tuple[int, int]
    """The newest CUDA version that the driver runs."""


def detect() -> Gpu | None:
    """Describe the visible GPU; None where there is none, no driver or no cuda-bindings.

    Raise GpuError for more than one, and for a driver that does not start.
    """
    driver = _driver()
    if driver is None:
        return None
    count = _ask(driver.cuDeviceGetCount)
    if count == 0:
        return None
    if count > 1:
        raise GpuError(
            f"{count} GPUs",
            "exactly one may be visible to a server",
            "Choose one with CUDA_VISIBLE_DEVICES=0, or in a container with `--gpus device=0`",
        )
    return _describe(driver, _ask(driver.cuDeviceGet, 0))


def _driver() -> ModuleType | None:
    try:
        from cuda.bindings import driver  # noqa: PLC0415 - only machines that serve on a GPU have this package
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


def _describe(driver: ModuleType, device: Any) -> Gpu:
    attributes = driver.CUdevice_attribute
    major = _ask(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = _ask(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    version = _ask(driver.cuDriverGetVersion)
    return Gpu(
        name=_ask(driver.cuDeviceGetName, _NAME_BYTES, device).partition(b"\0")[0].decode(errors="replace"),
        capability=(major, minor),
        memory_bytes=_ask(driver.cuDeviceTotalMem, device),
        cuda=(version // 1000, version % 1000 // 10),
    )


def _ask(function: Any, *arguments: Any) -> Any:
    status, value = function(*arguments)
    _check(status)
    return value


def _check(status: Any) -> None:
    if status.name != "CUDA_SUCCESS":
        raise GpuError(
            "NVIDIA driver", f"it does not start: {status.name}", "See what `nvidia-smi` says, and repair the driver"
        )
