"""Recognise with a server in this process: what the client checks, sends, and rejects."""

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from contract.catalogue import Catalogue, read_catalogue
from contract.errors import ServerContractError, SettingError, VoxwrightError
from tests.unit.transcriber.fakes import AUDIO, PIECES, SEARCH, TOKENS
from tests.unit.transcriber.models import LEVELS, VOCABULARY
from tests.unit.transcriber.server import EMBEDDING, ENCODER_SIZE, TOP, Script, serving
from transcriber import ngram, pipeline
from transcriber.audio import Samples
from transcriber.connection import Connection
from transcriber.ctc import Emissions
from transcriber.ngram import Ngram
from transcriber.recogniser import EncoderOutput, RequestError
from transcriber.segments import Segment
from transcriber.triton_recogniser import TritonRecogniser, connect, connect_streams

NGRAM = base64.b85encode(ngram.encode(LEVELS, VOCABULARY)).decode()
REMEDY = "Serve the models of this client's own release, or transcribe with the client of the server's release."
EXPORT = "Run `python -m export` and `python -m build.engines` again, and restart the server with the new engines."


def audio(frames: int) -> Samples:
    """Build audio of some windows of 25 ms every 10 ms."""
    return np.full(160 * frames + 240, 0.1, dtype=np.float32)


def shapes(request: object) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.shape) for tensor in request.inputs}  # type: ignore[attr-defined]


WINDOWS = [(10_000 * place, 10_000 * place + 31_920) for place in range(39)]


def catalogue_with_windows() -> Catalogue:
    """Return a catalogue whose speaker network takes windows."""
    family = read_catalogue().families["diar"]
    (output,) = family.outputs
    diar = replace(family, frames=None, outputs=(replace(output, shape=("embedding_size",)),))
    return replace(read_catalogue(), families={**read_catalogue().families, "diar": diar})


def with_windows(connection: Connection, script: Script, **changes: str) -> TritonRecogniser:
    """Connect to a server whose speaker network takes windows."""
    script.catalogue = catalogue_with_windows()
    set_client(script, "diar_standard", speaker={"takes": "windows", **changes})
    return connect(connection, script.catalogue, "en", "standard")


def error_of(connection: Connection, point: str | None = None) -> str:
    with pytest.raises(VoxwrightError) as caught:
        connect(connection, read_catalogue(), "en", point)
    return str(caught.value).replace(connection.endpoint, "SERVER")


def test_reads_parameters_of_the_weights(recogniser: TritonRecogniser) -> None:
    assert recogniser.operating_point == "standard"
    assert (recogniser.audio, recogniser.tokens, recogniser.search) == (AUDIO, TOKENS, SEARCH)
    assert recogniser.rescorers == ("rescorer",)
    assert (recogniser.most_hypotheses, recogniser.longest_hypothesis) == (16, 256)
    # What the decoder takes: 498 encoder frames.
    assert recogniser.longest_samples == 1360 + 497 * 640
    assert recogniser.speaker is not None
    assert recogniser.speaker.same_speaker_similarity == 0.55


def test_prefers_enhanced(connection: Connection, script: Script) -> None:
    script.ready |= set(read_catalogue().models("enhanced"))
    assert connect(connection, read_catalogue(), "en", None).operating_point == "enhanced"
    assert connect(connection, read_catalogue(), "en", None).rescorers == ("rescorer", "lm")
    assert connect(connection, read_catalogue(), "en", "standard").operating_point == "standard"


def test_optional_models_may_be_missing(connection: Connection, script: Script) -> None:
    script.ready -= {"decoder_standard", "diar_standard"}
    recogniser = connect(connection, read_catalogue(), "en", "standard")
    assert recogniser.rescorers == ()
    assert recogniser.speaker is None


def test_recognises_in_buckets(recogniser: TritonRecogniser, script: Script) -> None:
    encoded = recogniser.recognise(audio(345))
    assert shapes(script.requests[-1]) == {"audio": [1, 64_000], "audio_lengths": [1, 1]}
    sent = np.frombuffer(script.requests[-1].raw_input_contents[0], np.float32)
    assert (sent[:55_440] == np.float32(0.1)).all()
    assert (sent[55_440:] == 0.0).all()
    assert encoded.encoder_length == 85
    assert encoded.emissions.tokens.shape == encoded.emissions.log_probs.shape == (85, 4)
    assert encoded.encoder_out is not None
    # Without the frames of the padding.
    assert encoded.encoder_out.shape == (85, ENCODER_SIZE)
    assert encoded.encoder_out.dtype == np.float16


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_rejects_log_probabilities_that_are_not_numbers(connection: Connection, script: Script, bad: float) -> None:
    recogniser = connect(connection, read_catalogue(), "en", "standard")
    script.fills["top_log_probs"] = bad
    with pytest.raises(RequestError, match=r"^ensemble_en_standard returned log-probabilities that are not numbers$"):
        recogniser.recognise(audio(345))


