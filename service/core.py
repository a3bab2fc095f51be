"""Define what all parts of the service share, and what a part is."""

import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from fastapi import APIRouter, Request

from service.errors import Render
from service.metrics import Metrics
from service.recognition import Recognisers, Transcriber, recordings_of, streams_of
from service.settings import Settings
from transcriber.triton_recogniser import TritonRecogniser, TritonStreams

AnyRecognisers = Recognisers[TritonRecogniser] | Recognisers[TritonStreams]
Running = Callable[[], contextlib.AbstractAsyncContextManager[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Core:
    """The shared state of a service."""

    settings: Settings
    metrics: Metrics
    recordings: Transcriber | None
    """Transcribes recordings; None where only streams are served."""
    streams: Recognisers[TritonStreams] | None
    """The recognisers of streams; None where only recordings are served."""
    draining: threading.Event = field(default_factory=threading.Event)
    """Set when the service is about to stop: it takes no new sessions and begins no more jobs."""

    def servers(self) -> list[AnyRecognisers]:
        """Return the servers that the service uses."""
        recordings = [] if self.recordings is None else [self.recordings.recognisers]
        return [*recordings, *([] if self.streams is None else [self.streams])]

    def problems(self) -> list[str]:
        """Return why the service is not ready; empty when it is."""
        found = [f"{each.endpoint}: {each.problem}" for each in self.servers() if each.problem]
        return [*(["the service is about to stop"] if self.draining.is_set() else []), *found]


def make(settings: Settings) -> Core:
    """Return the shared state for settings; nothing is connected yet."""
    limits = settings.limits
    recordings = None
    if settings.endpoint is not None:
        recordings = Transcriber(
            recognisers=recordings_of(settings.endpoint, settings.catalogue, settings.access),
            in_flight=settings.in_flight,
            parallel=settings.parallel,
            voice_detection=settings.voice_detection,
            longest_s=limits.recording_s,
        )
    streams = None
    if settings.realtime_endpoint is not None:
        streams = streams_of(settings.realtime_endpoint, settings.catalogue, settings.access)
    return Core(settings=settings, metrics=Metrics(), recordings=recordings, streams=streams)


@contextlib.asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of the service: its routes, what runs beside them, and the body of its errors by the prefix of a path."""

    router: APIRouter
    running: Running = _nothing
    renders: dict[str, Render] = field(default_factory=dict)
    is_busy: Callable[[], bool] = lambda: False
    """Whether the part still has work that a stop should wait for."""


MakePart = Callable[[Core], Part]


def client_name(request: Request) -> str:
    """Return the name of the client whose key came with a request; empty where no keys are set."""
    name: str = request.scope.get("voxwright.client", "")
    return name
