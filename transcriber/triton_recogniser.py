"""Recognise segments and streams with the models of a Triton server, after a check of what the server serves."""

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.catalogue import (
    BATCH_MODE,
    OPERATING_POINTS,
    REALTIME_MODE,
    Family,
    catalogue,
    check_operating_point,
    model_name,
)
from contract.errors import ServerContractError, SettingError
from transcriber import parameters
from transcriber.buckets import bucket, pad_features, pad_to
from transcriber.connection import Connection, SequencePosition
from transcriber.ctc import Emissions, Floats, Integers
from transcriber.features import MEL_BANDS
from transcriber.parameters import SERVE_REMEDY
from transcriber.recogniser import EncoderOutput, Features, RequestError

# Better first: without --operating-point, the best served point is used.
_PREFERRED_POINTS = ("enhanced", "standard")
_RESCORERS = ("decoder", "lm")
_ENSEMBLE = "ensemble_"


class TritonRecogniser:
    """The models of one language at one operating point on a server that was checked; see Recogniser."""

    mode = BATCH_MODE

    def __init__(self, connection: Connection, language: str, operating_point: str) -> None:
        """Check the served models and read their parameters; raise ServerContractError when they do not fit.

        Decoder, language model and speaker network are optional, in the catalogue as on the server.
        """
        self.language, self.operating_point = language, operating_point
        self._connection = connection
        self._ensemble = self._checked_family(f"{_ENSEMBLE}{language}")
        head = self._model(f"am_{language}")
        known = connection.parameters(head)
        self.pieces: tuple[str, ...] = parameters.token_list(known, head)
        self.ngram = parameters.ngram_model(known, len(self.pieces), head)
        self.rescorers = tuple(family for family in _RESCORERS if self._is_served(family))
        self.search_weights = parameters.weights_of_search(known, self.rescorers, head)
        self._families = {family: self._checked_family(family) for family in self.rescorers}
        self.same_speaker_similarity: float | None = None
        if self._is_served("diar"):
            self._families["diar"] = self._checked_family("diar")
            model = self._model("diar")
            self.same_speaker_similarity = parameters.same_speaker_similarity(connection.parameters(model), model)

    def recognise(self, features: Features) -> EncoderOutput:
        """Recognise a segment: log-mel FP16 [frames, 80]."""
        return _encoder_output(self._infer(self._ensemble, self._padded([features], self._ensemble)))

    def score(self, family: str, encoded: EncoderOutput, hypotheses: Integers, lengths: Integers) -> Floats:
        """Score hypotheses INT32 [N, L] of lengths [N]: the summed log-probabilities FP32 [N]."""
        spec = self._families[family]
        count, longest = hypotheses.shape
        rows = bucket(spec, self.mode, "hypothesis_count", count)
        columns = bucket(spec, self.mode, "hypothesis_tokens", longest)
        known: dict[str, NDArray[Any]] = {
            "encoder_lengths": np.array([encoded.encoder_length], dtype=np.int32),
            "hypotheses": pad_to(hypotheses, rows, columns)[None],
            "hypothesis_lengths": pad_to(lengths, rows)[None],
        }
        if any(tensor.name == "encoder_out" for tensor in spec.inputs):
            frames, size = encoded.encoder_out.shape
            padded_frames = bucket(spec, self.mode, "encoder_frames", frames)
            known["encoder_out"] = pad_to(encoded.encoder_out, padded_frames, size)[None]
        outputs = self._infer(spec, {tensor.name: known[tensor.name] for tensor in spec.inputs})
        scores: Floats = outputs["scores"][0, : len(lengths)]
        return scores

    def embed(self, windows: list[Features]) -> Floats:
        """Embed stretches of speech, each FP16 [frames, 80]: unit vectors FP32 [len(windows), E]."""
        spec = self._families["diar"]
        largest = spec.modes[self.mode].batch.max
        parts = []
        for start in range(0, len(windows), largest):
            inputs = self._padded(windows[start : start + largest], spec)
            parts.append(self._infer(spec, inputs)["embedding"])
        return np.concatenate(parts)

    def _padded(self, items: list[Features], spec: Family) -> dict[str, NDArray[Any]]:
        """Pad features to the smallest bucket that holds them all, so that the server can batch requests."""
        lengths = np.array([len(item) for item in items], dtype=np.int32)
        frames = bucket(spec, self.mode, "frames", int(lengths.max()))
        return {"features": pad_features(items, frames), "feature_lengths": lengths}

    def _infer(self, spec: Family, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._connection.infer(self._model(spec.name), spec, inputs)

    def _model(self, family: str) -> str:
        return model_name(family, self.operating_point)

    def _is_served(self, family: str) -> bool:
        spec = catalogue().get(family)
        in_catalogue = spec is not None and self.operating_point in spec.operating_points
        return in_catalogue and self._connection.is_ready(self._model(family))

    def _checked_family(self, family: str) -> Family:
        spec = catalogue()[family]
        self._connection.check(self._model(family), spec)
        return spec


class TritonStreams(TritonRecogniser):
    """The models of a server in real-time mode; see StreamRecogniser."""

    mode = REALTIME_MODE

    def __init__(self, connection: Connection, language: str, operating_point: str) -> None:
        """Check the served models and read their parameters; raise ServerContractError when they do not fit."""
        super().__init__(connection, language, operating_point)
        mode = self._ensemble.modes[self.mode]
        self.window_frames, self.overlap_frames = mode.axes["frames"].max, mode.overlap

    def step(self, stream: int, window: Features, *, start: bool, end: bool) -> EncoderOutput:
        """Recognise the next window of a stream; see StreamRecogniser."""
        inputs = self._padded([window], self._ensemble)
        position = SequencePosition(stream=stream, start=start, end=end)
        model = self._model(self._ensemble.name)
        return _encoder_output(self._connection.infer(model, self._ensemble, inputs, position))

    def cancel(self, stream: int) -> None:
        """Free the place of a stream on the server; see StreamRecogniser."""
        inputs = self._padded([np.zeros((0, MEL_BANDS), dtype=np.float16)], self._ensemble)
        # With both flags a server accepts the request also for a stream that it does not know.
        position = SequencePosition(stream=stream, start=True, end=True)
        with contextlib.suppress(RequestError):
            self._connection.infer(self._model(self._ensemble.name), self._ensemble, inputs, position, is_brief=True)


def connect(connection: Connection, language: str, operating_point: str | None) -> TritonRecogniser:
    """Wait for a server and choose its models: those of the requested point, or else of the best served point.

    Raises SettingError for an unknown language or point, ServerUnreachableError, and ServerContractError when the
    server does not serve the point or serves other models than the catalogue's.
    """
    return TritonRecogniser(connection, language, _choose_point(connection, language, operating_point, BATCH_MODE))


def connect_streams(connection: Connection, language: str, operating_point: str | None) -> TritonStreams:
    """Connect to a server in real-time mode; see `connect`."""
    return TritonStreams(connection, language, _choose_point(connection, language, operating_point, REALTIME_MODE))


def _choose_point(connection: Connection, language: str, operating_point: str | None, mode: str) -> str:
    family = f"{_ENSEMBLE}{language}"
    if family not in catalogue():
        known = ", ".join(name.removeprefix(_ENSEMBLE) for name in catalogue() if name.startswith(_ENSEMBLE))
        raise SettingError("--language", f"{language!r} is not a language of the catalogue", f"Use {known}")
    if operating_point is not None:
        check_operating_point(operating_point, "--operating-point")
    points = (operating_point,) if operating_point else _PREFERRED_POINTS
    ready = connection.first_ready(tuple(model_name(family, point) for point in points))
    if ready is None:
        raise _not_served(connection, language, points)
    point = ready.removeprefix(f"{family}_")
    # The first step of the ensemble takes the features, and in real-time mode it keeps the states of a stream.
    is_streaming = connection.is_streaming(model_name(catalogue()[family].steps[0], point))
    if is_streaming != (mode == REALTIME_MODE):
        raise _other_mode(connection.endpoint, is_streaming=is_streaming)
    return point


def _not_served(connection: Connection, language: str, points: tuple[str, ...]) -> ServerContractError:
    # The server's index of models would name them at once, but the runtime closes it to clients.
    served = [
        (family, point)
        for family in catalogue()
        if family.startswith(_ENSEMBLE)
        for point in OPERATING_POINTS
        if connection.is_ready(model_name(family, point))
    ]
    missing = " or ".join(model_name(f"{_ENSEMBLE}{language}", point) for point in points)
    names = ", ".join(model_name(*each) for each in served)
    rest = f"only {names}" if served else "and no other ensemble of this client's catalogue"
    other = [point for family, point in served if family == f"{_ENSEMBLE}{language}"]
    remedy = f"Use --operating-point {other[0]}, or serve the models of {points[0]} too" if other else SERVE_REMEDY
    return ServerContractError(connection.endpoint, f"it does not serve {missing}, {rest}", remedy)


def _other_mode(endpoint: str, *, is_streaming: bool) -> ServerContractError:
    if is_streaming:
        cause = "it is served in real time, for streams and not for recordings"
        return ServerContractError(endpoint, cause, "Use --realtime, or start the server with SM_BATCH_MODE=true")
    cause = "it is served for recordings and not in real time"
    return ServerContractError(endpoint, cause, "Leave --realtime out, or start the server with SM_BATCH_MODE=false")


def _encoder_output(outputs: dict[str, NDArray[Any]]) -> EncoderOutput:
    length = int(outputs["encoder_lengths"].reshape(-1)[0])
    emissions = Emissions(log_probs=outputs["top_log_probs"][0, :length], tokens=outputs["top_tokens"][0, :length])
    return EncoderOutput(emissions=emissions, encoder_out=outputs["encoder_out"][0], encoder_length=length)