def test_impossible_tokens_leave_a_hypothesis(connection: Connection, script: Script) -> None:
    """Every frame has a token that is no text as the only possible one."""
    recogniser = connect(connection, read_catalogue(), "en", "standard")
    script.fills["top_log_probs"] = np.array([0.0, *[-np.inf] * 3])
    script.fills["top_tokens"] = np.array([*recogniser.tokens.unspoken[:1], recogniser.tokens.blank, 3, 4])
    encoded = recogniser.recognise(audio(345))
    assert np.isfinite(encoded.emissions.log_probs).all()
    for search in ("greedy", "beam"):
        result = pipeline.decode_segment(
            recogniser,
            pipeline.Plan(search=search, speakers=False),
            0,
            Segment(start=0, samples=audio(345)),
            encoded,
        )
        assert result.words == []


def test_finite_log_probabilities_stay_as_they_are(connection: Connection, script: Script) -> None:
    recogniser = connect(connection, read_catalogue(), "en", "standard")
    given = np.array([-1e-7, -0.1, -80.5, -65_504.0], dtype=np.float32)
    script.fills["top_log_probs"] = given
    assert (recogniser.recognise(audio(345)).emissions.log_probs == given).all()


def test_rejects_scores_that_are_not_numbers(recogniser: TritonRecogniser, script: Script) -> None:
    encoded = recogniser.recognise(audio(345))
    script.fills["scores"] = np.nan
    tokens = np.array([[3] * 20, [4] * 20], dtype=np.int32)
    with pytest.raises(RequestError, match=r"^decoder_standard returned scores that are not numbers$"):
        recogniser.score("rescorer", encoded, tokens, np.array([20, 3], dtype=np.int32))


def test_joins_requests_that_wait(connection: Connection, script: Script) -> None:
    recogniser = connect(connection, read_catalogue(), "en", "standard")
    assert recogniser.in_flight == 4 * 16
    script.delay_s = 0.3
    frames = (345, 345, 340, 330, 345, 345, 335, 345)
    with ThreadPoolExecutor(len(frames)) as pool:
        found = list(pool.map(lambda count: recogniser.recognise(audio(count)), frames))
    assert [each.encoder_length for each in found] == [AUDIO.frames(audio(count).size) for count in frames]
    # Two go as soon as they come, the rest when one of them has returned.
    sent = [shapes(request)["audio"] for request in script.requests]
    assert sum(items for items, _ in sent) == len(frames)
    assert len(sent) < len(frames)
    assert {samples for _, samples in sent} == {64_000}


@pytest.mark.parametrize("reason", ["batching", "padding", "most_items"])
def test_needs_few_segments_at_a_time_without_batches(connection: Connection, script: Script, reason: str) -> None:
    if reason == "batching":
        for model in script.ready:
            script.parameters.setdefault(model, {})["batching"] = "none"
    elif reason == "padding":
        set_client(script, "ensemble_en_standard", audio={"padding": "exact"})
    else:
        script.most_items = 1
    recogniser = connect(connection, read_catalogue(), "en", "standard")
    assert recogniser.in_flight == 8
    assert ("ensemble_en" in recogniser.joiners) == (reason == "padding")


def test_pads_nothing_for_a_server_without_batching(connection: Connection, script: Script) -> None:
    for model in script.ready:
        script.parameters.setdefault(model, {})["batching"] = "none"
    recogniser = connect(connection, read_catalogue(), "en", "standard")
    encoded = recogniser.recognise(audio(345))
    assert shapes(script.requests[-1])["audio"] == [1, 55_440]
    recogniser.recognise(audio(30))
    assert shapes(script.requests[-1])["audio"] == [1, 32_000]
    tokens = np.array([[3] * 20, [4] * 20, [5] * 20], dtype=np.int32)
    recogniser.score("rescorer", encoded, tokens, np.array([20, 3, 1], dtype=np.int32))
    assert shapes(script.requests[-1])["hypotheses"] == [1, 3, 20]
    assert shapes(script.requests[-1])["encoder_out"] == [1, 85, ENCODER_SIZE]
    assert recogniser.embed(audio(345), [(0, 32_000), (12_000, 44_000), (24_000, 55_440)]).shape == (3, EMBEDDING)
    assert shapes(script.requests[-1])["audio"] == [1, 55_440]


