"""Speaks to the server over gRPC: checks what it serves, pads to buckets, waits where waiting may help."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from contract.catalogue import (
    BATCH_MODE,
    REALTIME_MODE,
    Family,
    Tensor,
    catalogue,
    check_operating_point,
    model_name,
)
from contract.errors import ServerContractError, ServerUnreachableError, SettingError
from contract.synthetic_inputs import DTYPES
from transcriber import ngram
from transcriber.ctc import Emissions, Floats, Integers
from transcriber.endpoint import ENDPOINT_VARIABLE, PATIENCE_S, checked_endpoint
from transcriber.features import MEL_BANDS
from transcriber.ngram import Ngram
from transcriber.recogniser import Features, Heard, RequestError

REQUEST_TIMEOUT_S = 60.0
_STATUS_TIMEOUT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
# Better first: without a wish, the best that is served is used.
_PREFERRED_POINTS = ("enhanced", "standard")
_RESCORERS = ("decoder", "lm")
_TRANSIENT = ("StatusCode.UNAVAILABLE", "StatusCode.RESOURCE_EXHAUSTED")
# gRPC's own pause between two attempts to connect grows to two minutes, longer than our patience.
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
# A name may stand for several servers. By default all requests would go to the first that answers.
_IN_TURNS = ("grpc.lb_policy_name", "round_robin")
_SERVE_REMEDY = "Serve the models of this client's own release, or transcribe with the client of the server's release"

Result = TypeVar("Result")


class TritonRecogniser:
    """The models of one language at one operating point on a server that was checked; see Recogniser."""

    mode = BATCH_MODE

    def __init__(self, connection: "Connection", language: str, operating_point: str) -> None:
        """Check and read what the server says of its models; raise ServerContractError where they are others."""
        self.language, self.operating_point = language, operating_point
        self._connection = connection
        self._ensemble = self._checked(f"ensemble_{language}")
        head = connection.parameters(self._model(f"am_{language}"))
        self.pieces: tuple[str, ...] = _pieces(head, self._model(f"am_{language}"))
        self.ngram = _ngram(head, len(self.pieces), self._model(f"am_{language}"))
        self.rescorers = tuple(family for family in _RESCORERS if self._is_served(family))
        self._families = {family: self._checked(family) for family in self.rescorers}
        self.same_speaker_similarity: float | None = None
        if self._is_served("diar"):
            self._families["diar"] = self._checked("diar")
            self.same_speaker_similarity = _similarity(connection.parameters(self._model("diar")), self._model("diar"))

    def recognise(self, features: Features) -> Heard:
        """Recognise a segment: log-mel FP16 [frames, 80]."""
        return _heard(self._infer(self._ensemble, _padded([features], self._ensemble, self.mode)))

    def score(self, family: str, heard: Heard, hypotheses: Integers, lengths: Integers) -> Floats:
        """Score hypotheses INT32 [N, L] of lengths [N]: the summed log-probabilities FP32 [N]."""
        spec = self._families[family]
        known: dict[str, NDArray[Any]] = {
            "encoder_lengths": np.array([heard.encoder_length], dtype=np.int32),
            **_padded_hypotheses(hypotheses, lengths, spec, self.mode),
        }
        if any(tensor.name == "encoder_out" for tensor in spec.inputs):
            frames = len(heard.encoder_out)
            missing = _bucket(spec, self.mode, "encoder_frames", frames) - frames
            known["encoder_out"] = np.pad(heard.encoder_out, ((0, missing), (0, 0)))[None]
        answer = self._infer(spec, {tensor.name: known[tensor.name] for tensor in spec.inputs})
        scores: Floats = answer["scores"][0, : len(lengths)]
        return scores

    def embed(self, windows: list[Features]) -> Floats:
        """Embed stretches of speech, each FP16 [frames, 80]: unit vectors FP32 [len(windows), E]."""
        spec = self._families["diar"]
        largest = spec.modes[self.mode].batch.max
        parts = []
        for start in range(0, len(windows), largest):
            inputs = _padded(windows[start : start + largest], spec, self.mode)
            parts.append(self._infer(spec, inputs)["embedding"])
        return np.concatenate(parts)

    def _infer(self, family: Family, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._connection.infer(self._model(family.name), family, inputs)

    def _model(self, family: str) -> str:
        return model_name(family, self.operating_point)

    def _is_served(self, family: str) -> bool:
        served = self.operating_point in catalogue()[family].operating_points
        return served and self._connection.is_ready(self._model(family))

    def _checked(self, family: str) -> Family:
        spec = catalogue()[family]
        self._connection.check(self._model(family), spec)
        return spec


class TritonStreams(TritonRecogniser):
    """The models of a server in real-time mode; see StreamRecogniser."""

    mode = REALTIME_MODE

    def __init__(self, connection: "Connection", language: str, operating_point: str) -> None:
        """Check and read what the server says of its models; raise ServerContractError where they are others."""
        super().__init__(connection, language, operating_point)
        mode = self._ensemble.modes[self.mode]
        self.window_frames, self.overlap_frames = mode.axes["frames"].max, mode.overlap

    def step(self, stream: int, window: Features, *, start: bool, end: bool) -> Heard:
        """Recognise the next window of a stream; see StreamRecogniser."""
        inputs = _padded([window], self._ensemble, self.mode)
        place = Place(stream=stream, start=start, end=end)
        return _heard(self._connection.infer(self._model(self._ensemble.name), self._ensemble, inputs, place))

    def give_up(self, stream: int) -> None:
        """Let the server forget a stream; see StreamRecogniser."""
        inputs = _padded([np.zeros((0, MEL_BANDS), dtype=np.float16)], self._ensemble, self.mode)
        # Begun and ended at once, it also is one that the server does not know, and nothing else is refused.
        place = Place(stream=stream, start=True, end=True)
        with contextlib.suppress(RequestError):
            self._connection.infer(self._model(self._ensemble.name), self._ensemble, inputs, place, hurried=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Which request of which stream one is; the numbers of streams are the clients' choice, and not zero."""

    stream: int
    start: bool
    end: bool


