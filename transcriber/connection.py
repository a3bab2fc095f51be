"""Connect to a Triton server over gRPC: send requests, repeat them during an outage, compare its tensors."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from contract.access import PLAIN, Access
from contract.catalogue import Family, Tensor
from contract.errors import ServerContractError, ServerUnreachableError
from contract.synthetic_inputs import DTYPES
from transcriber import wire
from transcriber.buckets import Arrays, AudioBatch
from transcriber.channel import IDLE_S, REFUSALS, Channels, Client
from transcriber.endpoint import ENDPOINT_VARIABLE, RETRY_TIMEOUT_S, checked_endpoint
from transcriber.parameters import SERVE_REMEDY
from transcriber.recogniser import CancelledRequestError, RequestError

# The longest time until the answer. Pings detect a connection that is gone sooner: these limits are for a server that
# lives and does not answer. The first request of a stream waits for a place, which a client that vanished holds for up
# to a minute. A later request has one.
REQUEST_TIMEOUT_S, START_TIMEOUT_S, STEP_TIMEOUT_S = 60.0, 90.0, 20.0
_STATUS_TIMEOUT_S = 5.0
# Longer than it takes to detect a connection that is gone, which is no waiting for a place.
_PLACE_NOTICE_S = 12.0
_DEADLINE = "StatusCode.DEADLINE_EXCEEDED"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_TRANSIENT = ("StatusCode.UNAVAILABLE", "StatusCode.RESOURCE_EXHAUSTED")
# A server that stops still answers: first that a model it serves "is not at ready state" (UNAVAILABLE), then that the
# model "has no available versions" (NOT_FOUND). A model that the server does not know "is not found".
_UNLOADED = ("StatusCode.NOT_FOUND", "has no available versions")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class SequencePosition:
    """Where a request stands in a stream. Clients choose the numbers of streams; 0 is not allowed."""

    stream: int
    start: bool
    end: bool

    @property
    def timeout_s(self) -> float:
        """Return the longest time until the answer to this request."""
        return START_TIMEOUT_S if self.start else STEP_TIMEOUT_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """How many streams a model takes at a time, and when it drops a stream that sends nothing."""

    count: int
    idle_s: float


class Connection:
    """A server at an endpoint, for several threads. While the server is away, calls are repeated for a while."""

    def __init__(
        self,
        endpoint: str,
        *,
        access: Access = PLAIN,
        retry_timeout_s: float = RETRY_TIMEOUT_S,
        notify: Callable[[str], object] = lambda _: None,
        one_server: bool = False,
    ) -> None:
        """Prepare a connection to `host:port`; raise SettingError for anything else. Nothing is sent yet.

        Where the name stands for several servers, requests take turns among them. With `one_server` all of them go to
        one server, as the requests of a stream must. `notify` is called once for each outage, with a sentence.
        """
        self.endpoint = checked_endpoint(endpoint)
        self._channels = Channels(self.endpoint, access, one_server=one_server)
        self._retry_timeout_s, self._notify = retry_timeout_s, notify
        # tritonclient does not promise that threads can share a client. One client a thread, they share the channel.
        self._local = threading.local()
        self._closed = threading.Event()
        self._outage, self._use = _Outage(), _Use()
        self._has_answered = False
        self._place_reported = threading.Event()

    def close(self) -> None:
        """End the waiting of every thread that waits for the server."""
        self._closed.set()

    def is_ready(self, model: str) -> bool:
        """Return whether a model takes requests now; False also while the server is away."""
        try:
            with self._used_client() as client:
                return bool(client.is_model_ready(model, client_timeout=_STATUS_TIMEOUT_S))
        except InferenceServerException:
            return False

    def serves(self, model: str) -> bool:
        """Return whether a model takes requests; repeat the question while the server is away."""
        try:
            return bool(self._query(lambda client: client.is_model_ready(model, client_timeout=_STATUS_TIMEOUT_S)))
        except RequestError:
            return False

    def first_ready(self, models: tuple[str, ...]) -> str | None:
        """Wait for the server and return the first model of the list that is ready; None when it has none of them.

        Raises ServerUnreachableError when the server is not ready within the retry timeout.
        """

        def attempt() -> str | None:
            away = self._away()
            ready = [model for model in models if self.is_ready(model)]
            if away is None or ready[:1] == [models[0]]:
                return ready[0] if ready else None
            raise away

        try:
            return self._with_retries(attempt)
        except ServerUnreachableError:
            # One model that failed to load keeps a server from being ready, and need not be a model of the list.
            ready = [model for model in models if self.is_ready(model)]
            if not ready:
                raise
            return ready[0]

    def check(self, model: str, family: Family) -> None:
        """Compare the server's tensors with the catalogue's; raise ServerContractError that names what differs."""
        metadata = self._describe(
            model, lambda client: client.get_model_metadata(model, client_timeout=_STATUS_TIMEOUT_S)
        )
        subject = f"{model} at {self.endpoint}"
        _compare(subject, "input", family.inputs, metadata.inputs)
        _compare(subject, "output", family.outputs, metadata.outputs)

    def parameters(self, model: str) -> dict[str, str]:
        """Return the parameters of a model's configuration: what a client must know of its weights."""
        return {name: value.string_value for name, value in self._config(model).parameters.items()}

    def is_streaming(self, model: str) -> bool:
        """Return whether a model keeps states between the requests of a stream, as a server in real-time mode does."""
        return bool(self._config(model).HasField("sequence_batching"))

    def most_items(self, model: str) -> int:
        """Return the largest batch of a model; 1 for one without batches."""
        return max(1, int(self._config(model).max_batch_size))

    def servers(self) -> int:
        """Return among how many servers the requests take turns, as far as it can be known."""
        return self._channels.servers()

    def places(self, model: str) -> Places:
        """Return the places for streams of a model that keeps states."""
        batching = self._config(model).sequence_batching
        return Places(
            count=batching.oldest.max_candidate_sequences, idle_s=batching.max_sequence_idle_microseconds / 1e6
        )

    def infer(
        self,
        model: str,
        family: Family,
        inputs: Arrays,
        position: SequencePosition | None = None,
        *,
        is_brief: bool = False,
        places: Places | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run a model on arrays with a batch axis; a scalar per item has the shape [batch, 1] on the wire.

        Raises RequestError when the server refuses the request, ServerUnreachableError in a long outage. A request in
        the middle of a stream is sent once: when no answer comes, the server may have processed it or not. A request
        that `is_brief` is sent once as well, with the short timeout of status requests. With `places`, the first
        request of a stream reports that it waits for one of them. It raises CancelledRequestError soon after
        `is_cancelled` returns True, as does each later one.
        """
        types = {tensor.name: tensor.type for tensor in family.inputs}
        sequence: dict[str, int | bool] = {}
        if position is not None:
            sequence = {
                "sequence_id": position.stream,
                "sequence_start": position.start,
                "sequence_end": position.end,
            }
        tensors = [(name, types[name], _wire_array(array, types[name])) for name, array in inputs.items()]
        message = wire.message(model, tensors, [tensor.name for tensor in family.outputs], sequence)
        timeout_s = _STATUS_TIMEOUT_S if is_brief else REQUEST_TIMEOUT_S if position is None else position.timeout_s

        # It has its place already. A call that can be cancelled takes more processor time.
        is_later = position is not None and not position.start

        def send(client: Client) -> dict[str, NDArray[Any]]:
            if is_cancelled is not None and is_cancelled():
                raise CancelledRequestError(f"the request for {model} was cancelled")
            with self._reported_wait(places if position is not None and position.start else None):
                return client.send(message, timeout_s, None if is_later else is_cancelled)

        try:
            found = self._call(send, once=is_brief or is_later)
        except _DeadlineError as error:
            raise RequestError(f"{model} did not answer within {timeout_s:g} s") from error
        for tensor in family.outputs:
            if tensor.name not in found:
                raise RequestError(f"the response of {model} has no {tensor.name}")
        return found

    def _config(self, model: str) -> Any:
        response = self._describe(
            model, lambda client: client.get_model_config(model, client_timeout=_STATUS_TIMEOUT_S)
        )
        return response.config

    def _describe(self, model: str, action: Callable[[Client], Any]) -> Any:
        try:
            return self._query(action)
        except RequestError as error:
            cause = f"its metadata or configuration cannot be read ({error})"
            raise ServerContractError(f"{model} at {self.endpoint}", cause, SERVE_REMEDY) from error

    def _query(self, action: Callable[[Client], Result]) -> Result:
        """Call the server for something that it answers at once, so that no answer in time is an outage as well."""

        def attempt() -> Result:
            try:
                return self._try(action)
            except _DeadlineError as error:
                raise _AwayError(str(error), _DEADLINE) from error

        return self._with_retries(attempt)

    def _call(self, action: Callable[[Client], Result], *, once: bool = False) -> Result:
        """Call the server, and repeat the call while the server is away, unless `once` is set."""

        def attempt() -> Result:
            try:
                return self._try(action)
            except _AwayError as error:
                if once:
                    raise RequestError(str(error)) from error
                raise

        return self._with_retries(attempt)

    def _try(self, action: Callable[[Client], Result]) -> Result:
        """Call the server once; raise _AwayError, _DeadlineError, or RequestError for a request that it refuses."""
        try:
            with self._used_client() as client:
                found = action(client)
        except InferenceServerException as error:
            if error.status() == _DEADLINE:
                raise _DeadlineError(error.message()) from error
            if _is_transient(error) or (not self._has_answered and error.status() in REFUSALS):
                raise _AwayError(error.message(), error.status()) from error
            self._has_answered = True
            raise RequestError(error.message()) from error
        self._has_answered = True
        return found

    def _with_retries(self, attempt: Callable[[], Result]) -> Result:
        """Repeat an attempt that raises _AwayError, with growing pauses, until the timeout or until `close`."""
        pause_s, end_s = _FIRST_PAUSE_S, time.monotonic() + self._retry_timeout_s
        is_waiting = succeeded = False
        try:
            while True:
                began_s = time.monotonic()
                try:
                    result = attempt()
                except _AwayError as error:
                    self._check_permanent(error)
                    if self._closed.is_set() or time.monotonic() + pause_s > end_s:
                        raise self._unreachable(str(error)) from error
                    if self._outage.wait(began_s, is_first=not is_waiting):
                        self._notify(
                            f"waiting for the server at {self.endpoint}, for at most {self._retry_timeout_s:.0f} s"
                        )
                    is_waiting = True
                    self._closed.wait(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                else:
                    succeeded = True
                    return result
        finally:
            self._outage.leave(was_waiting=is_waiting, succeeded=succeeded)

    def _away(self) -> "_AwayError | None":
        """Return None if the server has loaded its models, or else the reason to wait for it."""
        try:
            ready = self._try(lambda client: client.is_server_ready(client_timeout=_STATUS_TIMEOUT_S))
        except _DeadlineError as error:
            return _AwayError(str(error), _DEADLINE)
        except _AwayError as error:
            return error
        except RequestError as error:
            return _AwayError(str(error))
        return None if ready else _AwayError("it is up, but not all of its models are ready")

    def _check_permanent(self, away: "_AwayError") -> None:
        """Raise ServerUnreachableError where waiting is of no use. A server that answered before is not checked."""
        if self._has_answered:
            return
        problem = self._channels.permanent_problem(away.status, str(away))
        if problem is not None:
            raise ServerUnreachableError(self.endpoint, problem.cause, problem.remedy)

    @contextlib.contextmanager
    def _reported_wait(self, places: Places | None) -> Iterator[None]:
        """Report once that a request waits for a place, if its answer takes long."""
        if places is None:
            yield
            return
        timer = threading.Timer(_PLACE_NOTICE_S, self._report_wait, (places,))
        timer.daemon = True
        timer.start()
        try:
            yield
            self._place_reported.clear()
        finally:
            timer.cancel()

    def _report_wait(self, places: Places) -> None:
        if self._place_reported.is_set():
            return
        self._place_reported.set()
        self._notify(
            f"waiting for a place: the server at {self.endpoint} has not answered for {_PLACE_NOTICE_S:.0f} s, and its "
            f"{places.count} places for streams may all be taken. The place of a client that vanished is free again "
            f"after {places.idle_s:.0f} s"
        )

    def _unreachable(self, cause: str) -> ServerUnreachableError:
        details = " ".join(cause.split()) or "it is not ready"
        return ServerUnreachableError(
            self.endpoint,
            f"no server is ready there after {self._retry_timeout_s:.0f} s ({details.rstrip('.')})",
            self._channels.proxy_remedy()
            or "Start one with `python -m runtime`, or name its gRPC port (usually 8001) with --endpoint or "
            f"{ENDPOINT_VARIABLE}",
        )

    @contextlib.contextmanager
    def _used_client(self) -> Iterator[Client]:
        """Yield this thread's client, another one where the connection was idle for so long that it may be gone."""
        generation = self._use.begin()
        try:
            if getattr(self._local, "generation", None) != generation:
                if hasattr(self._local, "client"):
                    self._local.client.close()
                self._local.client, self._local.generation = self._channels.open(generation), generation
            yield self._local.client
        finally:
            self._use.end()


def _is_transient(error: InferenceServerException) -> bool:
    status, text = _UNLOADED
    return error.status() in _TRANSIENT or (error.status() == status and text in error.message())


class _AwayError(Exception):
    """The server does not answer, or does not take requests now: the same call may succeed later."""

    def __init__(self, text: str, status: str | None = None) -> None:
        super().__init__(text)
        self.status = status


class _DeadlineError(Exception):
    """No answer came in time."""


class _Use:
    """Count the requests in flight of all threads; after a pause without any a new generation of connections begins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight, self._generation, self._ended_s = 0, 0, time.monotonic()

    def begin(self) -> int:
        """Register a request and return the generation of its connection."""
        with self._lock:
            if not self._in_flight and time.monotonic() - self._ended_s > IDLE_S:
                self._generation += 1
            self._in_flight += 1
            return self._generation

    def end(self) -> None:
        """Register the end of a request."""
        with self._lock:
            self._in_flight -= 1
            self._ended_s = time.monotonic()


class _Outage:
    """Decide for all threads of a connection when an outage is reported: once, until no call waits any more.

    While a server comes back, calls to the models that it has loaded succeed and others still fail. So an outage ends
    with the success of the last waiting call. A failed call that was sent before that end belongs to the same outage.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0
        self._is_reported = False
        self._ended_s = float("-inf")

    def wait(self, began_s: float, *, is_first: bool) -> bool:
        """Register a failed attempt that began at `began_s` and is repeated; return whether to report the outage."""
        with self._lock:
            self._waiting += is_first
            if self._is_reported or began_s < self._ended_s:
                return False
            self._is_reported = True
            return True

    def leave(self, *, was_waiting: bool, succeeded: bool) -> None:
        """Register the end of a call."""
        with self._lock:
            self._waiting -= was_waiting
            if self._is_reported and succeeded and not self._waiting:
                self._is_reported, self._ended_s = False, time.monotonic()


def _compare(subject: str, kind: str, expected: tuple[Tensor, ...], served: Any) -> None:
    found = {tensor.name: tensor for tensor in served}
    for tensor in expected:
        if tensor.name not in found:
            has = ", ".join(sorted(found))
            raise ServerContractError(subject, f"it has no {kind} {tensor.name}, only {has}", SERVE_REMEDY)
        there, shape = found[tensor.name], _wire_shape(tensor)
        if there.datatype != tensor.type or not _shapes_agree(list(there.shape), shape):
            cause = (
                f"its {kind} {tensor.name} is {there.datatype} {list(there.shape)}, and this client uses "
                f"{tensor.type} {shape}"
            )
            raise ServerContractError(subject, cause, SERVE_REMEDY)
    for name in found.keys() - {tensor.name for tensor in expected}:
        if kind == "input":
            raise ServerContractError(subject, f"it needs an input {name}, which this client lacks", SERVE_REMEDY)


def _wire_shape(tensor: Tensor) -> list[int]:
    """Return a tensor's shape on the wire, -1 for any size. Triton has no batch of scalars, only a batch of [1]."""
    return [-1, *(axis if isinstance(axis, int) else -1 for axis in tensor.shape or (1,))]


def _shapes_agree(served: list[int], expected: list[int]) -> bool:
    return len(served) == len(expected) and all(
        there in (-1, size) or size == -1 for there, size in zip(served, expected, strict=True)
    )


def _wire_array(array: NDArray[Any] | AudioBatch, kind: str) -> NDArray[Any] | AudioBatch:
    if isinstance(array, AudioBatch):
        return replace(array, dtype=DTYPES[kind])
    typed = np.ascontiguousarray(array, dtype=DTYPES[kind])
    return typed[:, None] if typed.ndim == 1 else typed