def test_longest_segment_has_a_bucket(recogniser: TritonRecogniser, script: Script) -> None:
    recogniser.recognise(np.zeros(256_000, dtype=np.float32))
    assert shapes(script.requests[-1])["audio"] == [1, 256_000]


def test_scores_hypotheses(recogniser: TritonRecogniser, script: Script) -> None:
    encoded = recogniser.recognise(audio(345))
    tokens = np.array([[3] * 20, [4] * 20, [5] * 20], dtype=np.int32)
    scores = recogniser.score("rescorer", encoded, tokens, np.array([20, 3, 1], dtype=np.int32))
    assert scores.tolist() == [0.0, 1.0, 2.0]
    assert shapes(script.requests[-1]) == {
        "encoder_out": [1, 98, ENCODER_SIZE],
        "encoder_lengths": [1, 1],
        "hypotheses": [1, 4, 32],
        "hypothesis_lengths": [1, 4],
    }


def test_embeds_the_windows_of_a_segment(recogniser: TritonRecogniser, script: Script) -> None:
    """The bucket has a window more than the segment."""
    assert recogniser.embed(audio(345), [(0, 32_000), (12_000, 44_000), (24_000, 55_440)]).shape == (3, EMBEDDING)
    assert shapes(script.requests[-1]) == {"audio": [1, 64_000], "audio_lengths": [1, 1]}
    assert recogniser.embed(audio(30), [(0, 5_040)]).shape == (1, EMBEDDING)
    assert shapes(script.requests[-1]) == {"audio": [1, 8_000], "audio_lengths": [1, 1]}


def test_embeds_windows_in_batches(connection: Connection, script: Script) -> None:
    recogniser = with_windows(connection, script)
    embeddings = recogniser.embed(audio(3_000), [*WINDOWS, (400_000, 419_440)])
    assert embeddings.shape == (40, EMBEDDING)
    assert [shapes(request)["audio"] for request in script.requests] == [[16, 32_000], [16, 32_000], [8, 32_000]]


def test_sends_streams_window_by_window(connection: Connection, script: Script) -> None:
    script.realtime = True
    streams = connect_streams(connection, read_catalogue(), "en", None)
    assert (streams.window_samples, streams.overlap_samples) == (5840, 720)
    for number, frames in enumerate((35, 35, 12)):
        encoded = streams.step(77, audio(frames), start=number == 0, end=number == 2)
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
    assert shapes(script.requests[-1]) == {"audio": [1, 5840], "audio_lengths": [1, 1]}


def test_pads_encoder_output_of_a_stream_for_the_rescorers(connection: Connection, script: Script) -> None:
    script.realtime = True
    streams = connect_streams(connection, read_catalogue(), "en", None)
    encoded = EncoderOutput(
        emissions=Emissions(log_probs=np.zeros((20, TOP), np.float32), tokens=np.zeros((20, TOP), np.int32)),
        encoder_out=np.ones((20, ENCODER_SIZE), np.float16),
        encoder_length=20,
    )
    tokens = np.array([[3] * 4, [4] * 4], dtype=np.int32)
    assert len(streams.score("rescorer", encoded, tokens, np.array([4, 3], dtype=np.int32))) == 2
    assert shapes(script.requests[-1])["encoder_out"] == [1, 48, ENCODER_SIZE]


def test_sends_the_middle_of_a_stream_once(connection: Connection, script: Script) -> None:
    """Without an answer, the server may have processed a window or not; only the first window can be repeated."""
    script.realtime = True
    streams = connect_streams(connection, read_catalogue(), "en", None)
    script.failures = [grpc.StatusCode.UNAVAILABLE]
    streams.step(5, audio(35), start=True, end=False)
    assert len(script.requests) == 2
    script.failures = [grpc.StatusCode.UNAVAILABLE]
    with pytest.raises(RequestError, match="scripted UNAVAILABLE"):
        streams.step(5, audio(35), start=False, end=False)
    assert len(script.requests) == 3


