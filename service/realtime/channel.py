"""Transcribe the audio of one channel in a thread of its own, from the spool to messages."""

import contextlib
import contextvars
import math
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from contract.errors import AudioError, VoxwrightError
from service import logs
from service.realtime import messages
from service.realtime.audio import FileDecoder, RawDecoder, no_sound
from service.realtime.errors import DefectError, ErrorType, SessionError
from service.realtime.messages import Message, Writer
from service.realtime.spool import Frame, Spool
from transcriber.audio import Samples
from transcriber.clustering import SpeakerLimits
from transcriber.phrases import Phrase
from transcriber.pipeline import Plan
from transcriber.raw import RawFormat
from transcriber.realtime import PAUSE_S
from transcriber.recogniser import StreamRecogniser
from transcriber.session import EndOfUtterance, Event, Final, Outage, Partial, StreamRules, StreamSession
from transcriber.transcript import clock
from transcriber.voice_detection import WEBRTC

# A time that a client computes from the bytes that it sent may be this far beyond the last sample of the resampler.
_TIME_TOLERANCE_S = 0.1
# A segment may begin this long before the sound by which it is detected.
_ONSET_S = 0.5
_NOTHING: Samples = np.empty(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class ForceEnd:
    """End the utterance, when the audio has reached a time or now."""

    time_s: float | None = None


@dataclass(frozen=True, slots=True)
class ChangeRules:
    """Use other rules from here on; None leaves partials as they are."""

    rules: StreamRules
    partials: bool | None


@dataclass(frozen=True, slots=True)
class ListSpeakers:
    """Send the speakers so far."""


Command: TypeAlias = ForceEnd | ChangeRules | ListSpeakers


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """How the audio of a channel is transcribed."""

    recogniser: StreamRecogniser
    raw: RawFormat | None
    rules: StreamRules
    partials: bool
    speakers: bool
    most_speakers: int | None = None
    vocabulary: tuple[Phrase, ...] = ()
    voice_detection: str = WEBRTC
    longest_s: float = math.inf
    """The longest audio."""
    channel: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A channel has ended: with all messages sent, or with the problem that ended it."""

    problem: SessionError | None = None


Emit: TypeAlias = Callable[[Message | Ended], None]


class Channel:
    """A channel: its spool, which the socket fills, and the thread that empties it. `emit` is called by the thread."""

    def __init__(self, setup: Setup, emit: Emit) -> None:
        self.spool: Spool[Command] = Spool()
        self._setup, self._emit = setup, emit
        self._partials, self._frames = setup.partials, 0
        self._writer = Writer(
            language=setup.recogniser.language,
            separator=setup.recogniser.tokens.word_separator,
            channel=setup.channel,
            has_speakers=setup.speakers,
        )
        self._labels: list[str] = []
        self._forced_s: float | None = None
        self._reported_s = 0.0
        self.audio_s = self.work_s = 0.0
        """Seconds of audio that were transcribed, and seconds that it took."""
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name="channel", daemon=True
        )

    def start(self) -> None:
        """Begin to transcribe."""
        self._thread.start()

    def abort(self) -> None:
        """End without more messages; what the server keeps of the stream is freed."""
        self.spool.abort()

    @property
    def labels(self) -> list[str]:
        """Return the speakers so far."""
        return list(self._labels)

    def _run(self) -> None:
        problem: SessionError | None = None
        try:
            self._transcribe()
        except SessionError as error:
            problem = error
        except AudioError as error:
            problem = SessionError(ErrorType.INVALID_AUDIO_TYPE, no_sound(error))
        except VoxwrightError as error:
            problem = SessionError(ErrorType.JOB_ERROR, error.cause)
        except Exception:  # a defect must not cost other sessions
            logs.exception("a session failed by a defect of the service")
            problem = DefectError()
        self._emit(Ended(problem))

    def _transcribe(self) -> None:
        setup = self._setup
        limits = SpeakerLimits(most=setup.most_speakers)
        plan = Plan(
            speakers=setup.speakers,
            vocabulary=setup.vocabulary,
            speaker_limits=limits,
            voice_detection=setup.voice_detection,
        )
        # The first window of a segment may wait long for a place on the server.
        recogniser = setup.recogniser.cancellable(lambda: self.spool.is_aborted)
        with StreamSession(recogniser, plan, rules=setup.rules) as stream:
            blocks = self._file_blocks(stream) if setup.raw is None else self._raw_blocks(setup.raw, stream)
            with contextlib.closing(blocks):
                for samples in blocks:
                    self._take(stream, samples)
                    if self.spool.is_aborted or self.audio_s > setup.longest_s:
                        break
            if not self.spool.is_aborted:
                self._send(stream, stream.finish())
        if self.audio_s > setup.longest_s:
            # A small file can hold days of silence, or time stamps that jump by hours.
            reason = f"the audio is longer than {setup.longest_s:g} s, the limit of this service"
            raise SessionError(ErrorType.SESSION_TIMEOUT, reason)

    def _take(self, stream: StreamSession, samples: Samples) -> None:
        began = time.monotonic()
        self.audio_s += samples.size / self._setup.recogniser.audio.sample_rate_hz
        self._send(stream, stream.push(samples) if samples.size else stream.pause())
        self._force(stream, is_pause=not samples.size)
        self.work_s += time.monotonic() - began

    def _raw_blocks(self, form: RawFormat, stream: StreamSession) -> Generator[Samples]:
        decoder, paused = RawDecoder(form, self._setup.recogniser.audio.sample_rate_hz), False
        while not self.spool.is_exhausted:
            item = self.spool.get(None if paused else self._pause_s(stream))
            if isinstance(item, Frame):
                yield from self._blocks_of(decoder.decode(item.data))
                self._acknowledge()
                paused = False
            elif item is not None:
                self._command(stream, item)
            elif not self.spool.is_exhausted:
                yield _NOTHING
                paused = True
        yield from self._blocks_of(decoder.finish())

    def _blocks_of(self, samples: Samples) -> Generator[Samples]:
        """Yield at most one second at a time, so that a large frame can be interrupted."""
        size = self._setup.recogniser.audio.sample_rate_hz
        for start in range(0, samples.size, size):
            yield samples[start : start + size]

    def _file_blocks(self, stream: StreamSession) -> Generator[Samples]:
        decoder = FileDecoder(
            self.spool,
            self._setup.recogniser.audio.sample_rate_hz,
            self._acknowledge,
            lambda: self._pause_s(stream),
        )
        try:
            for item in decoder.items():
                if isinstance(item, np.ndarray):
                    yield item
                else:
                    self._command(stream, item)
        finally:
            decoder.close()
        self._report_losses(decoder)

    def _report_losses(self, decoder: FileDecoder[Command]) -> None:
        losses = [] if decoder.recording is None else decoder.recording.losses
        for loss in losses:
            self._emit(messages.warning("audio_loss", f"{loss.reason}: {loss} is not in the transcript"))

    def _pause_s(self, stream: StreamSession) -> float:
        """Return how long no audio comes before words become final: as long as words may wait for their final."""
        return max(PAUSE_S, stream.rules.max_delay_s or 0.0)

    def _acknowledge(self) -> None:
        self._frames += 1
        self._emit(messages.added(self._frames, self._setup.channel))

    def _command(self, stream: StreamSession, command: Command) -> None:
        if isinstance(command, ChangeRules):
            stream.rules = command.rules
            self._partials = self._partials if command.partials is None else command.partials
        elif isinstance(command, ListSpeakers):
            self._emit(messages.speakers(self._labels))
        else:
            self._forced_s = self.audio_s if command.time_s is None else command.time_s
            self._force(stream, is_pause=False)

    def _force(self, stream: StreamSession, *, is_pause: bool) -> None:
        """End the utterance if a client has requested it for a time that has come."""
        if self._forced_s is None or (self.audio_s < self._forced_s - _TIME_TOLERANCE_S and not is_pause):
            return
        self._forced_s = None
        self._send(stream, stream.end_utterance())

    def _send(self, stream: StreamSession, events: list[Event]) -> None:
        for place, event in enumerate(events):
            following = events[place + 1] if place + 1 < len(events) else None
            match event:
                case Partial():
                    if self._partials:
                        self._emit(self._writer.partial(event))
                case Final():
                    self._send_final(event, following)
                case EndOfUtterance():
                    self._emit(self._writer.end_of_utterance(event))
                case Outage():
                    raise SessionError(
                        ErrorType.JOB_ERROR, f"the inference server does not answer: {event.error.cause}"
                    )
        self._report_silence(stream)

    def _send_final(self, event: Final, following: Event | None) -> None:
        spoken = [turn.speaker for turn in event.turns if turn.speaker is not None]
        self._labels = list(dict.fromkeys([*self._labels, *spoken]))
        self._reported_s = event.end_s
        self._emit(self._writer.final(event))
        if event.loss is not None:
            reason = f"{clock(event.start_s)} to {clock(event.end_s)} is not in the transcript: {event.loss.reason}"
            self._emit(messages.warning("segment_loss", reason))
        # Partials hold only what is not final yet, so what was shown before is withdrawn.
        if self._partials and not isinstance(following, Partial):
            self._emit(self._writer.no_partial(event.end_s))

    def _report_silence(self, stream: StreamSession) -> None:
        """Move the end of the transcript on while there is no speech."""
        end_s = stream.position_s - _ONSET_S
        if stream.is_speaking or end_s - self._reported_s < (stream.rules.max_delay_s or PAUSE_S):
            return
        self._emit(self._writer.silence(self._reported_s, end_s))
        self._reported_s = end_s
