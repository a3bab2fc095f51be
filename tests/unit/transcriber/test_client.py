"""The client against a server that speaks Triton's gRPC: what it checks, sends, and how long it waits."""

import base64
import json
import threading
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from contract.catalogue import catalogue, models
from contract.errors import ServerContractError, ServerUnreachableError, SettingError, VoxwrightError
from tests.unit.transcriber.fakes import PIECES
from tests.unit.transcriber.models import LEVELS, VOCABULARY
from tests.unit.transcriber.server import EMBEDDING, ENCODER_SIZE, TOP, Script, serving
from transcriber import ngram
from transcriber.client import Connection, TritonRecogniser, connect, connect_streams
from transcriber.ctc import Emissions
from transcriber.ngram import Ngram
from transcriber.recogniser import Features, Heard, RequestError

NGRAM = base64.b85encode(ngram.encode(LEVELS, VOCABULARY)).decode()
REMEDY = "Serve the models of this client's own release, or transcribe with the client of the server's release."


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def connection(script: Script) -> Iterator[Connection]:
    with serving(script) as port:
        yield Connection(f"127.0.0.1:{port}", patience_s=2.0)


@pytest.fixture
def recogniser(connection: Connection) -> TritonRecogniser:
    return connect(connection, "en", None)


def features(frames: int) -> Features:
    return np.full((frames, 80), 10.0, dtype=np.float16)


def shapes(request: object) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.shape) for tensor in request.inputs}  # type: ignore[attr-defined]


def refusal(connection: Connection, point: str | None = None) -> str:
    with pytest.raises(VoxwrightError) as caught:
        connect(connection, "en", point)
    return str(caught.value).replace(connection.endpoint, "SERVER")


def test_reads_what_depends_on_the_weights(recogniser: TritonRecogniser) -> None:
    assert recogniser.operating_point == "standard"
    assert recogniser.pieces == PIECES
    assert recogniser.rescorers == ("decoder",)
    assert recogniser.same_speaker_similarity == 0.55


def test_prefers_enhanced(connection: Connection, script: Script) -> None:
    script.ready |= set(models(catalogue(), "enhanced"))
    assert connect(connection, "en", None).operating_point == "enhanced"
    assert connect(connection, "en", None).rescorers == ("decoder", "lm")
    assert connect(connection, "en", "standard").operating_point == "standard"


def test_does_without_optional_models(connection: Connection, script: Script) -> None:
    script.ready -= {"decoder_standard", "diar_standard"}
    recogniser = connect(connection, "en", "standard")
    assert recogniser.rescorers == ()
    assert recogniser.same_speaker_similarity is None


def test_recognises_in_buckets(recogniser: TritonRecogniser, script: Script) -> None:
    heard = recogniser.recognise(features(345))
    assert shapes(script.requests[-1]) == {"features": [1, 400, 80], "feature_lengths": [1, 1]}
    sent = np.frombuffer(script.requests[-1].raw_input_contents[0], np.float16).reshape(400, 80)
    assert (sent[:345] == 10.0).all()
    assert (sent[345:] == 0.0).all()
    assert heard.encoder_length == 85
    assert heard.emissions.tokens.shape == heard.emissions.log_probs.shape == (85, 4)
    assert heard.encoder_out.shape == (99, ENCODER_SIZE)
    assert heard.encoder_out.dtype == np.float16


def test_a_segment_of_the_greatest_length_has_a_bucket(recogniser: TritonRecogniser, script: Script) -> None:
    recogniser.recognise(features(1598))
    assert shapes(script.requests[-1])["features"] == [1, 1600, 80]


def test_scores_hypotheses(recogniser: TritonRecogniser, script: Script) -> None:
    heard = recogniser.recognise(features(345))
    tokens = np.array([[3] * 20, [4] * 20, [5] * 20], dtype=np.int32)
    scores = recogniser.score("decoder", heard, tokens, np.array([20, 3, 1], dtype=np.int32))
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


def test_streams_are_sent_window_by_window(connection: Connection, script: Script) -> None:
    script.realtime = True
    streams = connect_streams(connection, "en", None)
    assert (streams.window_frames, streams.overlap_frames) == (35, 3)
    for number, frames in enumerate((35, 35, 12)):
        heard = streams.step(77, features(frames), start=number == 0, end=number == 2)
        assert heard.encoder_length == (8 if frames == 35 else 2)
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