def test_cancels_a_stream_without_waiting(connection: Connection, script: Script) -> None:
    script.realtime = True
    streams = connect_streams(connection, read_catalogue(), "en", None)
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
        connect_streams(connection, read_catalogue(), "en", None)
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
    assert error_of(connection) == (
        "ensemble_en_standard at SERVER: it has no output encoder_lengths, "
        f"only encoder_out, top_log_probs, top_tokens. {REMEDY}"
    )


def test_rejects_unknown_input(connection: Connection, script: Script) -> None:
    script.extra_inputs = ("prompt",)
    assert error_of(connection) == (
        f"ensemble_en_standard at SERVER: it needs an input prompt, which this client lacks. {REMEDY}"
    )


def set_client(script: Script, model: str, **sections: Any) -> None:
    """Replace sections of a model's parameter `client`."""
    table = json.loads(script.parameters[model]["client"])
    for name, values in sections.items():
        table[name] = values if values is None else {**table[name], **values}
    script.parameters[model]["client"] = json.dumps(table)


def test_rejects_server_of_an_older_release(connection: Connection, script: Script) -> None:
    script.parameters["ensemble_en_standard"] = {"tokens": json.dumps(PIECES)}
    assert error_of(connection) == (
        "ensemble_en_standard: its configuration has no parameter `client`: it was exported by an older release. "
        f"{EXPORT}"
    )


def test_rejects_server_that_takes_audio(connection: Connection, script: Script) -> None:
    """A server of the releases before audio took log-mel features."""
    script.types |= {"audio": "absent", "audio_lengths": "absent"}
    script.extra_inputs = ("features", "feature_lengths")
    assert error_of(connection) == (
        "ensemble_en_standard at SERVER: it has no input audio, only feature_lengths, features. " + REMEDY
    )


@pytest.mark.parametrize("section", ["audio", "tokens"])
def test_rejects_missing_section(connection: Connection, script: Script, section: str) -> None:
    set_client(script, "ensemble_en_standard", **{section: None})
    assert error_of(connection) == (
        f"ensemble_en_standard: its parameter `client` has no section `{section}`. {EXPORT}"
    )


def test_reads_ngram_model(connection: Connection, script: Script) -> None:
    assert connect(connection, read_catalogue(), "en", "standard").ngram is None
    set_client(script, "ensemble_en_standard", search={"ngram": NGRAM}, tokens={"pieces": PIECES[:-1]})
    found = connect(connection, read_catalogue(), "en", "standard").ngram
    assert found is not None
    assert found.log_prob((4, 5)) == Ngram(LEVELS, VOCABULARY, 2).log_prob((4, 5))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("~~", "base85 overflow in hunk starting at byte 0"),
        (NGRAM[:20], "buffer is smaller than requested size"),
        (NGRAM, "token 6, '\u2581yes', is not in the n-gram model"),
    ],
)
def test_rejects_damaged_ngram_model(connection: Connection, script: Script, text: str, cause: str) -> None:
    set_client(script, "ensemble_en_standard", search={"ngram": text})
    assert error_of(connection) == (
        f"ensemble_en_standard: its parameter `client` holds no n-gram model of its tokens ({cause}). {REMEDY}"
    )


def test_rejects_missing_similarity(connection: Connection, script: Script) -> None:
    set_client(script, "diar_standard", speaker={"same_speaker_similarity": "high"})
    assert error_of(connection) == (
        f"diar_standard: speaker.same_speaker_similarity: expected a number, found a string. {REMEDY}"
    )


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"token_bonus": "2"}, "search.token_bonus: expected a number, found a string"),
        ({"ngram_weight": -1}, "search.ngram_weight: -1.0 is below 0"),
        ({"rescorers": 1}, "search.rescorers: expected a table, found an integer"),
        ({"rescorers": {"lm": True}}, "search.rescorers.lm: expected a number, found a boolean"),
        ({"weights": 1}, "search.weights: this field is unknown"),
    ],
)
def test_rejects_damaged_search_weights(
    connection: Connection, script: Script, values: dict[str, Any], cause: str
) -> None:
    set_client(script, "ensemble_en_standard", search=values)
    assert error_of(connection) == f"ensemble_en_standard: {cause}. {REMEDY}"


def test_rejects_rescorer_without_weight(connection: Connection, script: Script) -> None:
    set_client(script, "ensemble_en_standard", search={"rescorers_with_ngram": {"lm": 0.6}})
    assert error_of(connection) == (
        "ensemble_en_standard: its parameter `client` has no weight for the rescorer, which the server has. " + EXPORT
    )


