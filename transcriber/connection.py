"""Connect to a Triton server over gRPC: send requests, repeat them during an outage, compare its tensors."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from contract.catalogue import Family, Tensor
from contract.errors import ServerContractError, ServerUnreachableError
from contract.synthetic_inputs import DTYPES
from transcriber.endpoint import ENDPOINT_VARIABLE, RETRY_TIMEOUT_S, checked_endpoint
from transcriber.parameters import SERVE_REMEDY
from transcriber.recogniser import RequestError

REQUEST_TIMEOUT_S = 60.0
_STATUS_TIMEOUT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_TRANSIENT = ("StatusCode.UNAVAILABLE", "StatusCode.RESOURCE_EXHAUSTED")
# A server that stops still answers: first that a model it serves "is not at ready state" (UNAVAILABLE), then that the
# model "has no available versions" (NOT_FOUND). A model that the server does not know "is not found".
_UNLOADED = ("StatusCode.NOT_FOUND", "has no available versions")
# By default gRPC's own pause between two attempts to connect grows to two minutes, longer than the retry timeout.
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
# A name may stand for several servers. By default all requests would go to the first one that answers.
_ROUND_ROBIN = ("grpc.lb_policy_name", "round_robin")

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class SequencePosition:
    """Where a request stands in a stream. Clients choose the numbers of streams; 0 is not allowed."""

    stream: int
    start: bool
    end: bool


class Connection:
    """A server at an endpoint, for several threads. While the server is away, calls are repeated for a while."""

    def __init__(
        self,
        endpoint: str,
        *,
        retry_timeout_s: float = RETRY_TIMEOUT_S,
        notify: Callable[[str], object] = lambda _: None,
        one_server: bool = False,
    ) -> None:
        """Prepare a connection to `host:port`; raise SettingError for anything else. Nothing is sent yet.

        Where the name stands for several servers, requests take turns among them. With `one_server` all of them go to
        one server, as the requests of a stream must. `notify` is called once for each outage, with a sentence.
        """
        self.endpoint = checked_endpoint(endpoint)
        self._channel = [*_CHANNEL, *([] if one_server else [_ROUND_ROBIN])]
        self._retry_timeout_s, self._notify = retry_timeout_s, notify
        # tritonclient does not promise that threads can share a client. One client a thread, they share the channel.
        self._local = threading.local()
        self._closed = threading.Event()
        self._outage = _Outage()

    def close(self) -> None:
        """End the waiting of every thread that waits for the server."""
        self._closed.set()

    def is_ready(self, model: str) -> bool:
        """Return whether a model takes requests now; False also while the server is away."""
        try:
            return bool(self._client().is_model_ready(model, client_timeout=_STATUS_TIMEOUT_S))
        except InferenceServerException:
            return False

    def first_ready(self, models: tuple[str, ...]) -> str | None:
        """Wait for the server and return the first model of the list that is ready; None when it has none of them.

        Raises ServerUnreachableError when the server is not ready within the retry timeout.
        """

        def attempt() -> str | None:
            is_loaded, cause = self._server_state()
            ready = [model for model in models if self.is_ready(model)]
            if is_loaded or ready[:1] == [models[0]]:
                return ready[0] if ready else None
            raise _AwayError(cause)

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

    def infer(
        self,
        model: str,
        family: Family,
        inputs: dict[str, NDArray[Any]],
        position: SequencePosition | None = None,
        *,
        is_brief: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """Run a model on arrays with a batch axis; a scalar per item has the shape [batch, 1] on the wire.

        Raises RequestError when the server refuses the request, ServerUnreachableError in a long outage. A request in
        the middle of a stream is sent once: when no answer comes, the server may have processed it or not. A request
        that `is_brief` is sent once as well, with the short timeout of status requests.
        """
        types = {tensor.name: tensor.type for tensor in family.inputs}
        tensors = [_input(name, types[name], array) for name, array in inputs.items()]
        outputs = [InferRequestedOutput(tensor.name) for tensor in family.outputs]
        sequence: dict[str, Any] = {}
        if position is not None:
            sequence = {
                "sequence_id": position.stream,
                "sequence_start": position.start,
                "sequence_end": position.end,
            }
        timeout_s = _STATUS_TIMEOUT_S if is_brief else REQUEST_TIMEOUT_S
        response = self._call(
            lambda client: client.infer(model, tensors, outputs=outputs, client_timeout=timeout_s, **sequence),
            once=is_brief or (position is not None and not position.start),
        )
        return {tensor.name: _output(response, tensor, model) for tensor in family.outputs}

    def _config(self, model: str) -> Any:
        response = self._describe(
            model, lambda client: client.get_model_config(model, client_timeout=_STATUS_TIMEOUT_S)
        )
        return response.config

    def _describe(self, model: str, action: Callable[[InferenceServerClient], Any]) -> Any:
        try:
            return self._call(action)
        except RequestError as error:
            cause = f"its metadata or configuration cannot be read ({error})"
            raise ServerContractError(f"{model} at {self.endpoint}", cause, SERVE_REMEDY) from error

    def _call(self, action: Callable[[InferenceServerClient], Result], *, once: bool = False) -> Result:
        """Call the server, and repeat the call while the server is away, unless `once` is set."""

        def attempt() -> Result:
            try:
                return action(self._client())
            except InferenceServerException as error:
                if once or not _is_transient(error):
                    raise RequestError(error.message()) from error
                raise _AwayError(error.message()) from error

        return self._with_retries(attempt)

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

    def _server_state(self) -> tuple[bool, str]:
        """Return whether the server has loaded its models, and if not, the reason."""
        try:
            ready = self._client().is_server_ready(client_timeout=_STATUS_TIMEOUT_S)
        except InferenceServerException as error:
            return False, error.message()
        return bool(ready), "" if ready else "it is up, but not all of its models are ready"

    def _unreachable(self, cause: str) -> ServerUnreachableError:
        details = " ".join(cause.split()) or "it is not ready"
        return ServerUnreachableError(
            self.endpoint,
            f"no server is ready there after {self._retry_timeout_s:.0f} s ({details.rstrip('.')})",
            "Start one with `python -m runtime`, or name its gRPC port (usually 8001) with --endpoint or "
            f"{ENDPOINT_VARIABLE}",
        )

    def _client(self) -> InferenceServerClient:
        if not hasattr(self._local, "client"):
            self._local.client = InferenceServerClient(self.endpoint, channel_args=self._channel)
        client: InferenceServerClient = self._local.client
        return client


def _is_transient(error: InferenceServerException) -> bool:
    status, text = _UNLOADED
    return error.status() in _TRANSIENT or (error.status() == status and text in error.message())


class _AwayError(Exception):
    """The server does not answer, or does not take requests now: the same call may succeed later."""


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


def _input(name: str, kind: str, array: NDArray[Any]) -> InferInput:
    typed = np.ascontiguousarray(array, dtype=DTYPES[kind])
    shaped = typed[:, None] if typed.ndim == 1 else typed
    tensor = InferInput(name, list(shaped.shape), kind)
    tensor.set_data_from_numpy(shaped)
    return tensor


def _output(response: Any, tensor: Tensor, model: str) -> NDArray[Any]:
    array: NDArray[Any] | None = response.as_numpy(tensor.name)
    if array is None:
        raise RequestError(f"the response of {model} has no {tensor.name}")
    return array