def test_what_a_stream_was_heard_as_is_padded_for_the_rescorers(connection: Connection, script: Script) -> None:
    script.realtime = True
    streams = connect_streams(connection, "en", None)
    heard = Heard(
        emissions=Emissions(log_probs=np.zeros((20, TOP), np.float32), tokens=np.zeros((20, TOP), np.int32)),
        encoder_out=np.ones((20, ENCODER_SIZE), np.float16),
        encoder_length=20,
    )
    tokens = np.array([[3] * 4, [4] * 4], dtype=np.int32)
    assert len(streams.score("decoder", heard, tokens, np.array([4, 3], dtype=np.int32))) == 2
    assert shapes(script.requests[-1])["encoder_out"] == [1, 49, ENCODER_SIZE]


def test_the_middle_of_a_stream_is_asked_once(connection: Connection, script: Script) -> None:
    """Nobody knows whether a server that fell silent has heard a window; the first one starts the stream anyway."""
    script.realtime = True
    streams = connect_streams(connection, "en", None)
    script.failures = [grpc.StatusCode.UNAVAILABLE]
    streams.step(5, features(35), start=True, end=False)
    assert len(script.requests) == 2
    script.failures = [grpc.StatusCode.UNAVAILABLE]
    with pytest.raises(RequestError, match="scripted UNAVAILABLE"):
        streams.step(5, features(35), start=False, end=False)
    assert len(script.requests) == 3


def test_a_stream_is_given_up_without_waiting(connection: Connection, script: Script) -> None:
    script.realtime = True
    streams = connect_streams(connection, "en", None)
    script.failures = [grpc.StatusCode.UNAVAILABLE] * 9
    began = time.monotonic()
    streams.give_up(7)
    assert len(script.requests) == 1
    assert time.monotonic() - began < 1.5
    parameters = script.requests[0].parameters
    assert parameters["sequence_start"].bool_param
    assert parameters["sequence_end"].bool_param


def test_a_server_in_the_other_mode_is_refused(connection: Connection, script: Script) -> None:
    with pytest.raises(ServerContractError) as refused:
        connect_streams(connection, "en", None)
    assert str(refused.value) == (
        f"{connection.endpoint}: it is served for recordings and not in real time. "
        "Leave --realtime out, or start the server with SM_BATCH_MODE=false."
    )
    script.realtime = True
    assert refusal(connection) == (
        "SERVER: it is served in real time, for streams and not for recordings. "
        "Use --realtime, or start the server with SM_BATCH_MODE=true."
    )


