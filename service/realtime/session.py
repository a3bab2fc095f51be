"""Serve one WebSocket: read messages in their order, hand the audio to channels, and send what they find."""

import asyncio
import base64
import binascii
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import uuid4

from starlette.websockets import WebSocket, WebSocketDisconnect

from service import logs
from service.realtime import config, messages
from service.realtime.channel import ChangeRules, Channel, Ended, ForceEnd, ListSpeakers, Setup
from service.realtime.config import StartRecognition
from service.realtime.errors import NORMAL, Close, DefectError, ErrorType, SessionError
from service.realtime.messages import Message
from service.realtime.spool import Frame
from transcriber.phrases import Phrase
from transcriber.recogniser import StreamRecogniser
from transcriber.session import StreamRules
from transcriber.voice_detection import WEBRTC

# A client that does not read for so long has stalled. Until then at most so many messages wait for it.
_SEND_TIMEOUT_S = 30.0
_LARGEST_OUTBOX = 20_000
_CLOSE_WAIT_S = 5.0
# The time that the last words have to become final when the service ends a session.
_STOP_WAIT_S = 3.0
# Clients wait 5 s for RecognitionStarted.
_PREPARE_S = 4.5
_CHECK_S = 1.0
# The socket is not read for so long at a time, where it must wait: the client's pings stay alive.
_READ_PAUSE_S = 0.05
# A time-out is announced when a quarter of its time is left.
_WARNED_PART = 0.75


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionLimits:
    """How long a session and its audio may last, and how long it may be without audio."""

    idle_s: float = 600.0
    longest_s: float = 48 * 3600.0
    start_s: float = 60.0
    """The longest time from the connection to StartRecognition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """What a session needs to begin: the recogniser of its configuration, the vocabulary, and what finds speech."""

    recogniser: StreamRecogniser
    vocabulary: tuple[Phrase, ...] = ()
    warnings: tuple[Message, ...] = ()
    voice_detection: str = WEBRTC


@dataclass(frozen=True, slots=True)
class _Goodbye:
    """The last item of the outbox: the end of the transcript, or the problem that ended the session."""

    problem: SessionError | None


@dataclass(frozen=True, slots=True)
class _ChannelEnded:
    label: str | None
    problem: SessionError | None


_Mail: TypeAlias = Message | _Goodbye | _ChannelEnded


@dataclass(kw_only=True)
class _State:
    """What changes while a session goes on."""

    start: StartRecognition | None = None
    rules: StreamRules = field(default_factory=StreamRules)
    channels: dict[str | None, Channel] = field(default_factory=dict)
    running: set[str | None] = field(default_factory=set)
    """The channels whose threads have not ended."""
    closed: set[str | None] = field(default_factory=set)
    """The channels whose end the client has sent."""
    ended: bool = False
    """Whether no more audio is taken."""
    is_stopping: bool = False
    problem: SessionError | None = None
    """Why the service ends the session, when all words are final."""
    lists_speakers_at_end: bool = False
    last_audio_s: float = field(default_factory=time.monotonic)
    warned: set[str] = field(default_factory=set)


class _ClientGoneError(Exception):
    """The client has left, or does not read."""


class Session:
    """A session on an accepted socket.

    `admit` counts it in and returns notes for the client; `reserve` takes the places of so many channels; `prepare`
    returns what the session needs. All of them raise SessionError.
    """

    def __init__(
        self,
        socket: WebSocket,
        *,
        language: str | None,
        admit: Callable[["Session", StartRecognition], tuple[Message, ...]],
        reserve: Callable[["Session", int], object],
        prepare: Callable[[StartRecognition, str | None], Awaitable[Ready]],
        limits: SessionLimits,
    ) -> None:
        self.id = str(uuid4())
        self.began_s = time.monotonic()
        self.has_left = False
        """Whether the client has left before the end of its transcript."""
        self._socket, self._language, self._limits = socket, language, limits
        self._admit, self._reserve, self._prepare = admit, reserve, prepare
        self._state = _State()
        self._ready: Ready | None = None
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[_Mail] = deque()
        self._has_mail = asyncio.Event()
        self._done: asyncio.Future[SessionError | None] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
            "EndOfStream": self._end_stream,
            "SetRecognitionConfig": self._change,
            "GetSpeakers": self._get_speakers,
            "ForceEndOfUtterance": self._force_end,
            "AddChannelAudio": self._add_channel_audio,
            "EndOfChannel": self._end_channel,
        }

    @property
    def audio_s(self) -> float:
        """Return the seconds of audio that were transcribed."""
        return sum(channel.audio_s for channel in self._state.channels.values())

    @property
    def work_s(self) -> float:
        """Return the seconds that the transcription took."""
        return sum(channel.work_s for channel in self._state.channels.values())

    async def run(self) -> SessionError | None:
        """Serve until the end; return the problem that ended the session, None where there was none."""
        self._tasks = {asyncio.create_task(each()) for each in (self._reading, self._sending, self._watching)}
        problem: SessionError | None = None
        try:
            problem = await self._done
            await self._close(NORMAL if problem is None else problem.close)
        except _ClientGoneError:
            self.has_left = True
        finally:
            for channel in self._state.channels.values():
                channel.abort()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        return problem

    def stop(self, problem: SessionError) -> None:
        """End the session: what was spoken becomes final, then the client gets the problem."""
        state = self._state
        if state.is_stopping:
            return
        state.is_stopping = True
        if not state.ended:
            state.problem, state.ended = problem, True
            for channel in state.channels.values():
                channel.spool.end()
        self._loop.call_later(_STOP_WAIT_S, self._fail, problem)
        self._finish_if_ended()

    def _fail(self, problem: SessionError) -> None:
        self._put(_Goodbye(problem))

    # Reading

    async def _reading(self) -> None:
        try:
            while True:
                await self._wait_for_room()
                await self._read(await self._receive())
        except SessionError as problem:
            self._fail(problem)
            await self._discard()
        except _ClientGoneError as gone:
            self._leave(gone)
        except Exception:  # a defect must end only this session
            logs.exception("a session failed by a defect of the service")
            self._fail(DefectError())

    async def _wait_for_room(self) -> None:
        """Wait while the client does not read, or while its audio fills the disk."""
        while len(self._outbox) > _LARGEST_OUTBOX or any(each.spool.is_full for each in self._state.channels.values()):
            await asyncio.sleep(_READ_PAUSE_S)

    async def _receive(self) -> Mapping[str, Any]:
        try:
            message = await self._socket.receive()
        except RuntimeError as error:  # it was closed meanwhile
            raise _ClientGoneError from error
        if message["type"] == "websocket.disconnect":
            raise _ClientGoneError
        return message

    async def _discard(self) -> None:
        """Read on without use, so that the close is seen and pings are answered."""
        try:
            while True:
                await self._receive()
        except _ClientGoneError as gone:
            self._leave(gone)

    def _leave(self, gone: _ClientGoneError) -> None:
        if not self._done.done():
            self._done.set_exception(gone)

    async def _read(self, received: Mapping[str, Any]) -> None:
        data = received.get("bytes")
        if data is not None:
            self._add_audio(None, data)
            return
        message = messages.read(received.get("text") or "")
        name = message["message"]
        if name == "StartRecognition":
            await self._start(message)
            return
        handler = self._handlers.get(name)
        if handler is None:
            raise SessionError(ErrorType.INVALID_MESSAGE, f"{name[:100]!r} is not a message of this protocol")
        if self._state.start is None:
            raise SessionError(ErrorType.PROTOCOL_ERROR, f"{name} came before StartRecognition")
        handler(message)

    async def _start(self, message: Mapping[str, Any]) -> None:
        if self._state.start is not None:
            raise SessionError(ErrorType.PROTOCOL_ERROR, "StartRecognition came twice")
        start = config.start(message)
        language = start.transcription_config.language or self._language
        notes = self._admit(self, start)
        try:
            ready = await asyncio.wait_for(self._prepare(start, language), _PREPARE_S)
        except TimeoutError as error:
            raise SessionError(ErrorType.JOB_ERROR, "the inference server does not answer") from error
        chosen = start.transcription_config
        self._ready, self._state.start = ready, start
        self._state.rules, self._state.last_audio_s = config.rules(chosen), time.monotonic()
        labels = (chosen.channel_diarization_labels or []) if chosen.has_channels else None
        recogniser = ready.recogniser
        self._put(messages.started(self.id, recogniser.language, recogniser.tokens, labels))
        for note in (*notes, *ready.warnings):
            self._put(note)
        for label in [None] if labels is None else labels:
            self._open(label)

    def _open(self, label: str | None) -> Channel:
        start, ready = self._state.start, self._ready
        if start is None or ready is None:
            raise SessionError(ErrorType.PROTOCOL_ERROR, "audio came before StartRecognition")
        chosen = start.transcription_config
        setup = Setup(
            recogniser=ready.recogniser,
            raw=start.audio_format.raw,
            rules=self._state.rules,
            partials=bool(chosen.enable_partials),
            speakers=chosen.has_speakers,
            most_speakers=chosen.speaker_diarization_config.max_speakers,
            vocabulary=ready.vocabulary,
            voice_detection=ready.voice_detection,
            longest_s=self._limits.longest_s,
            channel=label,
        )

        def emit(message: Message | Ended) -> None:
            mail = _ChannelEnded(label, message.problem) if isinstance(message, Ended) else message
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(self._put, mail)

        channel = Channel(setup, emit)
        self._state.channels[label] = channel
        self._state.running.add(label)
        channel.start()
        return channel

    def _add_audio(self, label: str | None, data: bytes) -> None:
        state = self._state
        if state.start is None:
            raise SessionError(ErrorType.PROTOCOL_ERROR, "audio came before StartRecognition")
        if state.ended or label in state.closed:
            if "add_audio_after_eos" not in state.warned:
                state.warned.add("add_audio_after_eos")
                self._put(messages.warning("add_audio_after_eos", "audio after its end is ignored"))
            return
        channel = state.channels.get(label)
        if channel is None:
            channel = self._new_channel(label)
        state.last_audio_s = time.monotonic()
        state.warned.discard("idle_timeout")
        channel.spool.put(Frame(data))

    def _new_channel(self, label: str | None) -> Channel:
        """Open a channel at its first audio, where the client did not name its channels before."""
        chosen = self._state.start.transcription_config if self._state.start is not None else None
        if label is None:
            raise SessionError(ErrorType.PROTOCOL_ERROR, "the audio of channels comes as AddChannelAudio")
        if chosen is None or not chosen.has_channels:
            reason = "AddChannelAudio needs the diarization `channel` or `channel_and_speaker`"
            raise SessionError(ErrorType.PROTOCOL_ERROR, reason)
        if chosen.channel_diarization_labels or len(self._state.channels) >= config.LARGEST_CHANNELS:
            known = ", ".join(str(each) for each in self._state.channels)
            raise SessionError(ErrorType.INVALID_MESSAGE, f"{label!r} is not a channel of this session, only {known}")
        self._reserve(self, len(self._state.channels) + 1)
        return self._open(label)

    def _add_channel_audio(self, message: Mapping[str, Any]) -> None:
        parsed = config.parse(config.AddChannelAudio, message)
        try:
            data = base64.b64decode(parsed.data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise SessionError(ErrorType.INVALID_MESSAGE, "data: it is not base64") from error
        self._add_audio(parsed.channel, data)

    def _end_channel(self, message: Mapping[str, Any]) -> None:
        label = config.parse(config.EndOfChannel, message).channel
        if label not in self._state.channels:
            raise SessionError(ErrorType.INVALID_MESSAGE, f"{label!r} is not a channel of this session")
        self._state.closed.add(label)
        self._state.channels[label].spool.end()
        self._finish_if_ended()

    def _end_stream(self, message: Mapping[str, Any]) -> None:
        config.parse(config.EndOfStream, message)
        self._state.ended = True
        for channel in self._state.channels.values():
            channel.spool.end()
        self._finish_if_ended()

    def _change(self, message: Mapping[str, Any]) -> None:
        changed = config.parse(config.SetRecognitionConfig, message).transcription_config
        state = self._state
        known = state.start.transcription_config.language if state.start is not None else None
        if changed.language is not None and known is not None and changed.language != known:
            raise SessionError(ErrorType.INVALID_CONFIG, "transcription_config.language: it cannot change")
        state.rules = config.rules(changed, state.rules)
        self._command(ChangeRules(state.rules, changed.enable_partials))

    def _get_speakers(self, message: Mapping[str, Any]) -> None:
        chosen = self._state.start.transcription_config if self._state.start is not None else None
        if chosen is None or not chosen.has_speakers:
            self._put(
                messages.warning("speaker_id", "speakers are not distinguished: choose the diarization `speaker`")
            )
        elif config.parse(config.GetSpeakers, message).final:
            self._state.lists_speakers_at_end = True
        else:
            self._command(ListSpeakers())

    def _force_end(self, message: Mapping[str, Any]) -> None:
        parsed = config.parse(config.ForceEndOfUtterance, message)
        chosen = [parsed.channel] if parsed.channel is not None else list(self._state.channels)
        if any(label not in self._state.channels for label in chosen):
            raise SessionError(ErrorType.INVALID_MESSAGE, f"{parsed.channel!r} is not a channel of this session")
        for label in chosen:
            self._state.channels[label].spool.put(ForceEnd(parsed.timestamp))

    def _command(self, command: ChangeRules | ListSpeakers) -> None:
        for channel in self._state.channels.values():
            channel.spool.put(command)

    # Sending

    def _put(self, mail: _Mail) -> None:
        self._outbox.append(mail)
        self._has_mail.set()

    async def _sending(self) -> None:
        try:
            while not self._done.done():
                await self._has_mail.wait()
                self._has_mail.clear()
                while self._outbox and not self._done.done():
                    await self._deliver(self._outbox.popleft())
                    # A send that need not wait does not let other sessions run.
                    await asyncio.sleep(0)
        except _ClientGoneError as gone:
            self._leave(gone)

    async def _deliver(self, mail: _Mail) -> None:
        match mail:
            case _Goodbye(problem):
                for message in self._last_messages(problem):
                    await self._send(message)
                if not self._done.done():
                    self._done.set_result(problem)
            case _ChannelEnded(label, problem):
                self._state.running.discard(label)
                if problem is not None:
                    self._fail(problem)
                self._finish_if_ended()
            case _:
                await self._send(mail)

    async def _send(self, message: Message) -> None:
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await self._socket.send_text(messages.write(message))
        except (TimeoutError, WebSocketDisconnect, RuntimeError) as error:
            raise _ClientGoneError from error

    def _finish_if_ended(self) -> None:
        """Add the last item when no more audio comes and every channel has ended."""
        state = self._state
        all_closed = bool(state.closed) and state.closed == set(state.channels)
        if not state.running and (state.ended or all_closed):
            self._put(_Goodbye(state.problem))

    def _last_messages(self, problem: SessionError | None) -> list[Message]:
        if problem is not None:
            return [messages.error(problem)]
        if not self._state.lists_speakers_at_end:
            return [messages.END_OF_TRANSCRIPT]
        labels = [label for channel in self._state.channels.values() for label in channel.labels]
        return [messages.speakers(dict.fromkeys(labels)), messages.END_OF_TRANSCRIPT]

    async def _close(self, close: Close) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            await asyncio.wait_for(self._socket.close(close.code, close.reason), _CLOSE_WAIT_S)

    # Time

    async def _watching(self) -> None:
        while True:
            await asyncio.sleep(min(_CHECK_S, self._limits.idle_s / 10))
            self._check_times()

    def _check_times(self) -> None:
        now, limits = time.monotonic(), self._limits
        if self._state.start is None:
            if now - self.began_s > limits.start_s:
                self._fail(SessionError(ErrorType.IDLE_TIMEOUT, f"no StartRecognition came for {limits.start_s:g} s"))
            return
        if not self._state.ended:
            self._check_time("idle_timeout", now - self._state.last_audio_s, limits.idle_s, "no audio came for")
        self._check_time("session_timeout", now - self.began_s, limits.longest_s, "the session has lasted")

    def _check_time(self, kind: str, passed_s: float, limit_s: float, what: str) -> None:
        if passed_s > limit_s:
            self.stop(SessionError(ErrorType(kind), f"{what} {limit_s:g} s, the limit of this service"))
        elif passed_s > _WARNED_PART * limit_s and kind not in self._state.warned:
            self._state.warned.add(kind)
            self._put(messages.warning(kind, f"{what} {passed_s:.0f} s; the limit is {limit_s:g} s"))
