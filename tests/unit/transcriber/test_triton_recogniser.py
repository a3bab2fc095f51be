"""Recognise with a server in this process: what the client checks, sends, and rejects."""

import base64
import json
import time
from dataclasses import asdict

import grpc
import numpy as np
import pytest

from contract.catalogue import catalogue, models
from contract.errors import ServerContractError, SettingError, VoxwrightError
from tests.unit.transcriber.fakes import PIECES, WEIGHTS
from tests.unit.transcriber.models import LEVELS, VOCABULARY
from tests.unit.transcriber.server import EMBEDDING, ENCODER_SIZE, TOP, Script, serving
from transcriber import ngram, triton_recogniser
from transcriber.connection import Connection
from transcriber.ctc import Emissions
from transcriber.ngram import Ngram
from transcriber.recogniser import EncoderOutput, Features, RequestError
from transcriber.triton_recogniser import TritonRecogniser, connect, connect_streams

NGRAM = base64.b85encode(ngram.encode(LEVELS, VOCABULARY)).decode()
WEIGHTS_TEXT = json.dumps(asdict(WEIGHTS))
REMEDY = "Serve the models of this client's own release, or transcribe with the client of the server's release."
EXPORT = "Run `python -m export` and `python -m build.engines` again, and restart the server with the new engines."


def features(frames: int) -> Features:
    return np.full((frames, 80), 10.0, dtype=np.float16)


def shapes(request: object) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.shape) for tensor in request.inputs}  # type: ignore[attr-defined]


def error_of(connection: Connection, point: str | None = None) -> str:
    with pytest.raises(VoxwrightError) as caught:
        connect(connection, "en", point)
    return str(caught.value).replace(connection.endpoint, "SERVER")


def test_reads_parameters_of_the_weights(recogniser: TritonRecogniser) -> None:
    assert recogniser.operating_point == "standard"
    assert recogniser.pieces == PIECES
    assert recogniser.rescorers == ("decoder",)
    assert recogniser.search_weights == WEIGHTS
    assert recogniser.same_speaker_similarity == 0.55


def test_prefers_enhanced(connection: Connection, script: Script) -> None:
    script.ready |= set(models(catalogue(), "enhanced"))
    assert connect(connection, "en", None).operating_point == "enhanced"
    assert connect(connection, "en", None).rescorers == ("decoder", "lm")
    assert connect(connection, "en", "standard").operating_point == "standard"


def test_optional_models_may_be_missing(connection: Connection, script: Script) -> None:
    script.ready -= {"decoder_standard", "diar_standard"}
    recogniser = connect(connection, "en", "standard")
    assert recogniser.rescorers == ()
    assert recogniser.same_speaker_similarity is None


def test_recognises_in_buckets(recogniser: TritonRecogniser, script: Script) -> None:
    encoded = recogniser.recognise(features(345))
    assert shapes(script.requests[-1]) == {"features": [1, 400, 80], "feature_lengths": [1, 1]}
    sent = np.frombuffer(script.requests[-1].raw_input_contents[0], np.float16).reshape(400, 80)
    assert (sent[:345] == 10.0).all()
    assert (sent[345:] == 0.0).all()
    assert encoded.encoder_length == 85
    assert encoded.emissions.tokens.shape == encoded.emissions.log_probs.shape == (85, 4)
    assert encoded.encoder_out.shape == (99, ENCODER_SIZE)
    assert encoded.encoder_out.dtype == np.float16


def test_longest_segment_has_a_bucket(recogniser: TritonRecogniser, script: Script) -> None:
    recogniser.recognise(features(1598))
    assert shapes(script.requests[-1])["features"] == [1, 1600, 80]


def test_scores_hypotheses(recogniser: TritonRecogniser, script: Script) -> None:
    encoded = recogniser.recognise(features(345))
    tokens = np.array([[3] * 20, [4] * 20, [5] * 20], dtype=np.int32)
    scores = recogniser.score("decoder", encoded, tokens, np.array([20, 3, 1], dtype=np.int32))
    assert scores.tolist() == [0.0, 1.0, 2.0]
    assert shapes(script.requests[-1]) == {
        "encoder_out": [1, 99, ENCODER_SIZE],
        "encoder_lengths": [1, 1],
        "hypotheses": [1, 16, 32],
        "hypothesis_lengths": [1, 16],
    }


def test_embeds_windows_in_batches(recogniser: TritonRecogniser, script: Script) -> None:
    embeddings = recogniser.embed([features(200)] * 39 + [features(120)])
    assert embeddings.shape == (40, EMBEDDING)
    assert [shapes(request)["features"] for request in script.requests] == [[32, 200, 80], [8, 200, 80]]
    recogniser.embed([features(30)])
    assert shapes(script.requests[-1]) == {"features": [1, 50, 80], "feature_lengths": [1, 1]}


