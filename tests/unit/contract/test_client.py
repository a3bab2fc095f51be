"""What clients must know: the round trip, the merge of an ensemble, and the errors of wrong specs."""

import json
from typing import Any

import pytest

from contract.client import AudioSpec, Calibration, ClientSpec, SearchSpec, SpeakerSpec, TokenSpec, merge
from contract.errors import ServerContractError

AUDIO = AudioSpec(sample_rate_hz=16_000, shortest_samples=1360, hop_s=0.04, first_centre_s=0.0425)
TOKENS = TokenSpec(pieces=("▁the", '"\\', "ß", "<blank>"), blank=3, unspoken=(1,), boundary=0, style="characters")
SEARCH = SearchSpec(
    ngram_weight=0.5,
    token_bonus=1.5,
    rescorers={"rescorer": 0.5},
    rescorers_with_ngram={"lm": 0.25},
    ngram="abc",
    confidence=Calibration(slope=1.5, offset=-0.5),
    confidence_with_ngram=Calibration(slope=0.5, offset=2.0),
)
SPEAKER = SpeakerSpec(sample_rate_hz=8_000, same_speaker_similarity=0.5, window_s=2.0, hop_s=1.0, padding="exact")
FULL = ClientSpec(audio=AUDIO, tokens=TOKENS, search=SEARCH, speaker=SPEAKER)
REMEDY = "Use the client of the same release"


def read(text: str) -> ClientSpec:
    return ClientSpec.from_json(text, "model x", ServerContractError, REMEDY)


@pytest.mark.parametrize(
    "spec",
    [
        ClientSpec(),
        FULL,
        ClientSpec(audio=AUDIO),
        ClientSpec(tokens=TokenSpec(pieces=("a", "b"), blank=1), search=SearchSpec()),
    ],
)
def test_reads_back_equal(spec: ClientSpec) -> None:
    assert read(spec.to_json()) == spec


def test_json_has_only_the_sections_of_the_model() -> None:
    assert json.loads(ClientSpec().to_json()) == {"schema_version": 1}
    assert json.loads(ClientSpec(speaker=SPEAKER).to_json()) == {
        "schema_version": 1,
        "speaker": {
            "sample_rate_hz": 8_000,
            "same_speaker_similarity": 0.5,
            "window_s": 2.0,
            "hop_s": 1.0,
            "padding": "exact",
            "takes": "windows",
        },
    }


def test_merge_takes_each_section_from_the_first_model_that_has_it() -> None:
    other = ClientSpec(audio=AudioSpec(sample_rate_hz=8_000, shortest_samples=1, hop_s=0.02, first_centre_s=0.0))
    assert merge([ClientSpec(audio=AUDIO), ClientSpec(tokens=TOKENS, search=SEARCH), other]) == ClientSpec(
        audio=AUDIO, tokens=TOKENS, search=SEARCH
    )
    assert merge([]) == ClientSpec()


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1359, 0), (1360, 1), (1999, 1), (2000, 2), (32_000, 48)])
def test_frames_of_audio(samples: int, frames: int) -> None:
    assert AUDIO.frames(samples) == frames


def test_dropped_tokens() -> None:
    assert TOKENS.dropped == {1, 3}
    assert TokenSpec(pieces=("a", "b"), blank=1).dropped == {1}