class Connection:
    """A server at an endpoint, for several threads; every call waits out a server that is away for a while."""

    def __init__(
        self,
        endpoint: str,
        *,
        patience_s: float = PATIENCE_S,
        notify: Callable[[str], object] = lambda _: None,
        one_server: bool = False,
    ) -> None:
        """Prepare to speak to `host:port`; raise SettingError when it is none. Nothing is sent yet.

        Where the name stands for several servers they are asked in turns, or with `one_server` one of them always: a
        stream is known to one alone.
        """
        self.endpoint = checked_endpoint(endpoint)
        self._channel = [*_CHANNEL, *([] if one_server else [_IN_TURNS])]
        self._patience_s, self._notify = patience_s, notify
        # tritonclient promises nothing about one client in several threads; one each shares the channel all the same.
        self._local = threading.local()
        self._closed = threading.Event()
        self._absence_told = False

    def close(self) -> None:
        """Wake every thread that waits for the server, so that it gives up."""
        self._closed.set()

    def is_ready(self, model: str) -> bool:
        """Say whether a model can be asked now; False as well while the server is away."""
        try:
            return bool(self._client().is_model_ready(model, client_timeout=_STATUS_TIMEOUT_S))
        except InferenceServerException:
            return False

    def first_ready(self, models: tuple[str, ...]) -> str:
        """Wait until a model is ready, and name the first of those that are.

        Raises ServerContractError when the server is up without any of them, ServerUnreachableError when it is not up
        within the patience.
        """
        for _ in self._patiently():
            settled, cause = self._state()
            ready = [model for model in models if self.is_ready(model)]
            if ready and (settled or ready[0] == models[0]):
                return ready[0]
            if settled:
                raise ServerContractError(self.endpoint, self._without(models), _SERVE_REMEDY)
        # One model that failed to load keeps a server from being ready, and need not be the one wanted here.
        ready = [model for model in models if self.is_ready(model)]
        if ready:
            return ready[0]
        raise self._unreachable(cause)

    def check(self, model: str, family: Family) -> None:
        """Compare the server's tensors with the catalogue's; raise ServerContractError that names what differs."""
        metadata = self._described(
            model, lambda client: client.get_model_metadata(model, client_timeout=_STATUS_TIMEOUT_S)
        )
        subject = f"{model} at {self.endpoint}"
        for kind, wanted, served in (
            ("input", family.inputs, metadata.inputs),
            ("output", family.outputs, metadata.outputs),
        ):
            _compare(subject, kind, wanted, served)

    def parameters(self, model: str) -> dict[str, str]:
        """Read the parameters of a model's configuration: what a client must know of its weights."""
        return {name: value.string_value for name, value in self._config(model).parameters.items()}

    def takes_streams(self, model: str) -> bool:
        """Say whether a model keeps states between the requests of a stream: whether it is served in real time."""
        return bool(self._config(model).HasField("sequence_batching"))

    def infer(
        self,
        model: str,
        family: Family,
        inputs: dict[str, NDArray[Any]],
        place: Place | None = None,
        *,
        hurried: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """Run a model on arrays with a batch axis; scalars an item have the shape [batch, 1] on the wire.

        Raises RequestError when the server refuses, ServerUnreachableError when it stays away. A request in the middle
        of a stream is asked once: nobody knows whether a server that fell silent has heard it. So is a `hurried` one,
        with little patience.
        """
        types = {tensor.name: tensor.type for tensor in family.inputs}
        tensors = [_input(name, types[name], array) for name, array in inputs.items()]
        wanted = [InferRequestedOutput(tensor.name) for tensor in family.outputs]
        sequence: dict[str, Any] = {}
        if place is not None:
            sequence = {"sequence_id": place.stream, "sequence_start": place.start, "sequence_end": place.end}
        timeout_s = _STATUS_TIMEOUT_S if hurried else REQUEST_TIMEOUT_S
        answer = self._ask(
            lambda client: client.infer(model, tensors, outputs=wanted, client_timeout=timeout_s, **sequence),
            once=hurried or (place is not None and not place.start),
        )
        return {tensor.name: _output(answer, tensor, model) for tensor in family.outputs}

    def _config(self, model: str) -> Any:
        answer = self._described(model, lambda client: client.get_model_config(model, client_timeout=_STATUS_TIMEOUT_S))
        return answer.config

    def _described(self, model: str, action: Callable[[InferenceServerClient], Any]) -> Any:
        try:
            return self._ask(action)
        except RequestError as error:
            cause = f"it does not say what it is ({error})"
            raise ServerContractError(f"{model} at {self.endpoint}", cause, _SERVE_REMEDY) from error

    def _ask(self, action: Callable[[InferenceServerClient], Result], *, once: bool = False) -> Result:
        """Act on a client, again and again while the server is away, unless it is for `once`."""
        cause = ""
        for _ in self._patiently():
            try:
                result = action(self._client())
            except InferenceServerException as error:
                if once or error.status() not in _TRANSIENT:
                    raise RequestError(error.message()) from error
                cause = error.message()
            else:
                self._absence_told = False
                return result
        raise self._unreachable(cause)

    def _patiently(self) -> Iterator[None]:
        """Yield for each attempt, with growing pauses, until the patience is over or the connection is closed."""
        pause_s, end_s = _FIRST_PAUSE_S, time.monotonic() + self._patience_s
        yield
        while not self._closed.is_set() and time.monotonic() + pause_s <= end_s:
            if not self._absence_told:
                # Once for all threads: they miss the same server.
                self._absence_told = True
                self._notify(f"waiting for the server at {self.endpoint}, for at most {self._patience_s:.0f} s")
            self._closed.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            yield

    def _state(self) -> tuple[bool, str]:
        """Say whether the server has finished loading, and if not, what it is doing instead."""
        try:
            ready = self._client().is_server_ready(client_timeout=_STATUS_TIMEOUT_S)
        except InferenceServerException as error:
            return False, error.message()
        return bool(ready), "" if ready else "it is up, but not all of its models are ready"

    def _without(self, models: tuple[str, ...]) -> str:
        answer = self._ask(lambda client: client.get_model_repository_index(client_timeout=_STATUS_TIMEOUT_S))
        served = sorted(model.name for model in answer.models if model.state == "READY")
        return f"it serves no {' and no '.join(models)}, but {', '.join(served) or 'no model at all'}"

    def _unreachable(self, cause: str) -> ServerUnreachableError:
        details = " ".join(cause.split()) or "it is not ready"
        return ServerUnreachableError(
            self.endpoint,
            f"no server is ready there after {self._patience_s:.0f} s ({details.rstrip('.')})",
            "Start one with `python -m runtime`, or name its gRPC port (usually 8001) with --endpoint or "
            f"{ENDPOINT_VARIABLE}",
        )

    def _client(self) -> InferenceServerClient:
        if not hasattr(self._local, "client"):
            self._local.client = InferenceServerClient(self.endpoint, channel_args=self._channel)
        client: InferenceServerClient = self._local.client
        return client


def connect(connection: Connection, language: str, operating_point: str | None) -> TritonRecogniser:
    """Wait for a server and choose its models: those of the point asked for, or else the best that is served.

    Raises SettingError for an unknown language or point, ServerUnreachableError, ServerContractError.
    """
    return TritonRecogniser(connection, language, _point(connection, language, operating_point, BATCH_MODE))


def connect_streams(connection: Connection, language: str, operating_point: str | None) -> TritonStreams:
    """Do what `connect` does with a server in real-time mode."""
    return TritonStreams(connection, language, _point(connection, language, operating_point, REALTIME_MODE))


def _point(connection: Connection, language: str, operating_point: str | None, mode: str) -> str:
    family = f"ensemble_{language}"
    if family not in catalogue():
        known = ", ".join(name.removeprefix("ensemble_") for name in catalogue() if name.startswith("ensemble_"))
        raise SettingError("--language", f"{language!r} is no language of the catalogue", f"Use {known}")
    if operating_point is not None:
        check_operating_point(operating_point, "--operating-point")
    points = (operating_point,) if operating_point else _PREFERRED_POINTS
    ready = connection.first_ready(tuple(model_name(family, point) for point in points))
    point = ready.removeprefix(f"{family}_")
    # Of the steps, the first one hears the stream.
    streams = connection.takes_streams(model_name(catalogue()[family].steps[0], point))
    if streams != (mode == REALTIME_MODE):
        raise _other_mode(connection.endpoint, streams=streams)
    return point


def _other_mode(endpoint: str, *, streams: bool) -> ServerContractError:
    if streams:
        cause = "it is served in real time, for streams and not for recordings"
        return ServerContractError(endpoint, cause, "Use --realtime, or start the server with SM_BATCH_MODE=true")
    cause = "it is served for recordings and not in real time"
    return ServerContractError(endpoint, cause, "Leave --realtime out, or start the server with SM_BATCH_MODE=false")


def _compare(subject: str, kind: str, wanted: tuple[Tensor, ...], served: Any) -> None:
    found = {tensor.name: tensor for tensor in served}
    for tensor in wanted:
        if tensor.name not in found:
            raise ServerContractError(subject, f"it has no {kind} {tensor.name}", _SERVE_REMEDY)
        there = found[tensor.name]
        expected = _wire_shape(tensor)
        if there.datatype != tensor.type or not _admits(list(there.shape), expected):
            cause = (
                f"its {kind} {tensor.name} is {there.datatype} {list(there.shape)}, and this client speaks "
                f"{tensor.type} {expected}"
            )
            raise ServerContractError(subject, cause, _SERVE_REMEDY)
    for name in found.keys() - {tensor.name for tensor in wanted}:
        if kind == "input":
            raise ServerContractError(subject, f"it wants an input {name}, which this client lacks", _SERVE_REMEDY)


def _wire_shape(tensor: Tensor) -> list[int]:
    """Give the shape of a tensor on the wire, -1 where any size will do: Triton has no batch of scalars, but of [1]."""
    fixed = {"bands": MEL_BANDS}
    return [-1, *(axis if isinstance(axis, int) else fixed.get(axis, -1) for axis in tensor.shape or (1,))]


def _admits(served: list[int], wanted: list[int]) -> bool:
    return len(served) == len(wanted) and all(
        there in (-1, size) or size == -1 for there, size in zip(served, wanted, strict=True)
    )


def _input(name: str, kind: str, array: NDArray[Any]) -> InferInput:
    typed = np.ascontiguousarray(array, dtype=DTYPES[kind])
    shaped = typed[:, None] if typed.ndim == 1 else typed
    tensor = InferInput(name, list(shaped.shape), kind)
    tensor.set_data_from_numpy(shaped)
    return tensor


def _output(answer: Any, tensor: Tensor, model: str) -> NDArray[Any]:
    array: NDArray[Any] | None = answer.as_numpy(tensor.name)
    if array is None:
        raise RequestError(f"{model} gave no {tensor.name}")
    return array


def _heard(answer: dict[str, NDArray[Any]]) -> Heard:
    length = int(answer["encoder_lengths"].reshape(-1)[0])
    emissions = Emissions(log_probs=answer["top_log_probs"][0, :length], tokens=answer["top_tokens"][0, :length])
    return Heard(emissions=emissions, encoder_out=answer["encoder_out"][0], encoder_length=length)


def _padded(items: list[Features], family: Family, mode: str) -> dict[str, NDArray[Any]]:
    """Stack features to the smallest bucket that holds them all, so that requests of unequal length share a batch."""
    lengths = np.array([item.shape[0] for item in items], dtype=np.int32)
    batch = np.zeros((len(items), _bucket(family, mode, "frames", int(lengths.max())), MEL_BANDS), dtype=np.float16)
    for row, item in zip(batch, items, strict=True):
        row[: item.shape[0]] = item
    return {"features": batch, "feature_lengths": lengths}


def _padded_hypotheses(hypotheses: Integers, lengths: Integers, family: Family, mode: str) -> dict[str, Integers]:
    """Pad INT32 [N, L] and [N] to buckets, with a batch axis."""
    count, longest = hypotheses.shape
    rows = _bucket(family, mode, "hypothesis_count", count)
    columns = _bucket(family, mode, "hypothesis_tokens", longest)
    return {
        "hypotheses": np.pad(hypotheses, ((0, rows - count), (0, columns - longest)))[None],
        "hypothesis_lengths": np.pad(lengths, (0, rows - count))[None],
    }


def _bucket(family: Family, mode: str, axis: str, size: int) -> int:
    extent = family.modes[mode].axes[axis]
    bucket = extent.bucket(size)
    if bucket is None:
        raise RequestError(f"{family.name} takes at most {extent.max} {axis}, not {size}")
    return bucket


def _pieces(parameters: dict[str, str], model: str) -> tuple[str, ...]:
    """Read the token list; raise ServerContractError when there is none."""
    try:
        pieces = json.loads(parameters.get("tokens", ""))
    except json.JSONDecodeError:
        pieces = None
    if not isinstance(pieces, list) or not pieces or not all(isinstance(piece, str) for piece in pieces):
        raise ServerContractError(model, "its configuration has no parameter `tokens` with a JSON list", _SERVE_REMEDY)
    return tuple(pieces)


def _ngram(parameters: dict[str, str], tokens: int, model: str) -> Ngram | None:
    """Read the n-gram model, where there is one; raise ServerContractError when it is damaged or of other tokens."""
    if "ngram" not in parameters:
        return None
    try:
        found = ngram.from_text(parameters["ngram"])
    except ValueError as error:
        cause = f"its parameter `ngram` holds no n-gram model ({error})"
        raise ServerContractError(model, cause, _SERVE_REMEDY) from error
    if found.vocabulary != tokens:
        cause = f"its parameter `ngram` is of {found.vocabulary} tokens, and its parameter `tokens` of {tokens}"
        raise ServerContractError(model, cause, _SERVE_REMEDY)
    return found


def _similarity(parameters: dict[str, str], model: str) -> float:
    try:
        return float(parameters["same_speaker_similarity"])
    except (KeyError, ValueError) as error:
        cause = "its configuration has no parameter `same_speaker_similarity` with a number"
        raise ServerContractError(model, cause, _SERVE_REMEDY) from error
