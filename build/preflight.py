"""What this host is: the architecture of its GPU, asked of the driver."""

from typing import Any

from contract.arch import Arch
from contract.errors import GpuError


def local_arch() -> Arch | None:
    """Name the architecture of this host's first visible GPU; None without a driver or a GPU.

    Raises GpuError for a GPU that no engine can be made for.
    """
    try:
        from cuda.bindings import driver  # noqa: PLC0415
    except ImportError:
        return None
    try:
        if driver.cuInit(0)[0] != driver.CUresult.CUDA_SUCCESS:
            return None
    except RuntimeError:
        # cuda-python raises it where there is no libcuda.so.1, which is to say no driver.
        return None
    error, count = driver.cuDeviceGetCount()
    if error != driver.CUresult.CUDA_SUCCESS or count == 0:
        return None
    return Arch.of(_capability(driver, 0), driver.cuDeviceGetName(128, 0)[1].decode().rstrip("\0"))


def _capability(driver: Any, device: int) -> tuple[int, int]:
    attributes = driver.CUdevice_attribute
    wanted = (
        attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    )
    results = [driver.cuDeviceGetAttribute(attribute, device) for attribute in wanted]
    if any(int(error) for error, _ in results):
        raise GpuError("GPU 0", "the driver does not tell its compute capability", "Check it with `nvidia-smi`")
    return results[0][1], results[1][1]