def test_sends_streams_window_by_window(connection: Connection, script: Script) -> None:
    script.realtime = True
    streams = connect_streams(connection, "en", None)
    assert (streams.window_frames, streams.overlap_frames) == (35, 3)
    for number, frames in enumerate((35, 35, 12)):
        encoded = streams.step(77, features(frames), start=number == 0, end=number == 2)
        assert encoded.encoder_length == (8 if frames == 35 else 2)
    sent = [
        {name: value.int64_param or value.bool_param for name, value in request.parameters.items()}
        for request in script.requests
    ]
    assert [(each["sequence_id"], each["sequence_start"], each["sequence_end"]) for each in sent] == [
        (77, True, False),
        (77, False, False),
        (77, False, True),
    ]
    assert shapes(script.requests[-1]) == {"features": [1, 35, 80], "feature_lengths": [1, 1]}


def test_pads_encoder_output_of_a_stream_for_the_rescorers(connection: Connection, script: Script) -> None:
    script.realtime = True
    streams = connect_streams(connection, "en", None)
    encoded = EncoderOutput(
        emissions=Emissions(log_probs=np.zeros((20, TOP), np.float32), tokens=np.zeros((20, TOP), np.int32)),
        encoder_out=np.ones((20, ENCODER_SIZE), np.float16),
        encoder_length=20,
    )
    tokens = np.array([[3] * 4, [4] * 4], dtype=np.int32)
    assert len(streams.score("decoder", encoded, tokens, np.array([4, 3], dtype=np.int32))) == 2
    assert shapes(script.requests[-1])["encoder_out"] == [1, 49, ENCODER_SIZE]


def test_sends_the_middle_of_a_stream_once(connection: Connection, script: Script) -> None:
    """Without an answer, the server may have processed a window or not; only the first window can be repeated."""
    script.realtime = True
    streams = connect_streams(connection, "en", None)
    script.failures = [grpc.StatusCode.UNAVAILABLE]
    streams.step(5, features(35), start=True, end=False)
    assert len(script.requests) == 2
    script.failures = [grpc.StatusCode.UNAVAILABLE]
    with pytest.raises(RequestError, match="scripted UNAVAILABLE"):
        streams.step(5, features(35), start=False, end=False)
    assert len(script.requests) == 3


def test_cancels_a_stream_without_waiting(connection: Connection, script: Script) -> None:
    script.realtime = True
    streams = connect_streams(connection, "en", None)
    script.failures = [grpc.StatusCode.UNAVAILABLE] * 9
    began = time.monotonic()
    streams.cancel(7)
    assert len(script.requests) == 1
    assert time.monotonic() - began < 1.5
    parameters = script.requests[0].parameters
    assert parameters["sequence_start"].bool_param
    assert parameters["sequence_end"].bool_param


def test_rejects_server_in_the_other_mode(connection: Connection, script: Script) -> None:
    with pytest.raises(ServerContractError) as caught:
        connect_streams(connection, "en", None)
    assert str(caught.value) == (
        f"{connection.endpoint}: it is served for recordings and not in real time. "
        "Leave --realtime out, or start the server with SM_BATCH_MODE=false."
    )
    script.realtime = True
    assert error_of(connection) == (
        "SERVER: it is served in real time, for streams and not for recordings. "
        "Use --realtime, or start the server with SM_BATCH_MODE=true."
    )


def test_rejects_other_tensor_type(connection: Connection, script: Script) -> None:
    script.types["top_tokens"] = "INT64"
    assert error_of(connection) == (
        "ensemble_en_standard at SERVER: its output top_tokens is INT64 [-1, -1, 4], and this client uses "
        f"INT32 [-1, -1, -1]. {REMEDY}"
    )


def test_rejects_missing_tensor(connection: Connection, script: Script) -> None:
    script.types["encoder_lengths"] = "absent"
    assert error_of(connection) == f"ensemble_en_standard at SERVER: it has no output encoder_lengths. {REMEDY}"


def test_rejects_unknown_input(connection: Connection, script: Script) -> None:
    script.extra_inputs = ("prompt",)
    assert error_of(connection) == (
        f"ensemble_en_standard at SERVER: it needs an input prompt, which this client lacks. {REMEDY}"
    )


def test_rejects_missing_token_list(connection: Connection, script: Script) -> None:
    script.parameters["am_en_standard"] = {}
    assert error_of(connection) == (
        f"am_en_standard: its configuration has no parameter `tokens` with a JSON list. {REMEDY}"
    )


def test_reads_ngram_model(connection: Connection, script: Script) -> None:
    assert connect(connection, "en", "standard").ngram is None
    script.parameters["am_en_standard"] = {
        "tokens": json.dumps(PIECES[:-1]),
        "ngram": NGRAM,
        "search_weights": WEIGHTS_TEXT,
    }
    found = connect(connection, "en", "standard").ngram
    assert found is not None
    assert found.log_prob((4, 5)) == Ngram(LEVELS, len(PIECES) - 1).log_prob((4, 5))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("~~", "its parameter `ngram` holds no n-gram model (base85 overflow in hunk starting at byte 0)"),
        (NGRAM[:20], "its parameter `ngram` holds no n-gram model (buffer is smaller than requested size)"),
        (NGRAM, "its parameter `ngram` is of 6 tokens, and its parameter `tokens` of 7"),
    ],
)
def test_rejects_damaged_ngram_model(connection: Connection, script: Script, text: str, cause: str) -> None:
    script.parameters["am_en_standard"] = {"tokens": json.dumps(PIECES), "ngram": text}
    assert error_of(connection) == f"am_en_standard: {cause}. {REMEDY}"


