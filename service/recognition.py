"""Own the checked recognisers of an inference server, and transcribe recordings with them."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from contract.access import PLAIN, Access
from contract.catalogue import Catalogue, model_name
from contract.errors import AudioError, ServerUnreachableError, SettingError, VoxwrightError
from service import additional_vocabulary, logs
from transcriber import channels
from transcriber.audio import Recording, Samples
from transcriber.clustering import SpeakerLimits
from transcriber.connection import Connection
from transcriber.phrases import Phrase
from transcriber.pipeline import Plan, SegmentResult, TranscriptionResult, transcribe
from transcriber.recogniser import Recogniser
from transcriber.triton_recogniser import TritonRecogniser, TritonStreams, connect, connect_streams
from transcriber.voice_detection import WEBRTC

_WATCH_S = 2.0
_SHORT_REMEDY = "Send it in parts"
_NAMES_OF_CLIENTS = frozenset({"standard", "enhanced"})
"""Clients send one of these even where their user chose none; a catalogue of other networks may have neither."""

# What a recogniser reads of a server; those of streams have more than those of recordings.
_FACTS = (
    *("language", "operating_point", "audio", "tokens", "search", "speaker"),
    *("rescorers", "most_hypotheses", "longest_hypothesis", "longest_samples", "in_flight"),
    *("window_samples", "overlap_samples", "places"),
)
_Key: TypeAlias = tuple[str, str | None]
"""A language, and an operating point or None for the best one."""

Kind_co = TypeVar("Kind_co", bound=TritonRecogniser, covariant=True)


class Connect(Protocol[Kind_co]):
    """Check a server and return its recogniser, as transcriber's `connect` and `connect_streams` do."""

    def __call__(
        self, connection: Connection, catalogue: Catalogue, language: str, operating_point: str | None
    ) -> Kind_co:
        """Return the recogniser of a language at an operating point, or at the best one that is served."""
        ...


class Recognisers(Generic[Kind_co]):
    """The recognisers of one server. Each is checked once and shared.

    After an outage all are checked again, and also when the server turns out to serve other models: behind one name,
    the servers of an update can follow each other without an outage.
    """

    def __init__(
        self, endpoint: str, catalogue: Catalogue, connect: Connect[Kind_co], access: Access, *, one_server: bool
    ) -> None:
        """Prepare the connection; `watch` and `get` use it."""
        self.endpoint, self.catalogue, self._connect = endpoint, catalogue, connect
        self._connection = Connection(endpoint, access=access, notify=logs.warning, one_server=one_server)
        # Fails at once where the other connection waits for the server.
        self._probe = Connection(endpoint, access=access, retry_timeout_s=0.0, one_server=one_server)
        self._known: dict[_Key, Kind_co] = {}
        self._generation = 0
        """How often the recognisers were forgotten."""
        self._checks = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.problem: str | None = "the server was not checked yet"
        """Why the server cannot be used now; None while it can."""

    def get(self, language: str, operating_point: str | None) -> Kind_co:
        """Return the recogniser of a language at a point, None for the best one that is served.

        Waits for the server during an outage. Raises SettingError, ServerUnreachableError and ServerContractError.
        """
        key = language, operating_point
        while True:
            with self._lock:
                known, generation = self._known.get(key), self._generation
            if known is not None:
                return known
            found = self._connect(self._connection, self.catalogue, language, operating_point)
            with self._lock:
                # Otherwise it was read in part from a server that has other models now.
                if generation == self._generation:
                    self._known[key] = found
                    return found

    def served_points(self) -> list[str]:
        """Return the operating points that the server serves now in any language, the most accurate first."""
        served = {
            point
            for language in self.catalogue.languages()
            for point in self.catalogue.preferred_points
            if (family := self.catalogue.recogniser(language, point)) is not None
            if self._probe.is_ready(model_name(family.name, point))
        }
        return [point for point in self.catalogue.preferred_points if point in served]

    def check(self) -> None:
        """Check the server and set `problem`; forget all recognisers in an outage, and when the models have changed."""
        before, self.problem = self.problem, self._find_problem()
        if self.problem is None or self.problem == before:
            return
        self._forget()
        logs.warning(f"{self.endpoint} cannot be used: {self.problem}")

    def watch(self) -> threading.Thread:
        """Start a thread that checks the server every two seconds until `close`."""
        thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """End the watch and all waiting."""
        self._closed.set()
        self._connection.close()
        self._probe.close()

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                self.check()
            except Exception:  # the watch must outlive a defect
                logs.exception("the check of the server failed")
            self._closed.wait(_WATCH_S)

    def _find_problem(self) -> str | None:
        problem = "the catalogue has no language"
        due = self._due()
        for key in [*due, *((language, None) for language in self.catalogue.languages())]:
            found = None
            try:
                found = self._connect(self._probe, self.catalogue, *key)
            except ServerUnreachableError:
                return "no server is ready there"
            except VoxwrightError as error:
                problem = error.cause
            if key in due:
                self._compare(key, found)
            if found is not None:
                return None
        return problem

    def _due(self) -> list[_Key]:
        """Return which known recogniser is compared with the server next: each in its turn, none if none is known."""
        with self._lock:
            keys = list(self._known)
        self._checks += 1
        return keys[self._checks % len(keys) :][:1] if keys else []

    def _compare(self, key: _Key, found: TritonRecogniser | None) -> None:
        """Forget all recognisers if one differs from what the server serves now; None where it is not served."""
        with self._lock:
            known = self._known.get(key)
        if known is None or (found is not None and _facts(found) == _facts(known)):
            return
        self._forget()
        logs.warning(f"{self.endpoint} serves other models than before; they are used from now on")

    def _forget(self) -> None:
        with self._lock:
            self._known.clear()
            self._generation += 1


