"""What a stored configuration of a job requests of the recogniser."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ApiError
from service.jobs import config
from service.recognition import Diarization, Wanted
from tests.unit.service import make
from transcriber.phrases import Phrase

CHARACTERS = st.characters(categories=["Ll", "Lu", "Cs", "Cc"])
VALUES = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(CHARACTERS, max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "details", "title"]) | st.text(CHARACTERS, max_size=5), inner, max_size=4
        )
    ),
    max_leaves=8,
)


def test_wanted() -> None:
    transcription = {
        "language": "en",
        "operating_point": "standard",
        "diarization": "speaker",
        "speaker_diarization_config": {"max_speakers": 3, "speaker_sensitivity": 0.5},
        "additional_vocab": ["GPU", {"content": "Voxwright", "sounds_like": ["vox  right"]}, "GPU"],
    }
    read = config.read(json.dumps({"type": "transcription", "transcription_config": transcription}).encode())
    assert config.wanted(read.document()) == Wanted(
        language="en",
        operating_point="standard",
        diarization=Diarization.SPEAKER,
        vocabulary=(Phrase(content="GPU"), Phrase(content="Voxwright", sounds_like=("vox right",))),
        most_speakers=3,
    )


def test_defaults() -> None:
    read = config.read(json.dumps({"type": "transcription", "transcription_config": {"language": "en"}}).encode())
    assert config.wanted(read.document()) == Wanted(language="en")


@pytest.mark.parametrize(
    ("languages", "given", "chosen"),
    [
        (("de",), None, "de"),
        (("de",), {"diarization": "speaker"}, "de"),
        (("de", "en"), None, "en"),
        (("de", "en"), {"language": "de"}, "de"),
        # What the client names is checked later.
        (("de",), {"language": "en"}, "en"),
    ],
)
def test_names_the_usual_language(languages: tuple[str, ...], given: dict[str, str] | None, chosen: str) -> None:
    document = {"type": "transcription", **({} if given is None else {"transcription_config": given})}
    read = config.with_language(config.read(json.dumps(document).encode()), make.catalogue_of(*languages))
    assert read.document()["transcription_config"] == {**(given or {}), "language": chosen}
    assert config.wanted(read.document()).language == chosen


def test_language_is_needed_where_none_is_usual() -> None:
    read = config.read(b'{"type": "transcription"}')
    with pytest.raises(ApiError) as raised:
        config.with_language(read, make.catalogue_of("de", "fr"))
    assert (raised.value.status, raised.value.error) == (400, "No language selected")
    assert raised.value.detail == "transcription_config.language: it is missing; use de or fr"


HEADER = "it is not a header `Name: value` whose value has only printable characters of Latin-1"


@pytest.mark.parametrize("field", ["notification_config", "fetch_data"])
@pytest.mark.parametrize(
    "header",
    ["X: \N{EURO SIGN}", "X: \u4f8b", "X: a\x07", "X: a\x85", "X: \x7f", "X: a\r\nY: b", "X: a\n", "X", "a b: c"],
)
def test_rejects_headers_that_cannot_be_sent(field: str, header: str) -> None:
    target = {"url": "https://a.example/", "auth_headers": [header]}
    document = {"type": "transcription", field: [target] if field == "notification_config" else target}
    with pytest.raises(ApiError) as raised:
        config.read(json.dumps(document).encode())
    place = "notification_config.0" if field == "notification_config" else field
    assert (raised.value.status, raised.value.detail) == (400, f"{place}.auth_headers.0: {HEADER}")


@pytest.mark.parametrize("header", ["X: Zo\xeb", "X:\ta\tb", "X:", "Authorization: Bearer ~!"])
def test_accepts_headers_that_can_be_sent(header: str) -> None:
    document = {"type": "transcription", "fetch_data": {"url": "https://a.example/", "auth_headers": [header]}}
    assert config.read(json.dumps(document).encode()).document()["fetch_data"]["auth_headers"] == [header]


def test_pattern_of_another_field_has_its_own_reason() -> None:
    document = {"type": "transcription", "transcription_config": {"additional_vocab": [" "]}}
    with pytest.raises(ApiError, match="String should match"):
        config.read(json.dumps(document).encode())


def test_accepts_any_character() -> None:
    details = {"a": "\0 \N{SNOWMAN} \N{GRINNING FACE}"}
    read = config.read(json.dumps({"type": "transcription", "tracking": {"details": details}}).encode())
    assert read.document()["tracking"]["details"] == details


def with_vocabulary(spellings: int) -> bytes:
    """Return a configuration whose 1,000 phrases have so many spellings each."""
    vocabulary = [{"content": "a", "sounds_like": ["b"] * (spellings - 1)}] * 1000
    return json.dumps({"type": "transcription", "transcription_config": {"additional_vocab": vocabulary}}).encode()


def test_spellings_of_a_vocabulary_are_limited() -> None:
    transcription = config.read(with_vocabulary(4)).transcription_config
    assert transcription is not None
    assert len(transcription.additional_vocab or []) == 1000
    with pytest.raises(ApiError) as raised:
        config.read(with_vocabulary(5))
    assert (raised.value.status, raised.value.field) == (400, "transcription_config.additional_vocab")
    reason = "the phrases have 5000 spellings, with all that they sound like; send at most 4000"
    assert raised.value.detail == f"transcription_config.additional_vocab: {reason}"


def nested(depth: int) -> str:
    return '{"a": ' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    ("fields", "place", "reason"),
    [
        ('"max_delay": NaN', "transcription_config.max_delay", "it is not a finite number"),
        ('"max_delay": 1e999', "transcription_config.max_delay", "it is not a finite number"),
        ('"max_delay": -Infinity', "transcription_config.max_delay", "it is not a finite number"),
        ('"ctrl": {"a": [1, {"b": NaN}]}', "transcription_config.ctrl.a.1.b", "it is not a finite number"),
        (
            '"ctrl": {"a": "\\ud800"}',
            "transcription_config.ctrl.a",
            "it has a character that Unicode does not have",
        ),
        (
            '"ctrl": {"\\ud800": NaN}',
            "transcription_config.ctrl",
            "it has a character that Unicode does not have",
        ),
        (f'"ctrl": {nested(400)}', "config", "it is nested too deeply"),
        (f'"ctrl": {nested(100_000)}', "config", "it is not JSON"),
    ],
)
def test_rejects_what_cannot_be_written_as_json(fields: str, place: str, reason: str) -> None:
    """It would be stored, and the job could not be shown."""
    text = f'{{"type": "transcription", "transcription_config": {{"language": "en", {fields}}}}}'
    with pytest.raises(ApiError) as raised:
        config.read(text.encode())
    assert (raised.value.status, raised.value.field) == (400, place)
    assert raised.value.detail == f"{place}: {reason}"


@given(
    st.text(max_size=50)
    | VALUES.map(json.dumps)
    | VALUES.map(lambda value: json.dumps({"type": "transcription", "tracking": {"details": {"a": value}}}))
)
def test_what_is_read_can_be_shown(text: str) -> None:
    """Anything else is refused, and the reason can be sent."""
    try:
        document = config.read(text.encode(errors="surrogatepass")).document()
    except ApiError as error:
        document = {"detail": error.detail}
    json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
