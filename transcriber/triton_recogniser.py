"""Recognise segments and streams with the models of a Triton server, after a check of what the server serves."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from contract.catalogue import (
    BATCH_MODE,
    ENCODER_FRAMES,
    HYPOTHESIS_ROLES,
    REALTIME_MODE,
    SAMPLES,
    SPEAKER,
    Catalogue,
    Family,
    model_name,
)
from contract.client import BATCHING_PARAMETER, EXACT, MASKED, NO_BATCHING, SEGMENTS, SearchSpec, SpeakerSpec
from contract.errors import ServerContractError, SettingError
from transcriber import parameters
from transcriber.audio import Samples
from transcriber.buckets import Arrays, AudioBatch, bucket, pad_to
from transcriber.connection import Connection, SequencePosition
from transcriber.ctc import Emissions, Floats, Integers
from transcriber.joining import MOST_PADDING, Joiner, Outputs
from transcriber.parameters import SERVE_REMEDY, required
from transcriber.recogniser import Bounds, EncoderOutput, RequestError

_ENCODER_OUT = "encoder_out"
# Segments at a time, for a server that joins no requests; for one that does, enough for so many batches.
_IN_FLIGHT, _FULL_BATCHES = 8, 4
# One request for a model is computed while the next one is on its way.
_REQUESTS_AT_A_TIME = 2
# An impossible token may have minus infinity. Where only tokens without text are possible, no hypothesis would be left.
_SMALLEST_LOG_PROB = -1e9


class TritonRecogniser:
    """The models of one language at one operating point on a server that was checked; see Recogniser."""

    mode = BATCH_MODE

    def __init__(self, connection: Connection, catalogue: Catalogue, language: str, operating_point: str) -> None:
        """Check the served models and read their parameters; raise ServerContractError when they do not fit.

        Rescorers and the speaker network are optional, in the catalogue as on the server.
        """
        self.language, self.operating_point = language, operating_point
        self._connection, self._catalogue = connection, catalogue
        self._recogniser = _recogniser(catalogue, language, operating_point)
        self._unpadded: set[str] = set()
        self.joiners: dict[str, Joiner] = {}
        """Of the models whose server joins requests, by the names of their families."""
        model = self._checked(self._recogniser)
        client = parameters.client_spec(self._parameters(self._recogniser), model)
        self.audio = required(client.audio, "audio", model)
        self.tokens = required(client.tokens, "tokens", model)
        self.search = client.search or SearchSpec()
        self.ngram = parameters.ngram_model(self.search, self.tokens, model)
        self._families = {role: found[0] for role in HYPOTHESIS_ROLES if (found := self._served(role)) is not None}
        self.rescorers = tuple(self._families)
        parameters.check_rescorers(self.search, self.rescorers, model)
        self.most_hypotheses = self._rescorer_limit("hypothesis_count")
        self.longest_hypothesis = self._rescorer_limit("hypothesis_tokens")
        self.speaker = self._speaker_spec()
        self.longest_samples = self._longest_samples()
        most_items = self._join(self._recogniser, self.audio.padding)
        self.in_flight = max(_IN_FLIGHT, _FULL_BATCHES * most_items) if self.audio.padding == MASKED else _IN_FLIGHT
        for role in self.rescorers:
            self._join(self._families[role])
        if self.speaker is not None:
            self._join(self._families[SPEAKER], self.speaker.padding)

    def recognise(self, samples: Samples) -> EncoderOutput:
        """Recognise a segment: mono samples in [-1, 1) at the rate of `audio`."""
        inputs = self._padded([samples], self._recogniser, self.audio.padding)
        return _encoder_output(self._infer(self._recogniser, inputs), self._model(self._recogniser))

    def score(self, role: str, encoded: EncoderOutput, hypotheses: Integers, lengths: Integers) -> Floats:
        """Score hypotheses INT32 [N, L] of lengths [N]: the summed log-probabilities FP32 [N]."""
        family = self._families[role]
        count, longest = hypotheses.shape
        rows = self._size(family, "hypothesis_count", count)
        columns = self._size(family, "hypothesis_tokens", longest)
        known: dict[str, NDArray[Any]] = {
            "encoder_lengths": np.array([encoded.encoder_length], dtype=np.int32),
            "hypotheses": pad_to(hypotheses, rows, columns)[None],
            "hypothesis_lengths": pad_to(lengths, rows)[None],
        }
        if encoded.encoder_out is not None and any(tensor.name == _ENCODER_OUT for tensor in family.inputs):
            frames, size = encoded.encoder_out.shape
            padded_frames = self._size(family, ENCODER_FRAMES, frames)
            known[_ENCODER_OUT] = pad_to(encoded.encoder_out, padded_frames, size)[None]
        outputs = self._infer(family, {tensor.name: known[tensor.name] for tensor in family.inputs})
        scores: Floats = outputs["scores"][0, : len(lengths)]
        if not np.isfinite(scores).all():
            raise RequestError(f"{self._model(family)} returned scores that are not numbers")
        return scores

    def embed(self, samples: Samples, bounds: Sequence[Bounds]) -> Floats:
        """Embed the windows of a segment at the rate of `speaker`: unit vectors FP32 [len(bounds), E]."""
        family, spec = self._families[SPEAKER], self.speaker
        if spec is None:
            raise ValueError("no speaker network is served")
        if spec.takes == SEGMENTS:
            found: Floats = self._infer(family, self._padded([samples], family, spec.padding))["embedding"][0]
            # Padding has windows of its own, after those of the segment.
            return found[: len(bounds)]
        windows, largest = [samples[first:last] for first, last in bounds], family.modes[self.mode].batch.max
        parts = [
            self._infer(family, self._padded(windows[start:end], family, spec.padding))["embedding"]
            for start, end in _batches(windows, largest, equal_lengths=self._is_exact(family, spec.padding))
        ]
        return np.concatenate(parts)

    def _padded(self, items: list[Samples], family: Family, padding: str) -> Arrays:
        """Pad audio to one size: the smallest bucket that holds all items, if the server joins requests."""
        lengths = np.array([len(item) for item in items], dtype=np.int32)
        size = self._size(family, SAMPLES, int(lengths.max()), padding)
        return {"audio": AudioBatch(items=items, size=size), "audio_lengths": lengths}

    def _size(self, family: Family, axis: str, size: int, padding: str = MASKED) -> int:
        return bucket(family, self.mode, axis, size, exact=self._is_exact(family, padding))

    def _is_exact(self, family: Family, padding: str) -> bool:
        return padding == EXACT or family.name in self._unpadded

    def _infer(self, family: Family, inputs: Arrays) -> Outputs:
        joiner = self.joiners.get(family.name)
        return self._send(family, inputs) if joiner is None else joiner.infer(inputs)

    def _send(self, family: Family, inputs: Arrays) -> Outputs:
        return self._connection.infer(self._model(family), family, inputs)

    def _join(self, family: Family, padding: str = MASKED) -> int:
        """Join requests for a model if its server does so too; return the largest number of items of a request."""
        if family.name in self._unpadded:
            return 1
        most_items = self._connection.most_items(self._model(family))
        if most_items == 1:
            return 1
        self.joiners[family.name] = Joiner(
            functools.partial(self._send, family),
            most_items=most_items,
            at_a_time=lambda: _REQUESTS_AT_A_TIME * self._connection.servers(),
            most_padding=MOST_PADDING if padding == MASKED else 1.0,
        )
        return most_items

    def _model(self, family: Family) -> str:
        return model_name(family.name, self.operating_point)

    def _checked(self, family: Family) -> str:
        model = self._model(family)
        self._connection.check(model, family)
        return model

    def _parameters(self, family: Family) -> dict[str, str]:
        """Return the parameters of a model, and note whether its server joins requests."""
        found = self._connection.parameters(self._model(family))
        if found.get(BATCHING_PARAMETER) == NO_BATCHING:
            self._unpadded.add(family.name)
        return found

    def _served(self, role: str) -> tuple[Family, dict[str, str]] | None:
        """Return the family with an optional role, checked, and its parameters; None without it."""
        family = self._catalogue.find(role, self.language, self.operating_point)
        if family is None or not self._connection.serves(self._model(family)):
            return None
        self._checked(family)
        return family, self._parameters(family)

    def _speaker_spec(self) -> SpeakerSpec | None:
        served = self._served(SPEAKER)
        if served is None:
            return None
        self._families[SPEAKER], found = served
        family = self._families[SPEAKER]
        model = self._model(family)
        spec = required(parameters.client_spec(found, model).speaker, "speaker", model)
        parameters.check_speaker(spec, family, model)
        return spec

    def _rescorer_limit(self, axis: str) -> int:
        return min((self._families[role].modes[self.mode].axes[axis].max for role in self.rescorers), default=0)

    def _longest_samples(self) -> int:
        """Return the longest segment that all models take."""
        limits = [self._families[role].modes[self.mode].axes.get(ENCODER_FRAMES) for role in self.rescorers]
        hop = round(self.audio.hop_s * self.audio.sample_rate_hz)
        rescored = [self.audio.shortest_samples + (frames.max - 1) * hop for frames in limits if frames is not None]
        longest = min([self._recogniser.modes[BATCH_MODE].axes[SAMPLES].max, *rescored])
        if self.speaker is None or self.speaker.takes != SEGMENTS:
            return longest
        embedded = self._families[SPEAKER].modes[self.mode].axes[SAMPLES].max
        return min(longest, embedded * self.audio.sample_rate_hz // self.speaker.sample_rate_hz)


class TritonStreams(TritonRecogniser):
    """The models of a server in real-time mode; see StreamRecogniser."""

    mode = REALTIME_MODE
    is_cancelled: Callable[[], bool] | None = None
    """Whether the session that uses it is over; None where no session is bound."""

    def __init__(self, connection: Connection, catalogue: Catalogue, language: str, operating_point: str) -> None:
        """Check the served models and read their parameters; raise ServerContractError when they do not fit."""
        super().__init__(connection, catalogue, language, operating_point)
        mode = self._recogniser.modes[self.mode]
        self.window_samples, self.overlap_samples = mode.axes[SAMPLES].max, mode.overlap
        self.places = connection.places(_stateful_model(catalogue, self._recogniser, operating_point))

    def step(self, stream: int, window: Samples, *, start: bool, end: bool) -> EncoderOutput:
        """Recognise the next window of a stream; see StreamRecogniser."""
        inputs = self._padded([window], self._recogniser, self.audio.padding)
        position = SequencePosition(stream=stream, start=start, end=end)
        model = self._model(self._recogniser)
        outputs = self._connection.infer(
            model, self._recogniser, inputs, position, places=self.places, is_cancelled=self.is_cancelled
        )
        return _encoder_output(outputs, model)

    def cancellable(self, is_cancelled: Callable[[], bool]) -> Self:
        """Return this recogniser for a session that may end while it waits; see StreamRecogniser."""
        found = copy.copy(self)
        found.is_cancelled = is_cancelled
        return found

    def cancel(self, stream: int) -> None:
        """Free the place of a stream on the server; see StreamRecogniser."""
        inputs = self._padded([np.zeros(0, dtype=np.float32)], self._recogniser, self.audio.padding)
        # With both flags a server accepts the request also for a stream that it does not know.
        position = SequencePosition(stream=stream, start=True, end=True)
        model = self._model(self._recogniser)
        with contextlib.suppress(RequestError):
            self._connection.infer(model, self._recogniser, inputs, position, is_brief=True)


def connect(
    connection: Connection, catalogue: Catalogue, language: str, operating_point: str | None
) -> TritonRecogniser:
    """Wait for a server and choose its models: those of the requested point, or else of the best served point.

    Raises SettingError for an unknown language or point, ServerUnreachableError, and ServerContractError when the
    server does not serve the point or serves other models than the catalogue's.
    """
    point = _choose_point(connection, catalogue, language, operating_point, BATCH_MODE)
    return TritonRecogniser(connection, catalogue, language, point)


def connect_streams(
    connection: Connection, catalogue: Catalogue, language: str, operating_point: str | None
) -> TritonStreams:
    """Connect to a server in real-time mode; see `connect`."""
    point = _choose_point(connection, catalogue, language, operating_point, REALTIME_MODE)
    return TritonStreams(connection, catalogue, language, point)


def _recogniser(catalogue: Catalogue, language: str, operating_point: str) -> Family:
    family = catalogue.recogniser(language, operating_point)
    if family is None:
        points = [point for point in catalogue.operating_points if catalogue.recogniser(language, point)]
        if not points:
            known = ", ".join(catalogue.languages())
            raise SettingError("--language", f"{language!r} is not a language of the catalogue", f"Use {known}")
        cause = f"the catalogue has no {operating_point} models for {language}"
        raise SettingError("--operating-point", cause, f"Use {' or '.join(points)}")
    return family


def _choose_point(
    connection: Connection, catalogue: Catalogue, language: str, operating_point: str | None, mode: str
) -> str:
    if operating_point is not None:
        catalogue.check_operating_point(operating_point, "--operating-point")
        families = {operating_point: _recogniser(catalogue, language, operating_point)}
    else:
        found = {point: catalogue.recogniser(language, point) for point in catalogue.preferred_points}
        families = {point: family for point, family in found.items() if family is not None}
        if not families:
            _recogniser(catalogue, language, catalogue.preferred_points[0])
    models = {model_name(family.name, point): point for point, family in families.items()}
    ready = connection.first_ready(tuple(models))
    if ready is None:
        raise _not_served(connection, catalogue, language, families)
    point = models[ready]
    is_streaming = connection.is_streaming(_stateful_model(catalogue, families[point], point))
    if is_streaming != (mode == REALTIME_MODE):
        raise _other_mode(connection.endpoint, is_streaming=is_streaming)
    return point


def _stateful_model(catalogue: Catalogue, family: Family, point: str) -> str:
    """Return the model that takes the audio: it keeps the states of a stream in real-time mode."""
    first = catalogue.families[family.steps[0]] if family.is_ensemble else family
    return model_name(first.name, point)


def _not_served(
    connection: Connection, catalogue: Catalogue, language: str, families: dict[str, Family]
) -> ServerContractError:
    # The server's index of models would name them at once, but the runtime closes it to clients.
    served = [
        (spoken, point, model)
        for spoken in catalogue.languages()
        for point in catalogue.operating_points
        if (family := catalogue.recogniser(spoken, point)) is not None
        if connection.serves(model := model_name(family.name, point))
    ]
    missing = " or ".join(model_name(family.name, point) for point, family in families.items())
    names = ", ".join(model for _, _, model in served)
    rest = f"only {names}" if served else "and no other recogniser of this client's catalogue"
    other = [point for spoken, point, _ in served if spoken == language]
    remedy = SERVE_REMEDY
    if other:
        remedy = f"Use --operating-point {other[0]}, or serve the models of {next(iter(families))} too"
    return ServerContractError(connection.endpoint, f"it does not serve {missing}, {rest}", remedy)


def _other_mode(endpoint: str, *, is_streaming: bool) -> ServerContractError:
    if is_streaming:
        cause = "it is served in real time, for streams and not for recordings"
        return ServerContractError(endpoint, cause, "Use --realtime, or start the server with SM_BATCH_MODE=true")
    cause = "it is served for recordings and not in real time"
    return ServerContractError(endpoint, cause, "Leave --realtime out, or start the server with SM_BATCH_MODE=false")


def _batches(items: list[Samples], largest: int, *, equal_lengths: bool) -> Iterator[tuple[int, int]]:
    """Yield the bounds of runs of items that go into one request."""
    start = 0
    while start < len(items):
        end = start + 1
        while end < min(start + largest, len(items)) and not (equal_lengths and len(items[end]) != len(items[start])):
            end += 1
        yield start, end
        start = end


def _encoder_output(outputs: Outputs, model: str) -> EncoderOutput:
    length = int(outputs["encoder_lengths"].reshape(-1)[0])
    # The best token of every frame; an engine whose FP16 overflowed returns NaN.
    if not np.isfinite(outputs["top_log_probs"][0, :length].max(axis=1)).all():
        raise RequestError(f"{model} returned log-probabilities that are not numbers")
    emissions = Emissions(
        log_probs=np.maximum(outputs["top_log_probs"][0, :length], _SMALLEST_LOG_PROB),
        tokens=outputs["top_tokens"][0, :length],
    )
    # Without the frames of padding, so that a rescorer's own padding depends on the segment alone.
    encoder_out = outputs[_ENCODER_OUT][0, :length] if _ENCODER_OUT in outputs else None
    return EncoderOutput(emissions=emissions, encoder_out=encoder_out, encoder_length=length)
