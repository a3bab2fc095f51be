"""Read the form of a transcription request, and check its fields."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from contract.catalogue import Catalogue
from service import uploads
from service.errors import ApiError
from service.recognition import Diarization, Wanted
from service.settings import Limits
from transcriber.phrases import LONGEST_PHRASE, MOST_PHRASES, Phrase

# Models of OpenAI that clients have as a default; the best served operating point answers for them.
_FOREIGN_MODELS = ("whisper-", "gpt-")
_MOST_FIELDS = MOST_PHRASES + 50
_LISTS = ("keywords", "timestamp_granularities")
# Others, such as recordings of known speakers, are accepted without effect.
_FIELDS = frozenset(
    {"model", "language", "response_format", "stream", "file", *_LISTS, *(f"{name}[]" for name in _LISTS)}
)
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
INVALID = "invalid_request_error"


class ResponseFormat(StrEnum):
    """The formats of an answer."""

    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VTT = "vtt"
    VERBOSE_JSON = "verbose_json"
    DIARIZED_JSON = "diarized_json"


class Granularity(StrEnum):
    """What has times in verbose_json."""

    WORD = "word"
    SEGMENT = "segment"


Member = TypeVar("Member", ResponseFormat, Granularity)


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptionRequest:
    """The checked fields of a request; `file` is the recording."""

    file: UploadFile
    wanted: Wanted
    format: ResponseFormat
    granularities: frozenset[Granularity]
    is_streamed: bool


@contextlib.asynccontextmanager
async def read(request: Request, catalogue: Catalogue, limits: Limits) -> AsyncIterator[TranscriptionRequest]:
    """Read a form, whose parts may come in any order; its file lives until the end of the context.

    Raises ApiError for a body that is no form, is too large or stalls, and for a field with a wrong value.
    """
    async with uploads.received(request, limits, _MOST_FIELDS, _FIELDS) as form:
        yield checked(form.parts, catalogue)


def checked(form: FormData, catalogue: Catalogue) -> TranscriptionRequest:
    """Return the fields of a form; fields that are not served, such as `prompt` and `temperature`, are ignored.

    Raises ApiError with the name of the wrong field.
    """
    file = form.get("file")
    if isinstance(file, str):
        detail = "`file` was sent as a plain field; send the recording as a file, with a filename"
        raise ApiError(400, INVALID, detail, field="file")
    if file is None:
        raise ApiError(400, INVALID, "the part `file` with the recording is missing", field="file")
    form_of = _text(form, "response_format") or ResponseFormat.JSON
    chosen = _member(ResponseFormat, form_of, "response_format")
    is_diarized = chosen == ResponseFormat.DIARIZED_JSON
    return TranscriptionRequest(
        file=file,
        wanted=Wanted(
            language=_language(_text(form, "language"), catalogue),
            operating_point=_operating_point(_text(form, "model")),
            diarization=Diarization.SPEAKER if is_diarized else Diarization.NONE,
            vocabulary=_phrases(_texts(form, "keywords")),
        ),
        format=chosen,
        granularities=frozenset(
            _member(Granularity, each, "timestamp_granularities") for each in _texts(form, "timestamp_granularities")
        )
        or frozenset({Granularity.SEGMENT}),
        is_streamed=_truth(_text(form, "stream"), "stream"),
    )


def is_foreign(model: str) -> bool:
    """Return whether a name is that of a model of OpenAI."""
    return model.startswith(_FOREIGN_MODELS)


def _operating_point(model: str | None) -> str | None:
    if model is None:
        raise ApiError(400, INVALID, "the part `model` is missing; /v1/models lists the models", field="model")
    return None if is_foreign(model) else model


def no_such_model(model: str, known: Sequence[str]) -> ApiError:
    """Return the error of an unknown model."""
    detail = f"the model {model!r} does not exist; the models are {', '.join(known)}"
    return ApiError(404, "model_not_found", detail, field="model")


def _language(given: str | None, catalogue: Catalogue) -> str:
    known = catalogue.languages()
    if given is None:
        return catalogue.usual_language() or next(iter(known), "en")
    # Clients send `en`, `en-US` and `en_US`.
    language = given.strip().replace("_", "-").partition("-")[0].lower()
    if language not in known:
        detail = f"the language {given!r} is not served; the languages are {', '.join(known)}"
        raise ApiError(400, INVALID, detail, field="language")
    return language


def _phrases(texts: Sequence[str]) -> tuple[Phrase, ...]:
    """Return keywords as phrases; they are hints, so those that are no phrases are left out."""
    joined = (" ".join(text.split()) for text in texts)
    return tuple(Phrase(content=text) for text in joined if 0 < len(text) <= LONGEST_PHRASE)[:MOST_PHRASES]


def _text(form: FormData, name: str) -> str | None:
    return next(iter(_texts(form, name)), None)


def _texts(form: FormData, name: str) -> list[str]:
    """Return the values of a field; lists come with and without brackets after the name."""
    values = [*form.getlist(name), *form.getlist(f"{name}[]")]
    return [value for value in values if isinstance(value, str) and value]


def _truth(value: str | None, name: str) -> bool:
    if value is None:
        return False
    if value.lower() not in _TRUTH:
        raise ApiError(400, INVALID, f"{name} is {value!r}; it is true or false", field=name)
    return _TRUTH[value.lower()]


def _member(kind: type[Member], value: str, name: str) -> Member:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(each.value for each in kind)
        raise ApiError(400, INVALID, f"{name} {value!r} is not known; it is one of {known}", field=name) from None
