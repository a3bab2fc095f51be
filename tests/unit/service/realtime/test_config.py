"""What a client may configure, and how wrong values are refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.additional_vocabulary import phrases_of
from service.realtime import config, messages
from service.realtime.errors import ErrorType, SessionError
from transcriber.raw import RawFormat
from transcriber.session import StreamRules

FILE = {"type": "file"}
RAW = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16_000}
# What the clients send without being configured, and what they may send (speechmatics-rt 1.2, speechmatics-voice 0.2,
# speechmatics-python 5.0, real-time-client 8.5).
EVERYTHING = {
    "language": "en",
    "model": "enhanced",
    "domain": "finance",
    "output_locale": "en-GB",
    "additional_vocab": ["gnocchi", {"content": "CEO", "sounds_like": ["C.E.O."]}, {"content": "x"}],
    "diarization": "speaker",
    "speaker_diarization_config": {"max_speakers": 2, "speaker_sensitivity": 0.5, "prefer_current_speaker": True},
    "enable_partials": True,
    "max_delay": 1.5,
    "max_delay_mode": "flexible",
    "enable_entities": True,
    "punctuation_overrides": {"permitted_marks": ["all"], "sensitivity": 0.4},
    "audio_filtering_config": {"volume_threshold": 0.0},
    "transcript_filtering_config": {"remove_disfluencies": True},
    "conversation_config": {"end_of_utterance_silence_trigger": 0.8},
    "streaming_mode": True,
    "ctrl": {"anything": 1},
}


def start(audio: Any = None, **changed: Any) -> config.StartRecognition:
    return config.start(
        {
            "message": "StartRecognition",
            "audio_format": FILE if audio is None else audio,
            "transcription_config": {"language": "en"} | changed,
        }
    )


def refusal(audio: Any = None, **changed: Any) -> tuple[ErrorType, str]:
    with pytest.raises(SessionError) as caught:
        start(audio, **changed)
    return caught.value.kind, caught.value.reason


def test_accepts_what_clients_send() -> None:
    parsed = start(RAW, **EVERYTHING)
    chosen = parsed.transcription_config
    assert parsed.audio_format.raw == RawFormat(name="s16le", sample_rate_hz=16_000)
    assert [phrase.content for phrase in phrases_of(chosen.additional_vocab)] == ["gnocchi", "CEO", "x"]
    assert (chosen.has_speakers, chosen.has_channels, chosen.enable_partials) == (True, False, True)
    assert config.rules(chosen) == StreamRules(max_delay_s=1.5, end_of_utterance_s=0.8)


def test_defaults() -> None:
    chosen = start().transcription_config
    assert (chosen.has_speakers, chosen.has_channels, chosen.enable_partials) == (False, False, None)
    assert config.rules(chosen) == StreamRules(max_delay_s=4.0, end_of_utterance_s=None)


@pytest.mark.parametrize(("sent", "used_s"), [(0.2, 0.7), (0.7, 0.7), (2, 2.0), (4.0, 4.0), (20, 4.0)])
def test_delay_is_clamped(sent: float, used_s: float) -> None:
    assert config.rules(start(max_delay=sent).transcription_config).max_delay_s == used_s


def test_changes_keep_what_they_leave_out() -> None:
    before = StreamRules(max_delay_s=2.0, end_of_utterance_s=1.0)

    def changed(**values: Any) -> StreamRules:
        message = {"transcription_config": values}
        return config.rules(config.parse(config.SetRecognitionConfig, message).transcription_config, before)

    assert changed() == before
    assert changed(max_delay=1.0) == StreamRules(max_delay_s=1.0, end_of_utterance_s=1.0)
    off = {"end_of_utterance_silence_trigger": 0}
    assert changed(conversation_config=off) == StreamRules(max_delay_s=2.0, end_of_utterance_s=None)


@pytest.mark.parametrize(
    ("audio", "place"),
    [
        ({"type": "mp3"}, "audio_format.type"),
        ({}, "audio_format.type"),
        ([], "audio_format"),
        ({"type": "raw"}, "audio_format.encoding"),
        ({"type": "raw", "encoding": "pcm_s16le"}, "audio_format.sample_rate"),
        ({"type": "raw", "encoding": "opus", "sample_rate": 16_000}, "audio_format.encoding"),
        ({"type": "raw", "encoding": "mulaw", "sample_rate": 0}, "audio_format.sample_rate"),
        ({"type": "raw", "encoding": "mulaw", "sample_rate": 1e12}, "audio_format.sample_rate"),
        ({"type": "raw", "encoding": "mulaw", "sample_rate": "8000"}, "audio_format.sample_rate"),
    ],
)
def test_rejects_audio_format(audio: Any, place: str) -> None:
    kind, reason = refusal(audio)
    assert kind == ErrorType.INVALID_AUDIO_TYPE
    assert reason.startswith(f"{place}: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_delay", -1),
        ("max_delay", "soon"),
        ("max_delay", float("nan")),
        ("max_delay_mode", "lazy"),
        ("enable_partials", "yes"),
        ("diarization", "voices"),
        ("diarization", 7),
        ("additional_vocab", "gnocchi"),
        ("additional_vocab", [{"sounds_like": ["a"]}]),
        ("additional_vocab", [""]),
        ("additional_vocab", ["x"] * 1001),
        ("additional_vocab", [None]),
        ("additional_vocab", ["\ud83d"]),
        ("additional_vocab", [{"content": "x", "sounds_like": ["\ud83d"]}]),
        ("speaker_diarization_config", {"max_speakers": 1}),
        ("speaker_diarization_config", {"speaker_sensitivity": 1.1}),
        ("conversation_config", {"end_of_utterance_silence_trigger": 2.1}),
        ("conversation_config", {"end_of_utterance_silence_trigger": -0.1}),
        ("audio_filtering_config", {"volume_threshold": 101}),
        ("channel_diarization_labels", []),
        ("channel_diarization_labels", ["a"] * 2),
        ("channel_diarization_labels", [f"{number}" for number in range(11)]),
        ("channel_diarization_labels", [1]),
    ],
)
def test_rejects_transcription_config(key: str, value: Any) -> None:
    kind, reason = refusal(**{key: value})
    assert kind == ErrorType.INVALID_CONFIG
    assert reason.startswith(f"transcription_config.{key}")


def test_names_the_wrong_field() -> None:
    assert refusal(max_delay="soon") == (
        ErrorType.INVALID_CONFIG,
        "transcription_config.max_delay: input should be a valid number",
    )
    assert refusal(language=3)[0] == ErrorType.INVALID_LANGUAGE
    assert refusal(model=3)[0] == ErrorType.INVALID_MODEL


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_rejects_what_is_not_a_finite_number(number: float) -> None:
    assert refusal(max_delay=number)[1].startswith("transcription_config.max_delay: input should be ")
    with pytest.raises(SessionError, match="timestamp: input should be "):
        config.parse(config.ForceEndOfUtterance, {"timestamp": number})


def test_spellings_of_a_vocabulary_are_limited() -> None:
    kind, reason = refusal(additional_vocab=[{"content": "a", "sounds_like": ["b"] * 4000}])
    assert kind == ErrorType.INVALID_CONFIG
    sentence = "the phrases have 4001 spellings, with all that they sound like; send at most 4000"
    assert reason == f"transcription_config.additional_vocab: {sentence}"


def test_rejects_start_without_parts() -> None:
    for message in ({}, {"audio_format": FILE}, {"audio_format": FILE, "transcription_config": None}):
        with pytest.raises(SessionError):
            config.start(message)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from([*EVERYTHING, "operating_point", "channel_diarization_labels", "other"])


@given(st.dictionaries(KEYS, VALUES, max_size=6), VALUES)
@settings(deadline=None)
def test_any_configuration_is_parsed_or_refused(changed: dict[str, Any], audio: Any) -> None:
    """No other exception, which would look like a defect of the service; the reason can be sent."""
    message = {"audio_format": RAW, "transcription_config": {"language": "en"} | changed}
    for kind, sent in (
        (config.StartRecognition, message | {"audio_format": audio}),
        (config.StartRecognition, message),
        (config.SetRecognitionConfig, message),
        (config.ForceEndOfUtterance, changed | {"timestamp": audio}),
        (config.AddChannelAudio, {"channel": audio, "data": audio}),
    ):
        try:
            parsed = config.parse(kind, sent)
        except SessionError as error:
            messages.write(messages.error(error)).encode()
        else:
            assert isinstance(parsed, kind)


@given(st.text(max_size=50) | VALUES.map(json.dumps))
def test_any_text_is_a_message_or_refused(sent: str) -> None:
    try:
        kind = type(messages.read(sent)["message"])
    except SessionError as error:
        kind = type(error.kind)
    assert kind in (str, ErrorType)