@pytest.mark.parametrize("removed", [("lm",), ("decoder", "lm"), ("decoder", "lm", "diar")])
def test_optional_models_may_be_missing_in_the_catalogue(
    removed: tuple[str, ...], connection: Connection, script: Script
) -> None:
    script.ready |= set(read_catalogue().models("enhanced"))
    families = {name: family for name, family in read_catalogue().families.items() if name not in removed}
    recogniser = connect(connection, replace(read_catalogue(), families=families), "en", "enhanced")
    wanted = {"rescorer": "decoder", "lm": "lm"}
    assert recogniser.rescorers == tuple(role for role, family in wanted.items() if family not in removed)
    assert (recogniser.speaker is None) == ("diar" in removed)


def test_embeds_equal_lengths_together_with_exact_padding(connection: Connection, script: Script) -> None:
    recogniser = with_windows(connection, script, padding="exact")
    recogniser.embed(audio(3_000), [*WINDOWS[:2], (400_000, 419_440)])
    sizes = [shapes(request)["audio"] for request in script.requests]
    assert sizes == [[2, 31_920], [1, 19_440]]


@pytest.mark.parametrize("has_windows", [True, False])
def test_rejects_windows_that_the_output_has_not(has_windows: bool, connection: Connection, script: Script) -> None:
    if has_windows:
        script.catalogue = catalogue_with_windows()
    set_client(script, "diar_standard", speaker={"takes": "segments" if has_windows else "windows"})
    with pytest.raises(VoxwrightError) as caught:
        connect(connection, script.catalogue, "en", "standard")
    takes, axes = ("segments", "1 axis") if has_windows else ("windows", "2 axes")
    assert str(caught.value) == (
        f"diar_standard: its parameter `client` has speaker.takes {takes!r}, which does not fit an output `embedding` "
        f"with {axes}. {EXPORT}"
    )


def test_longest_segment_is_one_that_the_speaker_network_takes(connection: Connection, script: Script) -> None:
    family = read_catalogue().families["diar"]
    mode = family.modes["batch"]
    short = replace(mode, axes={**mode.axes, "samples": replace(mode.axes["samples"], max=100_000, buckets=())})
    diar = replace(family, modes={**family.modes, "batch": short})
    script.catalogue = replace(read_catalogue(), families={**read_catalogue().families, "diar": diar})
    assert connect(connection, script.catalogue, "en", "standard").longest_samples == 100_000


def test_rejects_point_that_is_not_served_at_once(script: Script) -> None:
    """The repository index is closed to clients; a call to it would be repeated until the timeout."""
    with serving(script) as port:
        connection = Connection(f"127.0.0.1:{port}", retry_timeout_s=60.0)
        began = time.monotonic()
        with pytest.raises(ServerContractError) as caught:
            connect(connection, read_catalogue(), "en", "enhanced")
        assert time.monotonic() - began < 5.0
    assert caught.value.exit_code == 52
    assert str(caught.value) == (
        f"{connection.endpoint}: it does not serve ensemble_en_enhanced, only ensemble_en_standard. "
        "Use --operating-point standard, or serve the models of enhanced too."
    )


def test_rejects_server_without_ensembles(connection: Connection, script: Script) -> None:
    script.ready = {"other"}
    assert error_of(connection) == (
        "SERVER: it does not serve ensemble_en_enhanced or ensemble_en_standard, and no other recogniser of "
        f"this client's catalogue. {REMEDY}"
    )


def test_one_broken_model_does_not_affect_the_others(connection: Connection, script: Script) -> None:
    script.loading = True
    assert connect(connection, read_catalogue(), "en", None).operating_point == "standard"


def test_rejects_unknown_language(connection: Connection) -> None:
    with pytest.raises(SettingError) as caught:
        connect(connection, read_catalogue(), "tlh", None)
    assert str(caught.value) == "--language: 'tlh' is not a language of the catalogue. Use en."


def test_rejects_too_many_tokens(recogniser: TritonRecogniser) -> None:
    encoded = recogniser.recognise(audio(345))
    with pytest.raises(RequestError, match="decoder takes at most 256 hypothesis_tokens, not 300"):
        recogniser.score("rescorer", encoded, np.ones((2, 300), np.int32), np.array([300, 1], np.int32))
