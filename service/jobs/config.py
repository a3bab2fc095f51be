"""Read the configuration of a job: what clients may send, and what this service does with it."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from contract.catalogue import Catalogue
from service import json_values
from service.additional_vocabulary import AdditionalVocabulary, phrases_of
from service.errors import ApiError
from service.recognition import Diarization, Wanted

MALFORMED = "Malformed request"
NOT_AVAILABLE = "Requested product not available"
_LARGEST_BYTES = 2**20
_SHOWN_CHARACTERS = 100
Text = Annotated[str, StringConstraints(max_length=10_000)]
Short = Annotated[str, StringConstraints(max_length=500)]
Url = Annotated[str, StringConstraints(min_length=1, max_length=4_000)]
_HEADER = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\xa0-\xff]*$"
Header = Annotated[str, StringConstraints(max_length=10_000, pattern=_HEADER)]
Contents = Literal[
    "jobinfo", "transcript", "transcript.json-v2", "transcript.txt", "transcript.srt", "transcript.vtt", "data"
]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpeakerDiarization(_Record):
    """How speakers are distinguished; fields that are not described are accepted and have no effect."""

    max_speakers: int | None = Field(None, ge=2, description="The largest number of speakers.")
    speaker_sensitivity: float | None = Field(None, ge=0, le=1)
    prefer_current_speaker: bool | None = None
    get_speakers: bool | None = None
    speakers: list[dict[str, Any]] | None = None


class Transcription(_Record):
    """How to transcribe. Fields that are not described are accepted and have no effect."""

    language: Short | None = Field(None, description="A language of the served models; the usual one if it is absent.")
    model: Short | None = Field(None, description="An operating point, such as standard or enhanced.")
    operating_point: Short | None = Field(None, description="The same as model.")
    diarization: Literal["none", "speaker", "channel"] | None = Field(
        None, description="speaker labels the turns S1, S2, ...; channel transcribes each channel by itself."
    )
    channel_diarization_labels: list[Short] | None = Field(None, description="Names of the channels.")
    speaker_diarization_config: SpeakerDiarization | None = None
    output_locale: Short | None = None
    domain: Short | None = None
    additional_vocab: AdditionalVocabulary | None = None
    punctuation_overrides: dict[str, Any] | None = None
    enable_entities: bool | None = None
    enable_partials: bool | None = None
    max_delay: float | None = None
    max_delay_mode: Short | None = None
    transcript_filtering_config: dict[str, Any] | None = None
    audio_filtering_config: dict[str, Any] | None = None
    streaming_mode: bool | None = None
    ctrl: dict[str, Any] | None = None
    conversation_config: dict[str, Any] | None = None
    language_hints: list[Short] | None = None
    language_hints_strict: bool | None = None


class Fetch(_Record):
    """Where to fetch the recording."""

    url: Url
    auth_headers: list[Header] | None = Field(None, max_length=20)


class Notification(_Record):
    """A URL to notify when the job ends."""

    url: Url
    contents: list[Contents] | None = Field(None, max_length=10)
    auth_headers: list[Header] | None = Field(None, max_length=20)
    method: Literal["post", "put"] | None = None


class Tracking(_Record):
    """Names that the client gives a job."""

    title: Text | None = None
    reference: Text | None = None
    tags: list[Short] | None = Field(None, max_length=100)
    details: dict[str, Any] | None = None


class Subtitles(_Record):
    """The shape of subtitles."""

    max_line_length: int = Field(37, ge=10, le=500)
    max_lines: int = Field(2, ge=1, le=10)


class Output(_Record):
    """The shape of the results."""

    srt_overrides: Subtitles | None = None
    generate_lattice: bool | None = None


class JobConfig(_Record):
    """The configuration of a job."""

    type: Literal["transcription"]
    transcription_config: Transcription | None = None
    fetch_data: Fetch | None = None
    notification_config: list[Notification] | None = Field(None, max_length=3)
    tracking: Tracking | None = None
    output_config: Output | None = None
    # Each would be an empty promise: these are refused when they are given.
    translation_config: dict[str, Any] | None = Field(None, description="Not served.")
    language_identification_config: dict[str, Any] | None = Field(None, description="Not served.")
    summarization_config: dict[str, Any] | None = Field(None, description="Not served.")
    sentiment_analysis_config: dict[str, Any] | None = Field(None, description="Not served.")
    topic_detection_config: dict[str, Any] | None = Field(None, description="Not served.")
    auto_chapters_config: dict[str, Any] | None = Field(None, description="Not served.")
    audio_events_config: dict[str, Any] | None = Field(None, description="Not served.")

    def document(self) -> dict[str, Any]:
        """Return the configuration as it is stored and shown: without nulls."""
        return self.model_dump(mode="json", exclude_none=True, exclude_unset=True)


_NOT_SERVED = tuple(name for name, field in JobConfig.model_fields.items() if field.description == "Not served.")


def read(text: bytes) -> JobConfig:
    """Read a configuration; raise ApiError 400 that names the wrong field."""
    if len(text) > _LARGEST_BYTES:
        raise ApiError(400, MALFORMED, f"config: it has more than {_LARGEST_BYTES} bytes", field="config")
    try:
        document = json.loads(text)
        problem = json_values.unwritable(document)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, MALFORMED, "config: it is not JSON", field="config") from error
    if problem is not None:
        place = problem[0][:_SHOWN_CHARACTERS] or "config"
        raise ApiError(400, MALFORMED, f"{place}: {problem[1]}", field=place)
    try:
        config = JobConfig.model_validate(document)
        # It is stored and shown in this form, which may be nested less deeply than what is read.
        config.document()
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from error
    for name in _NOT_SERVED:
        if getattr(config, name) is not None:
            raise ApiError(400, NOT_AVAILABLE, f"{name}: this service does not do that; leave it out", field=name)
    return config


def with_language(config: JobConfig, catalogue: Catalogue) -> JobConfig:
    """Return a configuration that names its language, the catalogue's usual one where the client named none.

    So the stored job does not depend on a catalogue that changes. Raises ApiError 400 where there is no usual language.
    """
    chosen = config.transcription_config or Transcription.model_validate({})
    if chosen.language is not None:
        return config
    language = catalogue.usual_language()
    if language is None:
        detail = f"transcription_config.language: it is missing; use {' or '.join(catalogue.languages())}"
        raise ApiError(400, "No language selected", detail, field="transcription_config.language")
    return config.model_copy(update={"transcription_config": chosen.model_copy(update={"language": language})})


def wanted(config: dict[str, Any]) -> Wanted:
    """Return what a stored configuration requests of the recogniser."""
    chosen = config.get("transcription_config", {})
    return Wanted(
        # Jobs of earlier releases have none where it was English.
        language=chosen.get("language", "en"),
        operating_point=chosen.get("model") or chosen.get("operating_point"),
        diarization=Diarization(chosen.get("diarization", "none")),
        vocabulary=phrases_of(chosen.get("additional_vocab", [])),
        most_speakers=chosen.get("speaker_diarization_config", {}).get("max_speakers"),
    )


def _malformed(error: Exception) -> ApiError:
    if not isinstance(error, ValidationError):
        return ApiError(400, MALFORMED, "config: it is nested too deeply", field="config")
    problem = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])[:_SHOWN_CHARACTERS] or "config"
    reason = problem["msg"]
    if problem["type"] == "extra_forbidden":
        reason = "this service does not know the field; correct its name, or leave it out"
    elif problem.get("ctx", {}).get("pattern") == _HEADER:
        reason = "it is not a header `Name: value` whose value has only printable characters of Latin-1"
    return ApiError(400, MALFORMED, f"{place}: {reason}", field=place)