def test_rejects_missing_similarity(connection: Connection, script: Script) -> None:
    script.parameters["diar_standard"] = {"same_speaker_similarity": "high"}
    assert error_of(connection) == (
        f"diar_standard: its configuration has no parameter `same_speaker_similarity` with a number. {REMEDY}"
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[]", "it is not a JSON object"),
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("{}", "ngram: it is missing or is not a number"),
        (json.dumps({**asdict(WEIGHTS), "bonus": "2"}), "bonus: it is missing or is not a number"),
        (json.dumps({**asdict(WEIGHTS), "ngram": -1}), "ngram: it is -1, and the smallest is 0"),
        (json.dumps({**asdict(WEIGHTS), "rescorers": 1}), "rescorers: it is missing or is not a JSON object"),
        (json.dumps({**asdict(WEIGHTS), "rescorers": {"lm": True}}), "lm: it is missing or is not a number"),
    ],
)
def test_rejects_damaged_search_weights(connection: Connection, script: Script, text: str, cause: str) -> None:
    script.parameters["am_en_standard"]["search_weights"] = text
    assert error_of(connection) == (
        f"am_en_standard: its parameter `search_weights` holds no weights of a search ({cause}). {EXPORT}"
    )


def test_rejects_missing_search_weights(connection: Connection, script: Script) -> None:
    del script.parameters["am_en_standard"]["search_weights"]
    assert error_of(connection) == (
        "am_en_standard: its configuration has no parameter `search_weights`: it was exported by an older release. "
        f"{EXPORT}"
    )


def test_rejects_rescorer_without_weight(connection: Connection, script: Script) -> None:
    without = {**asdict(WEIGHTS), "rescorers_with_ngram": {"lm": 0.6}}
    script.parameters["am_en_standard"]["search_weights"] = json.dumps(without)
    assert error_of(connection) == (
        f"am_en_standard: its parameter `search_weights` has no weight for decoder, which the server has. {EXPORT}"
    )


@pytest.mark.parametrize("removed", [("lm",), ("decoder", "lm"), ("decoder", "lm", "diar")])
def test_optional_models_may_be_missing_in_the_catalogue(
    removed: tuple[str, ...], connection: Connection, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.ready |= set(models(catalogue(), "enhanced"))
    families = {name: family for name, family in catalogue().items() if name not in removed}
    monkeypatch.setattr(triton_recogniser, "catalogue", lambda: families)
    recogniser = connect(connection, "en", "enhanced")
    assert recogniser.rescorers == tuple(family for family in ("decoder", "lm") if family not in removed)
    assert (recogniser.same_speaker_similarity is None) == ("diar" in removed)


def test_rejects_point_that_is_not_served_at_once(script: Script) -> None:
    """The repository index is closed to clients; a call to it would be repeated until the timeout."""
    with serving(script) as port:
        connection = Connection(f"127.0.0.1:{port}", retry_timeout_s=60.0)
        began = time.monotonic()
        with pytest.raises(ServerContractError) as caught:
            connect(connection, "en", "enhanced")
        assert time.monotonic() - began < 5.0
    assert caught.value.exit_code == 52
    assert str(caught.value) == (
        f"{connection.endpoint}: it does not serve ensemble_en_enhanced, only ensemble_en_standard. "
        "Use --operating-point standard, or serve the models of enhanced too."
    )


def test_rejects_server_without_ensembles(connection: Connection, script: Script) -> None:
    script.ready = {"other"}
    assert error_of(connection) == (
        "SERVER: it does not serve ensemble_en_enhanced or ensemble_en_standard, and no other ensemble of this "
        f"client's catalogue. {REMEDY}"
    )


def test_one_broken_model_does_not_affect_the_others(connection: Connection, script: Script) -> None:
    script.loading = True
    assert connect(connection, "en", None).operating_point == "standard"


def test_rejects_unknown_language(connection: Connection) -> None:
    with pytest.raises(SettingError) as caught:
        connect(connection, "tlh", None)
    assert str(caught.value) == "--language: 'tlh' is not a language of the catalogue. Use en."


def test_rejects_too_many_tokens(recogniser: TritonRecogniser) -> None:
    encoded = recogniser.recognise(features(345))
    with pytest.raises(RequestError, match="decoder takes at most 256 hypothesis_tokens, not 300"):
        recogniser.score("decoder", encoded, np.ones((2, 300), np.int32), np.array([300, 1], np.int32))
