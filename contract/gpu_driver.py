"""Open the two libraries of the NVIDIA driver: CUDA for the visible GPUs, NVML for the driver version."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from contract.arch import ComputeCapability
from contract.errors import GpuError
from contract.platform import Version, format_version

NO_GPU_LISTED = "CUDA lists no GPU"
_LIBRARY = "libcuda.so.1"
_NAME_BYTES = 256
_BUS_ID_BYTES = 32
# The statuses of a driver on a machine without a GPU. Any other error status is a broken installation.
_NO_GPU = ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_STUB_LIBRARY")
# cuda-bindings 13 looks up every function with cuGetProcAddress_v2. Drivers have it from this CUDA version on.
_FIRST_CUDA: Version = (12, 0)
_REINSTALL = "Check the output of `nvidia-smi`, and reinstall the driver"
# Statuses with a remedy of their own.
_REMEDIES = {
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "CUDA's compatibility library runs on data-centre GPUs only: install "
    "a newer driver on the host",
    "CUDA_ERROR_SYSTEM_NOT_READY": "A GPU with NVSwitch needs NVIDIA's Fabric Manager: start the host's service "
    "nvidia-fabricmanager, in the version of the driver (`systemctl status nvidia-fabricmanager`)",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "The driver's library and its part in the kernel have different versions, as "
    "after an update: restart the container, and the host if that does not help",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaDevice:
    """A visible GPU, or a MIG instance, as CUDA describes it."""

    name: str
    capability: ComputeCapability
    memory_bytes: int
    bus_id: str
    """PCI bus id, by which NVML finds the same GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaDriver:
    """A CUDA driver library that has started. Every method raises GpuError where the library returns an error."""

    bindings: ModuleType

    @property
    def cuda(self) -> Version:
        """The newest CUDA version that the library supports."""
        return _version(_call(self.bindings.cuDriverGetVersion))

    @property
    def device_count(self) -> int:
        """The number of visible GPUs. CUDA itself applies CUDA_VISIBLE_DEVICES."""
        return int(_call(self.bindings.cuDeviceGetCount))

    def device(self, ordinal: int) -> CudaDevice:
        """Return the description of a visible GPU; the first one is 0."""
        driver, attributes = self.bindings, self.bindings.CUdevice_attribute
        device = _call(driver.cuDeviceGet, ordinal)
        major = _call(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
        minor = _call(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
        return CudaDevice(
            name=_text(_call(driver.cuDeviceGetName, _NAME_BYTES, device)),
            capability=(major, minor),
            memory_bytes=_call(driver.cuDeviceTotalMem, device),
            bus_id=_text(_call(driver.cuDeviceGetPCIBusId, _BUS_ID_BYTES, device)),
        )

    def memory(self) -> tuple[int, int]:
        """Return the free and the total memory of the first GPU in bytes."""
        driver = self.bindings
        # Only a context reports free memory. The primary one is what TensorRT uses too; it is released at once.
        device = _call(driver.cuDeviceGet, 0)
        context = _call(driver.cuDevicePrimaryCtxRetain, device)
        try:
            _check(driver.cuCtxPushCurrent(context)[0])
            status, free, total = driver.cuMemGetInfo()
            _check(status)
            _call(driver.cuCtxPopCurrent)
        finally:
            _check(driver.cuDevicePrimaryCtxRelease(device)[0])
        return free, total


@dataclass(frozen=True, kw_only=True, slots=True)
class Unavailable:
    """Why this process has no CUDA driver."""

    reason: str
    remedy: str
    cuda: Version | None = None
    """The CUDA version of a driver library that exists, but that cuda-bindings cannot use."""


def load() -> CudaDriver | Unavailable:
    """Start the CUDA driver library, or return why there is none; raise GpuError for one that does not start."""
    try:
        from cuda.bindings import driver  # noqa: PLC0415 - only machines with a GPU have this package
    except ImportError:
        return Unavailable(
            reason="cuda-bindings is not installed", remedy="Install it with `pip install 'voxwright[serve]'`"
        )
    try:
        # The bindings load libcuda.so.1 and look up its functions at the first call.
        status = driver.cuInit(0)[0]
    except RuntimeError as error:
        return _explain(error)
    if status.name in _NO_GPU:
        remedy = "Check the output of `nvidia-smi`; in a container add `--gpus device=0`"
        return Unavailable(reason=NO_GPU_LISTED, remedy=remedy)
    _check(status)
    return CudaDriver(bindings=driver)


@contextlib.contextmanager
def open_nvml() -> Iterator[tuple[ModuleType | None, str]]:
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


def kernel_version(nvml: ModuleType | None, reason: str) -> tuple[str | None, str]:
    """Return the version of the kernel's driver and an empty reason, or None and why it is unknown.

    With CUDA's compatibility library this version is older than the CUDA driver library that the process uses.
    """
    if nvml is None:
        return None, reason
    try:
        return str(nvml.nvmlSystemGetDriverVersion()), ""
    except nvml.NVMLError as error:
        return None, f"NVML does not report it ({error})"


def _explain(error: RuntimeError) -> Unavailable:
    """Return why cuda-bindings raised RuntimeError: no library, a library that cannot be loaded, or one too old."""
    import ctypes  # noqa: PLC0415 - only this error needs the two modules
    from importlib import metadata  # noqa: PLC0415

    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as failure:
        if str(failure).startswith(f"{_LIBRARY}: cannot open shared object file: No such file"):
            remedy = "Install the NVIDIA driver, or in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility"
            return Unavailable(reason=f"there is no {_LIBRARY}", remedy=remedy)
        return Unavailable(reason=f"{_LIBRARY} cannot be loaded ({failure})", remedy=_REINSTALL)
    number = ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(number))
    cuda = _version(number.value)
    bindings = f"cuda-bindings {metadata.version('cuda-bindings')}"
    if cuda >= _FIRST_CUDA:
        return Unavailable(reason=f"{bindings} cannot use {_LIBRARY} ({error})", remedy=_REINSTALL, cuda=cuda)
    first = format_version(_FIRST_CUDA)
    return Unavailable(
        reason=f"{_LIBRARY} supports CUDA {format_version(cuda)}, which is too old for {bindings} ({error})",
        remedy=f"Install a driver that supports CUDA {first} or later",
        cuda=cuda,
    )


def _version(number: int) -> Version:
    return number // 1000, number % 1000 // 10


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")


def _call(function: Any, *arguments: Any) -> Any:
    status, value = function(*arguments)
    _check(status)
    return value


def _check(status: Any) -> None:
    if status.name != "CUDA_SUCCESS":
        raise GpuError("NVIDIA driver", f"it does not start: {status.name}", _REMEDIES.get(status.name, _REINSTALL))