RATES = "8000, 16000, 32000, 48000, the rates of the voice activity detector"


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        ("schema_version", 2, "schema_version: it is 2, and this release reads 1"),
        ("typo", 1, "typo: this field is unknown"),
        ("audio.sample_rate_hz", 44_100, f"audio.sample_rate_hz: 44100 is not one of {RATES}"),
        ("audio.shortest_samples", 0, "audio.shortest_samples: 0 is not above 0"),
        ("audio.hop_s", 0.0, "audio.hop_s: 0.0 is not above 0"),
        ("audio.hop_s", float("nan"), "audio.hop_s: nan is not a finite number"),
        ("audio.hop_s", float("inf"), "audio.hop_s: inf is not a finite number"),
        ("audio.hop_s", 1e-6, "audio.hop_s: 1e-06 s is less than a sample or more than 86400 s"),
        ("audio.hop_s", 1e300, "audio.hop_s: 1e+300 s is less than a sample or more than 86400 s"),
        ("audio.first_centre_s", float("-inf"), "audio.first_centre_s: -inf is not a finite number"),
        ("audio.shortest_samples", 1 << 64, "audio.shortest_samples: a number of 65 bits is too large"),
        ("tokens.unspoken", [1 << 64], "tokens.unspoken[0]: a number of 65 bits is too large"),
        ("search.ngram_weight", float("inf"), "search.ngram_weight: inf is not a finite number"),
        ("search.rescorers", {"lm": float("nan")}, "search.rescorers.lm: nan is not a finite number"),
        ("speaker.hop_s", 1e-6, "speaker.hop_s: 1e-06 s is less than a sample or more than 86400 s"),
        ("audio.padding", "zeros", "audio.padding: 'zeros' is not one of masked, exact"),
        ("audio.typo", 1, "audio.typo: this field is unknown"),
        ("tokens.pieces", [], "tokens.pieces: the list is empty"),
        ("tokens.pieces", ["a", 1], "tokens.pieces[1]: expected a string, found an integer"),
        ("tokens.blank", 4, "tokens.blank: 4 is not a token: the list has 4 pieces"),
        ("tokens.blank", -1, "tokens.blank: -1 is not a token: the list has 4 pieces"),
        ("tokens.unspoken", [9], "tokens.unspoken: 9 is not a token: the list has 4 pieces"),
        ("tokens.boundary", 4, "tokens.boundary: 4 is not a token: the list has 4 pieces"),
        ("tokens.style", "bpe", "tokens.style: 'bpe' is not one of sentencepiece, delimiter, characters"),
        ("search.rescorers", {"lm": "1"}, "search.rescorers.lm: expected a number, found a string"),
        ("speaker.window_s", -1, "speaker.window_s: -1.0 is not above 0"),
        ("speaker.sample_rate_hz", 0, "speaker.sample_rate_hz: 0 is not above 0"),
        ("speaker.takes", "frames", "speaker.takes: 'frames' is not one of windows, segments"),
    ],
)
def test_rejects_wrong_spec(path: str, value: Any, cause: str) -> None:
    table = FULL.to_table()
    *parents, last = path.split(".")
    inner = table
    for key in parents:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(ServerContractError) as error:
        read(json.dumps(table))
    assert str(error.value) == f"model x: {cause}. {REMEDY}."


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "its parameter `client` is not JSON (Expecting value: line 1 column 1 (char 0))"),
        ("9" * 5_000, "its parameter `client` is not JSON (a number in it has too many digits)"),
        ("[" * 2_000, "its parameter `client` is not JSON (it is nested more than 64 levels deep)"),
        ("[" * 65 + "]" * 65, "its parameter `client` is not JSON (it is nested more than 64 levels deep)"),
        ("[]", "expected a table, found a list"),
        ("{}", "schema_version: this field is missing"),
        ('{"schema_version": 1, "audio": 3}', "audio: expected a table, found an integer"),
    ],
)
def test_rejects_text_that_is_not_a_spec(text: str, cause: str) -> None:
    with pytest.raises(ServerContractError) as error:
        read(text)
    assert str(error.value) == f"model x: {cause}. {REMEDY}."


def test_spec_of_an_older_release_has_no_calibration() -> None:
    table = FULL.to_table()
    del table["search"]["confidence"], table["search"]["confidence_with_ngram"]
    search = read(json.dumps(table)).search
    assert search is not None
    assert (search.confidence, search.confidence_with_ngram) == (None, None)
    assert search.ngram == SEARCH.ngram


@pytest.mark.parametrize(
    ("calibration", "cause"),
    [
        ({"slope": -0.5, "offset": 0.0}, "search.confidence.slope: -0.5 is not above 0"),
        ({"slope": 0.5}, "search.confidence.offset: this field is missing"),
        ({"slope": 0.5, "offset": 0.0, "knots": []}, "search.confidence.knots: this field is unknown"),
    ],
)
def test_rejects_damaged_calibration(calibration: dict[str, Any], cause: str) -> None:
    table = FULL.to_table()
    table["search"]["confidence"] = calibration
    with pytest.raises(ServerContractError) as caught:
        read(json.dumps(table))
    assert caught.value.cause == cause
