"""What the measurements need of a device, as protocols: tests give them a device with made-up times."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

Arrays = dict[str, Any]


class Work(Protocol):
    """An engine with inputs and outputs in device memory: one call runs it on one of several distinct inputs."""

    @property
    def count(self) -> int:
        """Return the number of distinct inputs."""
        ...

    @property
    def buffers(self) -> Mapping[str, "Buffer"]:
        """Return the outputs by name, which a following engine can read."""
        ...

    def enqueue(self, number: int) -> None:
        """Put a run on the inputs of that number into the device's stream."""
        ...

    def outputs(self) -> Arrays:
        """Copy the outputs of the last run to the host, after it has ended."""
        ...


class Buffer(Protocol):
    """Device memory that holds one tensor."""

    address: int
    shape: tuple[int, ...]


class Engine(Protocol):
    """A plan that the device has loaded."""

    def bind(self, feeds: Sequence[Arrays], after: Mapping[str, Buffer] | None = None) -> AbstractContextManager[Work]:
        """Copy inputs of equal shapes to the device; the inputs named in `after` are read from where they lie."""
        ...


class Device(Protocol):
    """A GPU with one stream."""

    def load(self, plan: Path) -> AbstractContextManager[Engine]:
        """Load a plan."""
        ...

    def elapsed_ms(self, enqueue: Callable[[], None]) -> float:
        """Return the time on the device between two events around what is put into the stream."""
        ...

    def captured(self, enqueue: Callable[[], None]) -> AbstractContextManager[Callable[[], None]]:
        """Capture what is put into the stream as a CUDA graph; the function given launches it."""
        ...

    def copying(self, size_bytes: int) -> AbstractContextManager[Callable[[], None]]:
        """Reserve two buffers of that size; the function given copies one to the other."""
        ...

    def memory_bytes(self) -> tuple[int, int]:
        """Return free and total memory."""
        ...
