"""Parse StartRecognition and SetRecognitionConfig; unknown fields are ignored, as clients send many."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from service.additional_vocabulary import AdditionalVocabulary
from service.realtime.errors import ErrorType, SessionError
from transcriber.raw import RawFormat
from transcriber.session import StreamRules

LARGEST_CHANNELS = 10
_DELAYS_S = 0.7, 4.0
_ENCODINGS = {"pcm_s16le": "s16le", "pcm_f32le": "f32le", "mulaw": "mulaw"}
_RATES_HZ = 1_000, 192_000


class _Message(BaseModel):
    # Python reads NaN and 1e999, which JSON does not have.
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Diarization(StrEnum):
    """How speakers are distinguished."""

    NONE = "none"
    SPEAKER = "speaker"
    CHANNEL = "channel"
    CHANNEL_AND_SPEAKER = "channel_and_speaker"


class AudioFormat(_Message):
    """The audio of a session: a file of any format, or samples without a header."""

    type: Literal["raw", "file"]
    encoding: Literal["pcm_s16le", "pcm_f32le", "mulaw"] | None = None
    sample_rate: Annotated[int, Field(ge=_RATES_HZ[0], le=_RATES_HZ[1])] | None = None

    @property
    def raw(self) -> RawFormat | None:
        """Return the format of the samples; None for a file."""
        if self.type == "file" or self.encoding is None or self.sample_rate is None:
            return None
        return RawFormat(name=_ENCODINGS[self.encoding], sample_rate_hz=self.sample_rate)


class KnownSpeaker(_Message):
    """A speaker of earlier sessions."""

    label: Annotated[str, Field(min_length=1, max_length=100)]
    speaker_identifiers: Annotated[list[str], Field(min_length=1)]


class SpeakerConfig(_Message):
    """The options of diarization."""

    max_speakers: Annotated[int, Field(ge=2)] | None = None
    speaker_sensitivity: Annotated[float, Field(ge=0, le=1)] | None = None
    prefer_current_speaker: bool | None = None
    get_speakers: bool | None = None
    speakers: Annotated[list[KnownSpeaker], Field(max_length=50)] = []


class ConversationConfig(_Message):
    """When an utterance ends."""

    end_of_utterance_silence_trigger: Annotated[float, Field(ge=0, le=2)] | None = None


class AudioFiltering(_Message):
    """The filter of quiet speech; it is checked and has no effect."""

    volume_threshold: Annotated[float, Field(ge=0, le=100)] | None = None


class _Changeable(_Message):
    """What may change while a session goes on."""

    language: Annotated[str, Field(min_length=1, max_length=50)] | None = None
    enable_partials: bool | None = None
    max_delay: Annotated[float, Field(gt=0)] | None = None
    max_delay_mode: Literal["flexible", "fixed"] | None = None
    conversation_config: ConversationConfig | None = None
    audio_filtering_config: AudioFiltering | None = None


class TranscriptionConfig(_Changeable):
    """How a session is transcribed."""

    model: str | None = None
    operating_point: str | None = None
    diarization: Diarization = Diarization.NONE
    channel_diarization_labels: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=LARGEST_CHANNELS)
    ] | None = None  # fmt: skip
    speaker_diarization_config: SpeakerConfig = SpeakerConfig()
    additional_vocab: AdditionalVocabulary = []

    @field_validator("diarization", mode="before")
    @classmethod
    def _as_diarization(cls, name: Any) -> Any:
        return Diarization(name) if isinstance(name, str) and name in set(Diarization) else name

    @property
    def has_channels(self) -> bool:
        """Return whether the audio comes in messages of channels."""
        return self.diarization in (Diarization.CHANNEL, Diarization.CHANNEL_AND_SPEAKER)

    @property
    def has_speakers(self) -> bool:
        """Return whether voices are distinguished."""
        return self.diarization in (Diarization.SPEAKER, Diarization.CHANNEL_AND_SPEAKER)


class TranslationConfig(_Message):
    """The translations that a client requests; there are none here."""

    target_languages: list[str] = []


class StartRecognition(_Message):
    """The first message of a session."""

    audio_format: AudioFormat
    transcription_config: TranscriptionConfig
    translation_config: TranslationConfig | None = None
    audio_events_config: dict[str, Any] | None = None


class SetRecognitionConfig(_Message):
    """New values of what may change."""

    transcription_config: _Changeable


class EndOfStream(_Message):
    """The end of the audio. Clients count frames by what they saw acknowledged, so the number is not used."""

    last_seq_no: int | None = None


class GetSpeakers(_Message):
    """The request for the speakers, once now or at the end."""

    final: bool = False


class ForceEndOfUtterance(_Message):
    """The request to end the utterance, at a time of the audio or now."""

    timestamp: Annotated[float, Field(ge=0)] | None = None
    channel: str | None = None


class AddChannelAudio(_Message):
    """Audio of a channel, in base64."""

    channel: Annotated[str, Field(min_length=1, max_length=100)]
    data: str


class EndOfChannel(_Message):
    """The end of the audio of a channel."""

    channel: Annotated[str, Field(min_length=1, max_length=100)]
    last_seq_no: int | None = None


Parsed = TypeVar("Parsed", bound=_Message)


def parse(kind: type[Parsed], message: Mapping[str, Any]) -> Parsed:
    """Return the fields of a message; raise SessionError that names the first wrong one."""
    try:
        return kind.model_validate(message)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        reason = f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
        raise SessionError(_error_type(kind, place), reason) from error


def start(message: Mapping[str, Any]) -> StartRecognition:
    """Return a checked StartRecognition; raise SessionError for what cannot be transcribed."""
    parsed = parse(StartRecognition, message)
    audio = parsed.audio_format
    if audio.type == "raw" and audio.raw is None:
        absent = "encoding" if audio.encoding is None else "sample_rate"
        raise SessionError(ErrorType.INVALID_AUDIO_TYPE, f"audio_format.{absent}: raw audio needs it")
    labels = parsed.transcription_config.channel_diarization_labels
    if labels is not None and len(set(labels)) < len(labels):
        reason = "transcription_config.channel_diarization_labels: a label appears twice"
        raise SessionError(ErrorType.INVALID_CONFIG, reason)
    return parsed


def rules(config: _Changeable, before: StreamRules | None = None) -> StreamRules:
    """Return when words become final; what the configuration leaves out stays as it was before."""
    known = before or StreamRules(max_delay_s=_DELAYS_S[1])
    delay_s, trigger_s = known.max_delay_s, known.end_of_utterance_s
    if config.max_delay is not None:
        # Clients may still send the 20 s that were once allowed.
        delay_s = min(max(config.max_delay, _DELAYS_S[0]), _DELAYS_S[1])
    conversation = config.conversation_config
    if conversation is not None and conversation.end_of_utterance_silence_trigger is not None:
        trigger_s = conversation.end_of_utterance_silence_trigger or None
    return StreamRules(max_delay_s=delay_s, end_of_utterance_s=trigger_s)


def _error_type(kind: type[_Message], place: str) -> ErrorType:
    if place.startswith("audio_format"):
        return ErrorType.INVALID_AUDIO_TYPE
    if place == "transcription_config.language":
        return ErrorType.INVALID_LANGUAGE
    if place in ("transcription_config.model", "transcription_config.operating_point"):
        return ErrorType.INVALID_MODEL
    if kind in (StartRecognition, SetRecognitionConfig):
        return ErrorType.INVALID_CONFIG
    return ErrorType.INVALID_MESSAGE
