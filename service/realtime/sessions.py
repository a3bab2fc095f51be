"""Know all sessions of the service: how many may run, what each needs, and how they end when the service stops."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from starlette.websockets import WebSocket

from contract.errors import ServerContractError, ServerUnreachableError, SettingError
from service import additional_vocabulary, logs
from service.additional_vocabulary import VocabularyPhrase, phrases_of
from service.core import Core
from service.realtime import messages
from service.realtime.config import StartRecognition
from service.realtime.errors import ErrorType, SessionError
from service.realtime.messages import Message
from service.realtime.session import Ready, Session, SessionLimits
from service.recognition import chosen_point
from transcriber.phrases import Phrase
from transcriber.triton_recogniser import TritonStreams

_POLL_S = 0.2
_PREPARING = 8
# Connections that have not started a session, and those that are about to be closed.
_UNSTARTED = 256
# The sessions that are left end in order so long before the service stops.
_LAST_WORDS_S = 5.0


class Sessions:
    """The sessions of a service."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._streams: dict[Session, int] = {}
        """The started sessions with the number of their channels, at least one."""
        self._connected = 0
        # Of its own: while the server is away, all of its threads may wait.
        self._pool = ThreadPoolExecutor(_PREPARING, thread_name_prefix="prepare")

    @property
    def is_crowded(self) -> bool:
        """Return whether more clients are connected than can be served, with those that have not started."""
        return self._connected >= self._core.settings.realtime.streams + _UNSTARTED

    @property
    def count(self) -> int:
        """Return the number of sessions that have begun."""
        return len(self._streams)

    async def serve(self, socket: WebSocket, language: str | None) -> None:
        """Serve a session on a socket that was accepted."""
        limits = self._core.settings.realtime
        chosen = SessionLimits(idle_s=limits.idle_s, longest_s=limits.longest_s)
        session = Session(
            socket,
            language=language,
            admit=self._admit,
            reserve=self._reserve,
            prepare=self._prepare,
            limits=chosen,
        )
        logs.info(f"a session has begun at {logs.path_of(socket.scope)}", session=session.id)
        problem: SessionError | None = None
        self._connected += 1
        try:
            problem = await session.run()
        finally:
            self._connected -= 1
            self._streams.pop(session, None)
            self._count(session, problem)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """End the sessions in order when the service stops."""
        task = asyncio.create_task(self._drain())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _count(self, session: Session, problem: SessionError | None) -> None:
        metrics = self._core.metrics
        metrics.sessions.set(self.count)
        if session.audio_s:
            metrics.transcribed("session", session.audio_s, session.work_s)
        if problem is not None:
            metrics.errors.labels(problem.counted_as).inc()
        outcome = "the client has left" if session.has_left else "in order"
        logs.info(
            f"a session has ended: {problem.reason if problem is not None else outcome}",
            session=session.id,
            audio_s=round(session.audio_s, 3),
            seconds=round(time.monotonic() - session.began_s, 3),
        )

    async def _drain(self) -> None:
        while not self._core.draining.is_set():
            await asyncio.sleep(_POLL_S)
        drain_s = self._core.settings.drain_s
        await asyncio.sleep(max(0.0, drain_s - min(_LAST_WORDS_S, drain_s / 2)))
        for session in list(self._streams):
            session.stop(SessionError(ErrorType.UNKNOWN_ERROR, "the service stops; connect again"))

    async def _prepare(self, start: StartRecognition, language: str | None) -> Ready:
        """Return what a session needs; it may wait for the server."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._prepared, start, language)

    def _prepared(self, start: StartRecognition, language: str | None) -> Ready:
        recogniser = self._recogniser(start, language)
        known, warnings = _vocabulary(start.transcription_config.additional_vocab, recogniser)
        return Ready(
            recogniser=recogniser,
            vocabulary=known,
            warnings=(*warnings, *_unsupported(start)),
            voice_detection=self._core.settings.voice_detection,
        )

    def _admit(self, session: Session, start: StartRecognition) -> tuple[Message, ...]:
        """Count a session in; raise SessionError when the service has no room for it."""
        if self._core.draining.is_set():
            raise SessionError(ErrorType.JOB_ERROR, "the service is about to stop; connect again")
        chosen, largest = start.transcription_config, self._core.settings.realtime.streams
        # Without labels the first channel has this place, and each further one is reserved when it opens.
        labels = chosen.channel_diarization_labels if chosen.has_channels else None
        used = self._reserve(session, len(labels or [None]))
        self._core.metrics.sessions.set(self.count)
        return (
            messages.info("recognition_quality", "The recogniser takes broadcast quality.", quality="broadcast"),
            messages.info(
                "concurrent_session_usage", f"{used} of {largest} streams are in use.", usage=used, quota=largest
            ),
        )

    def _reserve(self, session: Session, channels: int) -> int:
        """Count a session with so many channels; return the streams in use, or raise SessionError for too many."""
        largest = self._core.settings.realtime.streams
        used = sum(self._streams.values()) - self._streams.get(session, 0) + channels
        if used > largest:
            raise SessionError(ErrorType.QUOTA_EXCEEDED, f"the service transcribes {largest} streams at a time")
        self._streams[session] = channels
        return used

    def _recogniser(self, start: StartRecognition, language: str | None) -> TritonStreams:
        streams = self._core.streams
        if streams is None:
            raise SessionError(ErrorType.NOT_ALLOWED, "this service transcribes recordings only, no streams")
        config = start.transcription_config
        points = streams.catalogue.operating_points
        point = chosen_point(config.operating_point or config.model, streams.catalogue)
        if point is not None and point not in points:
            known = " or ".join(points)
            raise SessionError(ErrorType.INVALID_MODEL, f"{point!r} is not a model of this service; use {known}")
        known = ", ".join(streams.catalogue.languages())
        language = language or streams.catalogue.usual_language()
        if language is None:
            raise SessionError(ErrorType.INVALID_LANGUAGE, f"transcription_config.language: it is missing; use {known}")
        if language not in streams.catalogue.languages():
            raise SessionError(ErrorType.INVALID_LANGUAGE, f"{language!r} is not served; use {known}")
        try:
            return streams.get(language, point)
        except ServerUnreachableError as error:
            raise SessionError(ErrorType.JOB_ERROR, "the inference server does not answer") from error
        except (ServerContractError, SettingError) as error:
            raise SessionError(ErrorType.INVALID_MODEL, f"{error.cause}. {error.remedy}.") from error


def _vocabulary(
    wanted: Sequence[str | VocabularyPhrase], recogniser: TritonStreams
) -> tuple[tuple[Phrase, ...], list[Message]]:
    """Return the phrases of a session that the model can write, and a warning that names the others."""
    kept, unused = additional_vocabulary.used(phrases_of(wanted), recogniser.tokens)
    if unused is None:
        return kept, []
    return kept, [messages.warning("additional_vocab", f"additional_vocab: {unused}")]


def _unsupported(start: StartRecognition) -> list[Message]:
    """Return a warning for each part of a configuration that clients can see has no effect."""
    found = []
    translation = start.translation_config
    if translation is not None:
        kind = "unsupported_translation_pair" if translation.target_languages else "empty_translation_target_list"
        found.append(messages.warning(kind, "this service does not translate"))
    if start.audio_events_config is not None:
        found.append(messages.warning("unsupported_audio_events", "this service does not detect audio events"))
    if start.transcription_config.speaker_diarization_config.speakers:
        found.append(messages.warning("speaker_id", "known speakers are not recognised by this service"))
    return found
