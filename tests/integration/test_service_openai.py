"""OpenAI's endpoint, with OpenAI's own client, unchanged, against the real service and server."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import openai
import pytest
import soundfile
from openai.types.audio import TranscriptionTextDoneEvent
from prometheus_client.parser import text_string_to_metric_families

from demo.scores import word_errors
from tests.integration import services, serving
from tests.integration.services import Service
from tests.integration.serving import ROOT, Running

pytestmark = pytest.mark.integration
DIALOGUE = ROOT / "demo" / "dialogue.flac"
REFERENCE = json.loads((ROOT / "demo" / "dialogue.json").read_text())["text"]
MOST_WRONG = 0.1
LIMIT_MB = 2


@pytest.fixture(scope="module")
def service(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    options = ("--endpoint", f"127.0.0.1:{server.grpc}", "--largest-upload", str(LIMIT_MB), "--idle-upload", "1")
    with services.started(tmp_path_factory.mktemp("service"), *options) as running:
        yield running


@pytest.fixture
def client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)


def transcribe(client: openai.OpenAI, **fields: Any) -> Any:
    """Transcribe the dialogue, or another file."""
    with DIALOGUE.open("rb") as file:
        return client.audio.transcriptions.create(**{"file": file, "model": "standard", **fields})


def assert_right(text: str) -> None:
    assert word_errors(REFERENCE, text.lower()) <= MOST_WRONG * len(REFERENCE.split())


def test_lists_the_operating_points(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["enhanced", "standard"]
    assert client.models.retrieve("standard").owned_by == "voxwright"
    with pytest.raises(openai.NotFoundError, match="the model 'large' does not exist"):
        client.models.retrieve("large")


@pytest.mark.parametrize("model", ["standard", "enhanced", "whisper-1", "gpt-4o-transcribe"])
def test_transcribes_with_every_model(client: openai.OpenAI, model: str) -> None:
    found = transcribe(client, model=model, language="en-US", temperature=0.0, prompt="hello")
    assert_right(found.text)
    assert found.usage.seconds == 70


def test_text(client: openai.OpenAI) -> None:
    text = transcribe(client, response_format="text")
    assert text.endswith("\n")
    assert_right(text)


@pytest.mark.parametrize(("form", "start"), [("srt", "1\n00:00:00,"), ("vtt", "WEBVTT\n\n00:00:00.")])
def test_subtitles(client: openai.OpenAI, form: str, start: str) -> None:
    text = transcribe(client, response_format=form)
    assert text.startswith(start)
    assert text.count(" --> ") > 10


@pytest.mark.parametrize("granularities", [None, ["word"], ["segment"], ["word", "segment"]])
def test_verbose_json(client: openai.OpenAI, granularities: list[str] | None) -> None:
    chosen = {} if granularities is None else {"timestamp_granularities": granularities}
    found = transcribe(client, response_format="verbose_json", **chosen)
    assert (found.task, found.language, round(found.duration, 1)) == ("transcribe", "en", 69.0)
    wanted = granularities or ["segment"]
    assert (found.words is not None, found.segments is not None) == ("word" in wanted, "segment" in wanted)
    for one in (found.words or []) + (found.segments or []):
        assert 0 <= one.start <= one.end <= found.duration
    if found.words is not None:
        assert " ".join(word.word for word in found.words) == found.text
    if found.segments is not None:
        assert " ".join(segment.text for segment in found.segments) == found.text
        numbers = {"seek": int, "temperature": float, "avg_logprob": float, "no_speech_prob": float}
        assert all(isinstance(getattr(found.segments[0], name), kind) for name, kind in numbers.items())


def test_diarized_json_has_the_speakers(client: openai.OpenAI) -> None:
    found = transcribe(client, response_format="diarized_json")
    assert {segment.speaker for segment in found.segments} == {"S1", "S2"}
    assert " ".join(segment.text for segment in found.segments) == found.text


@pytest.mark.parametrize("form", ["json", "diarized_json"])
def test_stream_joins_to_the_text(client: openai.OpenAI, form: str) -> None:
    events = list(transcribe(client, stream=True, response_format=form))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) > 5
    assert events[-1].type == "transcript.text.done"
    # A strict client reads what OpenAI's own classes state.
    TranscriptionTextDoneEvent.model_validate(events[-1].model_dump(exclude_unset=True), strict=True)
    assert events[-1].text == "".join(deltas)
    assert_right(events[-1].text)
    speakers = {event.speaker for event in events if event.type == "transcript.text.segment"}
    assert speakers == ({"S1", "S2"} if form == "diarized_json" else set())


def test_keywords_are_written_as_given(client: openai.OpenAI) -> None:
    found = transcribe(client, extra_body={"keywords": ["Sarah", "Thursday", "naïve 123"]})
    assert "hello Sarah good" in found.text
    assert "Thursday" in found.text


def test_fields_without_effect_are_not_kept(client: openai.OpenAI) -> None:
    """Such as the recordings of known speakers, of more than a megabyte each."""
    speakers = {
        "known_speaker_names": ["agent"],
        "known_speaker_references": ["data:audio/wav;base64," + "A" * 1_100_000],
    }
    assert_right(transcribe(client, response_format="diarized_json", extra_body=speakers).text)


def test_many_large_fields_are_refused(service: Service) -> None:
    fields = [("keywords[]", (None, "a" * 2**19))] * 5
    parts: Any = [("file", b"x"), ("model", (None, "standard")), *fields]
    answer = httpx.post(f"{service.url}/v1/audio/transcriptions", files=parts, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "the form is damaged: its plain fields have more than 2 MiB"


def test_takes_parts_in_any_order_and_other_names(service: Service) -> None:
    """As curl and other programs send them: the file first, as bytes without a type."""
    parts: dict[str, Any] = {
        "file": ("upload", DIALOGUE.read_bytes(), "application/octet-stream"),
        "model": (None, "standard"),
        "response_format": (None, "verbose_json"),
        "timestamp_granularities": (None, "word"),
    }
    answer = httpx.post(f"{service.url}/v1/audio/transcriptions", files=parts, timeout=60)
    assert answer.status_code == 200
    assert_right(answer.json()["text"])
    assert "words" in answer.json()


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        (
            {"model": "large"},
            openai.NotFoundError,
            "the model 'large' does not exist; the models are standard, enhanced",
        ),
        ({"language": "xx"}, openai.BadRequestError, "the language 'xx' is not served; the languages are en"),
        ({"response_format": "xml"}, openai.BadRequestError, "response_format 'xml' is not known"),
        ({"timestamp_granularities": ["page"]}, openai.BadRequestError, "timestamp_granularities 'page' is not known"),
        ({"extra_body": {"stream": "maybe"}}, openai.BadRequestError, "stream is 'maybe'; it is true or false"),
        ({"file": b""}, openai.BadRequestError, "it is empty (zero bytes)"),
        ({"file": b"no audio"}, openai.BadRequestError, "it cannot be decoded as a recording"),
        (
            {"file": bytes(LIMIT_MB * 10**6 + 2**20 + 1)},
            openai.APIStatusError,
            "more than 2 MB, the limit of this service",
        ),
    ],
)
def test_refuses_with_a_sentence(
    client: openai.OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], sentence: str
) -> None:
    with pytest.raises(error) as raised:
        transcribe(client, **fields)
    assert sentence in raised.value.message
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["type"] == "invalid_request_error"
    assert_right(transcribe(client).text)


def test_error_within_a_stream(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="it cannot be decoded as a recording"):
        list(transcribe(client, file=b"no audio", stream=True))


def test_missing_parts(service: Service) -> None:
    url = f"{service.url}/v1/audio/transcriptions"
    for files, field in (({"model": (None, "standard")}, "file"), ({"file": b"x"}, "model")):
        answer = httpx.post(url, files=files)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    parts: Any = {"model": (None, "standard"), "file": (None, "x")}
    assert "`file` was sent as a plain field" in httpx.post(url, files=parts).json()["error"]["message"]
    plain = httpx.post(url, json={"model": "standard"})
    assert (plain.status_code, plain.json()["error"]["message"]) == (
        415, "the content type is application/json; send multipart/form-data",
    )  # fmt: skip
    unknown = httpx.post(f"{service.url}/v1/audio/translations")
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "invalid_request_error")


def test_damaged_recording_is_answered_with_a_warning(client: openai.OpenAI, tmp_path: Path) -> None:
    damaged = tmp_path / "cut.flac"
    damaged.write_bytes(DIALOGUE.read_bytes()[:200_000])
    found = transcribe(client, file=damaged)
    assert found.text.startswith("hello")
    assert "is not in the transcript" in found.model_extra["warnings"][0]


def test_stalled_upload_is_answered(service: Service) -> None:
    head = (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 408")
    assert "x-should-retry: false" in answer


def test_work_ends_when_the_client_goes_away(service: Service, client: openai.OpenAI, tmp_path: Path) -> None:
    """A transcription of seconds is given up: it ends, counts as no audio, and its place is free again."""
    long = many_dialogues(tmp_path / "long.ogg")
    audio_s = counted(service, "voxwright_audio_seconds_total", kind="request")
    gone = counted(service, "voxwright_requests_total", status="499")
    with long.open("rb") as file, pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).audio.transcriptions.create(file=file, model="standard")
    end = time.monotonic() + 60
    while counted(service, "voxwright_requests_total", status="499") == gone:
        assert time.monotonic() < end, "the transcription goes on although its client went away"
        time.sleep(0.05)
    assert counted(service, "voxwright_audio_seconds_total", kind="request") == audio_s
    assert_right(transcribe(client).text)


def test_place_in_the_queue_is_free_when_a_client_leaves(server: Running, tmp_path: Path) -> None:
    """One recording is transcribed and sixteen may wait: all of these leave, and the next one finds a place."""
    long = many_dialogues(tmp_path / "long.ogg")
    with services.started(tmp_path, f"--endpoint=127.0.0.1:{server.grpc}", "--parallel=1") as service:
        client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)

        def leave(stream: bool) -> None:
            with long.open("rb") as file, contextlib.suppress(openai.APITimeoutError):
                list(
                    client.with_options(timeout=1.5).audio.transcriptions.create(
                        file=file, model="standard", stream=stream
                    )
                )

        with ThreadPoolExecutor(17) as pool:
            list(pool.map(leave, [False] * 9 + [True] * 8))
        end = time.monotonic() + 60
        while True:
            try:
                assert_right(transcribe(client).text)
                return
            except openai.RateLimitError:
                assert time.monotonic() < end, "those that left still wait"
                time.sleep(0.2)


def test_absent_server_is_no_absent_model(tmp_path: Path) -> None:
    service = services.start(tmp_path, "--endpoint=127.0.0.1:9")
    try:
        services.wait_ready(service, "/live")
        client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)
        for call in (client.models.list, lambda: client.models.retrieve("enhanced"), lambda: transcribe(client)):
            with pytest.raises(openai.InternalServerError) as raised:
                call()
            assert raised.value.status_code == 503
    finally:
        service.kill()


def test_point_that_is_not_served_is_no_model(reference_engines: Path, tmp_path: Path) -> None:
    with serving.started(reference_engines, tmp_path, ("--operating-point=standard",)) as running:
        serving.wait_ready(running)
        with services.started(tmp_path / "service", f"--endpoint=127.0.0.1:{running.grpc}") as service:
            client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)
            for model in ("enhanced", "large"):
                with pytest.raises(openai.NotFoundError, match=f"{model}' does not exist; the models are standard"):
                    transcribe(client, model=model)
            assert_right(transcribe(client, model="whisper-1").text)


def many_dialogues(path: Path) -> Path:
    """Write a small file of fourteen minutes of speech, which no machine of today transcribes in half a second."""
    samples, rate_hz = soundfile.read(DIALOGUE, dtype="float32")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libopus", rate=rate_hz, layout="mono", options={"b": "16k"})
        frame = av.AudioFrame.from_ndarray(np.tile(samples, 12)[np.newaxis], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate_hz, frame_size=320)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(part))
    assert path.stat().st_size < LIMIT_MB * 1_000_000
    return path


def counted(service: Service, name: str, **labels: str) -> float:
    """Return the sum of a metric over all series with some labels."""
    with service.client() as http:
        families = text_string_to_metric_families(http.get("/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def test_many_at_a_time_do_not_mix(client: openai.OpenAI, tmp_path: Path) -> None:
    expected = transcribe(client).text
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda _: transcribe(client).text, range(16)))
    assert texts == [expected] * 16
