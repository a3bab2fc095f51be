"""The GPU through cuda.bindings' driver API and TensorRT: no torch, so that it runs beside any TensorRT.

The driver API alone: it needs no CUDA runtime library of a matching version, and streams and memory are those of the
primary context, which TensorRT uses too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import device, engines
from benchmarks.gpu.device import Arrays
from contract import gpu_driver
from contract.errors import CompileError, GpuError

# Not the default stream: that one waits for every other stream, and cannot be captured.
_NON_BLOCKING = 1
_TYPES = {"HALF": "float16", "FLOAT": "float32", "INT32": "int32"}


@contextmanager
def opened() -> Iterator["CudaDevice"]:
    """Open the first visible GPU; raise GpuError where there is no driver or it does not start."""
    loaded = gpu_driver.load()
    if isinstance(loaded, gpu_driver.Unavailable):
        raise GpuError("NVIDIA driver", loaded.reason, loaded.remedy)
    driver = loaded.bindings
    gpu = _call(driver.cuDeviceGet, 0)
    context = _call(driver.cuDevicePrimaryCtxRetain, gpu)
    _call(driver.cuCtxSetCurrent, context)
    stream = _call(driver.cuStreamCreate, _NON_BLOCKING)
    try:
        yield CudaDevice(driver, stream)
    finally:
        _call(driver.cuStreamDestroy, stream)
        _call(driver.cuDevicePrimaryCtxRelease, gpu)


class CudaDevice:
    """A GPU with one stream (device.Device)."""

    def __init__(self, driver: Any, stream: Any) -> None:
        self._driver, self._stream = driver, stream
        self._events = [_call(driver.cuEventCreate, 0) for _ in range(2)]

    @contextmanager
    def load(self, plan: Path) -> Iterator["CudaEngine"]:
        """Load a plan."""
        yield CudaEngine(self, engines.load(plan), plan)

    def elapsed_ms(self, enqueue: Callable[[], None]) -> float:
        """Return the time on the device between two events around what is put into the stream."""
        driver, (begin, end) = self._driver, self._events
        _call(driver.cuEventRecord, begin, self._stream)
        enqueue()
        _call(driver.cuEventRecord, end, self._stream)
        _call(driver.cuEventSynchronize, end)
        return float(_call(driver.cuEventElapsedTime, begin, end))

    @contextmanager
    def captured(self, enqueue: Callable[[], None]) -> Iterator[Callable[[], None]]:
        """Capture what is put into the stream as a CUDA graph; the function given launches it."""
        driver = self._driver
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.synchronise()
        _call(driver.cuStreamBeginCapture, self._stream, mode)
        try:
            enqueue()
        except BaseException:
            with suppress(GpuError):
                _call(driver.cuStreamEndCapture, self._stream)
            raise
        graph = _call(driver.cuStreamEndCapture, self._stream)
        launchable = _call(driver.cuGraphInstantiate, graph, 0)
        try:
            yield lambda: _call(driver.cuGraphLaunch, launchable, self._stream)
        finally:
            self.synchronise()
            _call(driver.cuGraphExecDestroy, launchable)
            _call(driver.cuGraphDestroy, graph)

    @contextmanager
    def copying(self, size_bytes: int) -> Iterator[Callable[[], None]]:
        """Reserve two buffers of that size; the function given copies one to the other."""
        with self.reserved((size_bytes,), np.uint8) as source, self.reserved((size_bytes,), np.uint8) as target:
            arguments = (target.pointer, source.pointer, size_bytes, self._stream)
            yield lambda: _call(self._driver.cuMemcpyDtoDAsync, *arguments)

    def memory_bytes(self) -> tuple[int, int]:
        """Return free and total memory."""
        free, total = _call(self._driver.cuMemGetInfo)
        return int(free), int(total)

    @contextmanager
    def reserved(self, shape: tuple[int, ...], kind: Any) -> Iterator["CudaBuffer"]:
        """Reserve device memory for a tensor."""
        size = max(1, int(np.prod(shape)) * np.dtype(kind).itemsize)
        pointer = _call(self._driver.cuMemAlloc, size)
        try:
            yield CudaBuffer(pointer, shape, kind)
        finally:
            self.synchronise()
            _call(self._driver.cuMemFree, pointer)

    def upload(self, array: Any, buffer: "CudaBuffer") -> None:
        """Copy an array to the device, and wait until it is there."""
        whole = np.ascontiguousarray(array)
        _call(self._driver.cuMemcpyHtoDAsync, buffer.pointer, whole.ctypes.data, whole.nbytes, self._stream)
        self.synchronise()

    def download(self, buffer: "CudaBuffer") -> Any:
        """Copy a tensor to the host, after all that is in the stream."""
        array = np.empty(buffer.shape, buffer.kind)
        _call(self._driver.cuMemcpyDtoHAsync, array.ctypes.data, buffer.pointer, array.nbytes, self._stream)
        self.synchronise()
        return array

    def synchronise(self) -> None:
        """Wait until the stream is empty."""
        _call(self._driver.cuStreamSynchronize, self._stream)

    @property
    def stream_handle(self) -> int:
        """Return the stream as TensorRT takes it."""
        return int(self._stream)


class CudaBuffer:
    """Device memory that holds one tensor (device.Buffer)."""

    def __init__(self, pointer: Any, shape: tuple[int, ...], kind: Any) -> None:
        self.pointer, self.address, self.shape, self.kind = pointer, int(pointer), shape, kind


class CudaEngine:
    """A plan that TensorRT has loaded, with one execution context (device.Engine)."""

    def __init__(self, gpu: CudaDevice, engine: Any, plan: Path) -> None:
        if engine is None:
            raise CompileError(plan, "TensorRT does not load it", "Build it again with the installed TensorRT")
        self._gpu, self._engine, self._plan = gpu, engine, plan
        self._context = engine.create_execution_context()
        if self._context is None:
            raise GpuError(plan, "TensorRT makes no execution context", "Free memory of the GPU; see `nvidia-smi`")
        inputs = engines.library().TensorIOMode.INPUT
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == inputs]
        self._outputs = [name for name in names if name not in self._inputs]

    @contextmanager
    def bind(self, feeds: Sequence[Arrays], after: Mapping[str, device.Buffer] | None = None) -> Iterator["CudaWork"]:
        """Copy inputs of equal shapes to the device; the inputs named in `after` are read from where they lie."""
        given = {name: buffer for name, buffer in (after or {}).items() if name in self._inputs}
        for name in self._inputs:
            shape = given[name].shape if name in given else feeds[0][name].shape
            if not self._context.set_input_shape(name, tuple(shape)):
                cause = f"its profile does not hold {name} {list(shape)}"
                raise CompileError(self._plan, cause, "Make catalogue and engine agree, and build it again")
        with ExitStack() as stack:
            sets = [self._uploaded(feed, given, stack) for feed in feeds]
            outputs = {name: stack.enter_context(self._output(name)) for name in self._outputs}
            yield CudaWork(self._gpu, self._context, sets, outputs)

    def _uploaded(self, feed: Arrays, given: Mapping[str, device.Buffer], stack: ExitStack) -> dict[str, device.Buffer]:
        found: dict[str, device.Buffer] = dict(given)
        for name in self._inputs:
            if name not in found:
                buffer = stack.enter_context(self._gpu.reserved(feed[name].shape, feed[name].dtype))
                self._gpu.upload(feed[name], buffer)
                found[name] = buffer
        return found

    @contextmanager
    def _output(self, name: str) -> Iterator[CudaBuffer]:
        kind = _TYPES[str(self._engine.get_tensor_dtype(name).name)]
        shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            cause = f"the shape of {name} is {list(shape)} before a run, so that no memory can be reserved"
            raise CompileError(self._plan, cause, "Export the network so that shapes depend on shapes alone")
        with self._gpu.reserved(shape, kind) as buffer:
            yield buffer


class CudaWork:
    """An execution context with its inputs and outputs in device memory (device.Work)."""

    def __init__(
        self,
        gpu: CudaDevice,
        context: Any,
        sets: list[dict[str, device.Buffer]],
        outputs: dict[str, CudaBuffer],
    ) -> None:
        self._gpu, self._context, self._sets, self.buffers = gpu, context, sets, outputs
        for name, buffer in outputs.items():
            context.set_tensor_address(name, buffer.address)

    @property
    def count(self) -> int:
        """Return the number of distinct inputs."""
        return len(self._sets)

    def enqueue(self, number: int) -> None:
        """Put a run on the inputs of that number into the stream; raise GpuError where TensorRT refuses."""
        for name, buffer in self._sets[number].items():
            self._context.set_tensor_address(name, buffer.address)
        if not self._context.execute_async_v3(self._gpu.stream_handle):
            raise GpuError("TensorRT", "it does not run the engine", "See the errors that it printed before")

    def outputs(self) -> Arrays:
        """Copy the outputs of the last run to the host, after it has ended."""
        return {name: self._gpu.download(buffer) for name, buffer in self.buffers.items()}


def _call(function: Any, *arguments: Any) -> Any:
    """Call the driver; return the value, several as a tuple. Raises GpuError for any status but success."""
    try:
        status, *values = function(*arguments)
    except RuntimeError as error:
        # The bindings raise it for a driver without the function.
        raise GpuError("NVIDIA driver", f"{function.__name__}: {error}", "Install a newer driver") from error
    if status.name != "CUDA_SUCCESS":
        cause = f"{function.__name__} fails: {status.name}"
        raise GpuError("NVIDIA driver", cause, "See what `nvidia-smi` and the kernel's log print")
    return values[0] if len(values) == 1 else tuple(values)