def _facts(recogniser: TritonRecogniser) -> list[Any]:
    return [getattr(recogniser, name, None) for name in _FACTS]


def recordings_of(endpoint: str, catalogue: Catalogue, access: Access = PLAIN) -> Recognisers[TritonRecogniser]:
    """Return the recognisers of a server in batch mode."""
    return Recognisers(endpoint, catalogue, connect, access, one_server=False)


def streams_of(endpoint: str, catalogue: Catalogue, access: Access = PLAIN) -> Recognisers[TritonStreams]:
    """Return the recognisers of a server in real-time mode."""
    return Recognisers(endpoint, catalogue, connect_streams, access, one_server=True)


def chosen_point(name: str | None, catalogue: Catalogue) -> str | None:
    """Return a requested operating point; None, the best one, for a name that clients send unless another is chosen."""
    return None if name in _NAMES_OF_CLIENTS and name not in catalogue.operating_points else name


class Diarization(StrEnum):
    """How speakers are distinguished."""

    NONE = "none"
    SPEAKER = "speaker"
    CHANNEL = "channel"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """How a recording is to be transcribed."""

    language: str
    operating_point: str | None = None
    diarization: Diarization = Diarization.NONE
    vocabulary: tuple[Phrase, ...] = ()
    """Names and terms to prefer; those that the tokens of the model do not spell are an error of the result."""
    most_speakers: int | None = None
    """The largest number of speakers, where it is known."""


