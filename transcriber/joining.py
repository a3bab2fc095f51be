"""Join requests of several threads to one, so that a GPU computes them in one run.

Triton joins what stands next to each other in its queue and has equal shapes (core, dynamic_batch_scheduler.cc).
Segments of speech have mixed lengths, so its batches would hold little more than one item. A client knows what waits,
and can choose: items of similar lengths, padded to the longest.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.errors import ServerUnreachableError
from transcriber.buckets import Arrays, AudioBatch, pad_to

Outputs: TypeAlias = Mapping[str, NDArray[Any]]
MOST_PADDING = 1.25
"""How many times as large as its items, each padded to its own bucket, a joined input may be."""


class Joiner:
    """The requests for one model. While `at_a_time` are on the server, others wait, and go together.

    A request that finds the server free is sent at once, so joining delays none. Those that have waited longest go
    first, with the waiting ones that are most like them. A full batch does not wait.
    """

    def __init__(
        self,
        send: Callable[[Arrays], Outputs],
        *,
        most_items: int,
        at_a_time: Callable[[], int],
        most_padding: float = MOST_PADDING,
    ) -> None:
        """Join at most `most_items`; `send` runs the model. With `most_padding` 1, only equal shapes are joined.

        `at_a_time` is called for every request: the number of servers may change.
        """
        self._send, self._most_items, self._most_padding = send, most_items, most_padding
        self._at_a_time = at_a_time
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []
        self._on_server = self._most_on_server = 0

    @property
    def waiting(self) -> int:
        """Return the number of requests that wait for others to return from the server."""
        return len(self._waiting)

    def infer(self, inputs: Arrays) -> Outputs:
        """Return the outputs for a request, which may have more padding than alone; raise what `send` does.

        Where a joined request fails, each of its requests is sent alone, so that only a bad one fails.
        """
        request, at_a_time = _Request(inputs), self._at_a_time()
        with self._lock:
            self._most_on_server = at_a_time
            self._waiting.append(request)
            self._start()
        try:
            request.event.wait()
        except BaseException:
            self._leave(request)
            raise
        if request.group is not None:
            self._lead(request.group)
        return self._send(inputs) if request.may_succeed_alone else request.result()

    def _leave(self, request: "_Request") -> None:
        """Take back a request whose thread was interrupted, and let another thread send its group."""
        with self._lock:
            if request.group is not None:
                self._on_server -= 1
                self._waiting = [*request.group.requests, *self._waiting]
            self._waiting = [other for other in self._waiting if other is not request]
            self._start()

    def _start(self) -> None:
        """Let the first request of each group that may go send it; the lock is held."""
        while self._waiting:
            group = self._next_group()
            if self._on_server >= self._most_on_server and group.items < self._most_items:
                return
            self._on_server += 1
            self._waiting = [request for request in self._waiting if request not in group.requests]
            first, *_ = group.requests
            first.group = group
            first.event.set()

    def _next_group(self) -> "_Group":
        first, *others = self._waiting
        group = _Group(first)
        for request in sorted(others, key=lambda other: abs(other.size - first.size)):
            if group.items + request.items <= self._most_items and group.padding_with(request) <= self._most_padding:
                group.add(request)
        return group

    def _lead(self, group: "_Group") -> None:
        """Send a group, and pass the outputs or the error to its requests."""
        flushed: list[_Request] = []
        try:
            group.share(self._send(group.joined()))
        except BaseException as error:
            # Each thread raises it for its own request.
            group.fail(error)
            if isinstance(error, ServerUnreachableError):
                # The server was away for the whole timeout: those that wait must not begin another one.
                with self._lock:
                    flushed, self._waiting = self._waiting, []
        finally:
            with self._lock:
                self._on_server -= 1
                self._start()
            for request in flushed:
                request.error = group.requests[0].error
            for request in (*group.requests, *flushed):
                request.event.set()


class _Request:
    """The inputs of a thread that waits, and what it waits for."""

    def __init__(self, inputs: Arrays) -> None:
        self.inputs = inputs
        self.shapes = {name: tuple(array.shape) for name, array in inputs.items()}
        self.items = next(iter(self.shapes.values()))[0]
        self.size = sum(math.prod(shape[1:]) for shape in self.shapes.values())
        self.event = threading.Event()
        self.group: _Group | None = None
        """The group that this thread is to send."""
        self.is_joined = False
        self.outputs: Outputs | None = None
        self.error: BaseException | None = None

    @property
    def may_succeed_alone(self) -> bool:
        """Return whether it failed together with others, one of which may be the reason."""
        return (
            self.is_joined and isinstance(self.error, Exception) and not isinstance(self.error, ServerUnreachableError)
        )

    def result(self) -> Outputs:
        """Return the outputs; raise the error instead where there is one."""
        if self.error is not None:
            raise self.error
        if self.outputs is None:
            raise RuntimeError("a request has neither outputs nor an error")
        return self.outputs


class _Group:
    """Requests that go together: each input is padded to its largest size among them."""

    def __init__(self, first: _Request) -> None:
        self.requests = [first]
        self.items = first.items
        self._sizes = {name: shape[1:] for name, shape in first.shapes.items()}
        self._own = {name: math.prod(shape) for name, shape in first.shapes.items()}

    def padding_with(self, request: _Request) -> float:
        """Return how many times as large as its items the most padded input would be with a request more."""
        items = self.items + request.items
        return max(
            items * math.prod(self._larger(name, request)) / max(1, self._own[name] + math.prod(shape))
            for name, shape in request.shapes.items()
        )

    def add(self, request: _Request) -> None:
        """Add a request."""
        self._sizes = {name: self._larger(name, request) for name in self._sizes}
        self._own = {name: own + math.prod(request.shapes[name]) for name, own in self._own.items()}
        self.requests.append(request)
        self.items += request.items

    def joined(self) -> Arrays:
        """Return the inputs of all requests."""
        if len(self.requests) == 1:
            return self.requests[0].inputs
        return {name: _joined([each.inputs[name] for each in self.requests], self._sizes[name]) for name in self._sizes}

    def share(self, outputs: Outputs) -> None:
        """Pass each request its part of the outputs."""
        for request, (start, end) in zip(self.requests, self._bounds(), strict=True):
            request.outputs = {name: array[start:end] for name, array in outputs.items()}

    def fail(self, error: BaseException) -> None:
        """Pass each request the error."""
        for request in self.requests:
            request.error, request.is_joined = error, len(self.requests) > 1

    def _bounds(self) -> Iterator[tuple[int, int]]:
        start = 0
        for request in self.requests:
            yield start, start + request.items
            start += request.items

    def _larger(self, name: str, request: _Request) -> tuple[int, ...]:
        return tuple(map(max, self._sizes[name], request.shapes[name][1:]))


def _joined(arrays: Sequence[NDArray[Any] | AudioBatch], sizes: tuple[int, ...]) -> NDArray[Any] | AudioBatch:
    audio = [array for array in arrays if isinstance(array, AudioBatch)]
    if audio:
        return AudioBatch(items=[item for array in audio for item in array.items], size=sizes[0], dtype=audio[0].dtype)
    padded = [pad_to(array, len(array), *sizes) for array in arrays if not isinstance(array, AudioBatch)]
    joined: NDArray[Any] = np.concatenate(padded)
    return joined