def test_serves_several_threads(recogniser: TritonRecogniser) -> None:
    lengths: list[int] = []
    threads = [
        threading.Thread(target=lambda: lengths.append(recogniser.recognise(features(345)).encoder_length))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [85] * 8


def test_another_type_is_named(connection: Connection, script: Script) -> None:
    script.types["top_tokens"] = "INT64"
    assert refusal(connection) == (
        "ensemble_en_standard at SERVER: its output top_tokens is INT64 [-1, -1, 4], and this client speaks "
        f"INT32 [-1, -1, -1]. {REMEDY}"
    )


def test_an_absent_tensor_is_named(connection: Connection, script: Script) -> None:
    script.types["encoder_lengths"] = "absent"
    assert refusal(connection) == f"ensemble_en_standard at SERVER: it has no output encoder_lengths. {REMEDY}"


def test_an_unknown_input_is_named(connection: Connection, script: Script) -> None:
    script.extra_inputs = ("prompt",)
    assert refusal(connection) == (
        f"ensemble_en_standard at SERVER: it wants an input prompt, which this client lacks. {REMEDY}"
    )


def test_a_missing_token_list_is_named(connection: Connection, script: Script) -> None:
    script.parameters["am_en_standard"] = {}
    assert refusal(connection) == (
        f"am_en_standard: its configuration has no parameter `tokens` with a JSON list. {REMEDY}"
    )


def test_an_ngram_model_comes_with_the_tokens(connection: Connection, script: Script) -> None:
    assert connect(connection, "en", "standard").ngram is None
    script.parameters["am_en_standard"] = {"tokens": json.dumps(PIECES[:-1]), "ngram": NGRAM}
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
def test_an_ngram_model_that_is_none_is_named(connection: Connection, script: Script, text: str, cause: str) -> None:
    script.parameters["am_en_standard"] = {"tokens": json.dumps(PIECES), "ngram": text}
    assert refusal(connection) == f"am_en_standard: {cause}. {REMEDY}"


def test_a_missing_threshold_is_named(connection: Connection, script: Script) -> None:
    script.parameters["diar_standard"] = {"same_speaker_similarity": "high"}
    assert refusal(connection) == (
        f"diar_standard: its configuration has no parameter `same_speaker_similarity` with a number. {REMEDY}"
    )


def test_models_that_are_not_served(connection: Connection, script: Script) -> None:
    script.ready = {"other"}
    assert refusal(connection, "enhanced") == f"SERVER: it serves no ensemble_en_enhanced, but other. {REMEDY}"


def test_a_server_that_never_finishes_loading(connection: Connection, script: Script) -> None:
    script.loading, script.ready = True, set()
    assert refusal(connection).startswith(
        "SERVER: no server is ready there after 2 s (it is up, but not all of its models are ready). Start one"
    )


def test_one_broken_model_does_not_stop_the_others(connection: Connection, script: Script) -> None:
    script.loading = True
    assert connect(connection, "en", None).operating_point == "standard"


def test_an_unknown_language(connection: Connection) -> None:
    with pytest.raises(SettingError) as caught:
        connect(connection, "tlh", None)
    assert str(caught.value) == "--language: 'tlh' is no language of the catalogue. Use en."


def test_waits_for_a_server_that_comes_up() -> None:
    with serving(Script()) as port:
        pass
    told: list[str] = []
    connection = Connection(f"127.0.0.1:{port}", patience_s=20.0, notify=told.append)
    found: list[TritonRecogniser] = []
    thread = threading.Thread(target=lambda: found.append(connect(connection, "en", None)))
    thread.start()
    time.sleep(0.4)
    with serving(Script(), port):
        thread.join(timeout=20)
    assert len(found) == 1
    assert told == [f"waiting for the server at 127.0.0.1:{port}, for at most 20 s"]


def test_asks_again_while_the_server_is_busy(recogniser: TritonRecogniser, script: Script) -> None:
    script.failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert recogniser.recognise(features(345)).encoder_length == 85
    assert len(script.requests) == 3


def test_an_absence_is_told_once(script: Script) -> None:
    told: list[str] = []
    with serving(script) as port:
        connection = Connection(f"127.0.0.1:{port}", patience_s=20.0, notify=told.append)
        recogniser = connect(connection, "en", None)
        script.failures = [grpc.StatusCode.UNAVAILABLE] * 6
        threads = [threading.Thread(target=recogniser.recognise, args=(features(345),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert told == [f"waiting for the server at {connection.endpoint}, for at most 20 s"]


def test_gives_up_after_the_patience(recogniser: TritonRecogniser, script: Script) -> None:
    script.failures = [grpc.StatusCode.UNAVAILABLE] * 100
    with pytest.raises(ServerUnreachableError, match=r"after 2 s \(scripted UNAVAILABLE\)"):
        recogniser.recognise(features(345))


def test_a_refusal_is_not_repeated(recogniser: TritonRecogniser, script: Script) -> None:
    script.failures = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(RequestError, match="scripted INVALID_ARGUMENT"):
        recogniser.recognise(features(345))
    assert len(script.requests) == 1


def test_closing_wakes_those_who_wait(script: Script) -> None:
    with serving(script) as port:
        connection = Connection(f"127.0.0.1:{port}", patience_s=3600.0)
        recogniser = connect(connection, "en", None)
        script.failures = [grpc.StatusCode.UNAVAILABLE] * 100
        threading.Timer(0.2, connection.close).start()
        # Without the waking this would go on for an hour.
        with pytest.raises(ServerUnreachableError):
            recogniser.recognise(features(345))


def test_too_many_tokens_are_refused_here(recogniser: TritonRecogniser) -> None:
    heard = recogniser.recognise(features(345))
    with pytest.raises(RequestError, match="decoder takes at most 256 hypothesis_tokens, not 300"):
        recogniser.score("decoder", heard, np.ones((2, 300), np.int32), np.array([300, 1], np.int32))


def test_another_contract_is_an_error_of_its_own() -> None:
    assert ServerContractError.exit_code == 52
    assert ServerUnreachableError.exit_code == 51