class CancelledError(Exception):
    """The transcription was stopped before its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcriber:
    """Transcribe recordings with the recognisers of a server."""

    recognisers: Recognisers[TritonRecogniser]
    in_flight: int | None
    """None for a share of what keeps the server busy, by the number of recordings in `parallel`."""
    parallel: int
    longest_s: float
    voice_detection: str = WEBRTC

    def check(self, wanted: Wanted) -> None:
        """Raise SettingError or ServerContractError for a language or an operating point that is not served.

        While the server is away only the catalogue is known.
        """
        wanted = self._served(wanted)
        if self.recognisers.problem is None:
            self.recognisers.get(wanted.language, wanted.operating_point)
            return
        catalogue = self.recognisers.catalogue
        if catalogue.recogniser(wanted.language, wanted.operating_point or catalogue.preferred_points[0]) is None:
            cause = f"the catalogue has no {wanted.operating_point or ''} models for {wanted.language}"
            raise SettingError("language", " ".join(cause.split()), f"Use {', '.join(catalogue.languages())}")

    def _served(self, wanted: Wanted) -> Wanted:
        """Return what is wanted; raise SettingError, whose sentences clients read, for an unknown language or point."""
        catalogue = self.recognisers.catalogue
        languages, points = catalogue.languages(), catalogue.operating_points
        wanted = replace(wanted, operating_point=chosen_point(wanted.operating_point, catalogue))
        if wanted.operating_point is not None and wanted.operating_point not in points:
            cause = f"{wanted.operating_point!r} is not a model of this service; the models are {', '.join(points)}"
            raise SettingError("operating_point", cause, "Use one of them")
        if wanted.language not in languages:
            cause = f"{wanted.language!r} is not a language of this service; the languages are {', '.join(languages)}"
            raise SettingError("language", cause, "Use one of them")
        return wanted

    def transcribe(
        self,
        path: Path,
        wanted: Wanted,
        *,
        on_progress: Callable[[float, float | None], object] = lambda *_: None,
        on_result: Callable[[SegmentResult], object] = lambda _: None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> TranscriptionResult:
        """Transcribe a recording; parts that are lost are errors in the result, as in transcriber.pipeline.

        Phrases that are not used are a SettingError there.

        `on_progress` gets the seconds that are done and the duration that the recording declares, None if it declares
        none. `on_result` gets each segment but those of channels. Raises
        CancelledError soon after `is_cancelled` returns True, AudioError for a recording without sound or of more than
        `longest_s`, and the errors of Recognisers.get.
        """
        wanted = self._served(wanted)
        recogniser = self.recognisers.get(wanted.language, wanted.operating_point)
        has_speakers = wanted.diarization == Diarization.SPEAKER
        vocabulary, unused = additional_vocabulary.used(wanted.vocabulary, recogniser.tokens)
        plan = Plan(
            speakers=has_speakers,
            in_flight=self.in_flight or max(1, recogniser.in_flight // self.parallel),
            voice_detection=self.voice_detection,
            vocabulary=vocabulary,
            speaker_limits=SpeakerLimits(most=wanted.most_speakers if has_speakers else None),
        )
        opening = functools.partial(
            _Guarded,
            path,
            sample_rate_hz=recogniser.audio.sample_rate_hz,
            longest_s=self.longest_s,
            is_cancelled=is_cancelled,
        )
        if wanted.diarization == Diarization.CHANNEL:
            found = self._channels(opening, recogniser, plan, on_progress)
        else:
            recording = opening()
            declared_s = recording.duration_s
            found = transcribe(recording, recogniser, plan, lambda done_s: on_progress(done_s, declared_s), on_result)
        if unused is None:
            return found
        error = SettingError("additional_vocab", unused, "Write the phrases as the model writes words")
        return replace(found, errors=(*found.errors, error))

    @staticmethod
    def _channels(
        opening: Callable[..., "_Guarded"],
        recogniser: Recogniser,
        plan: Plan,
        on_progress: Callable[[float, float | None], object],
    ) -> TranscriptionResult:
        with contextlib.closing(opening()) as recording:
            count, declared_s = recording.channels, recording.duration_s
        before_s, done = 0.0, []
        for channel in range(1, count + 1):

            def report(done_s: float, before_s: float = before_s) -> None:
                on_progress(before_s + done_s / count, declared_s)

            done.append(transcribe(opening(channel=channel), recogniser, plan, report))
            before_s += done[-1].transcript.duration_s / count
        return channels.merge(done)


class _Guarded(Recording):
    """A recording that ends with an error when it is too long, as a small file can hold days of silence."""

    def __init__(
        self,
        path: Path,
        *,
        longest_s: float,
        is_cancelled: Callable[[], bool],
        sample_rate_hz: int,
        channel: int | None = None,
    ) -> None:
        super().__init__(path, sample_rate_hz=sample_rate_hz, channel=channel)
        self._longest_s, self._is_cancelled = longest_s, is_cancelled
        if self.duration_s is not None and self.duration_s > longest_s:
            self.close()
            raise self._too_long()

    def blocks(self) -> Iterator[Samples]:
        samples = 0
        for block in super().blocks():
            samples += block.size
            if samples > self._longest_s * self.sample_rate_hz:
                raise self._too_long()
            if self._is_cancelled():
                raise CancelledError
            yield block

    def _too_long(self) -> AudioError:
        cause = f"it is longer than {self._longest_s / 60:g} minutes, which is the limit of this service"
        return AudioError(self.path, cause, _SHORT_REMEDY)
