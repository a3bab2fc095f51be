"""The protocol of real time, message by message, with a recogniser that needs no server."""

import base64
import contextlib
import dataclasses
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from contract.errors import ServerContractError, ServerUnreachableError
from service import app, core, realtime
from service import server as service_server
from service.core import Core
from service.realtime import session, sessions
from service.settings import RealtimeLimits
from tests.ports import free_ports
from tests.unit.service.make import KEY, catalogue_of, keys, settings
from tests.unit.transcriber.sounds import add_audio, burst, encode, silence
from tests.unit.transcriber.streams import FakeStreams
from transcriber import pipeline
from transcriber.audio import Samples
from transcriber.ctc import Floats
from transcriber.recogniser import Bounds, CancelledRequestError, RequestError

RAW = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16_000}
TALK = np.concatenate([silence(0.5), burst(2), silence(1), burst(2, level=0.1), silence(1)])
Message = dict[str, Any]


class Server:
    """A service whose streams are recognised by `recogniser`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
        self.recogniser = FakeStreams()
        self.core: Core = core.make(settings(folder, realtime_endpoint="127.0.0.1:9", **changed))
        self.problem: Exception | None = None
        self.requests: list[tuple[str, str | None]] = []
        monkeypatch.setattr(self.core.streams, "get", self._get)
        self.part = realtime.part(self.core)
        (self.port,) = free_ports(1)
        # The server that the service uses; the servers of models are not watched.
        config = uvicorn.Config(
            app.assemble(self.core, [self.part]), lifespan="off", log_config=None, ws_max_size=2**24
        )
        self._uvicorn = uvicorn.Server(config)
        listener = service_server._listening("127.0.0.1", self.port)
        self._thread = threading.Thread(target=self._uvicorn.run, args=([listener],), daemon=True)
        self._thread.start()
        wait_until(lambda: self._uvicorn.started)

    def stop(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _get(self, language: str, point: str | None) -> FakeStreams:
        self.requests.append((language, point))
        if self.problem is not None:
            raise self.problem
        return self.recogniser

    @contextlib.contextmanager
    def connected(self, path: str = "/v2", **headers: str) -> Iterator["Client"]:
        url = f"ws://127.0.0.1:{self.port}{path}"
        with connect(url, additional_headers=headers, max_size=2**20) as socket:
            yield Client(socket)


class Client:
    """A client that sends messages and collects what it gets."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def start(self, audio: Message | None = None, **config: Any) -> Message:
        """Start, and return RecognitionStarted."""
        self.send("StartRecognition", audio_format=audio or RAW, transcription_config={"language": "en"} | config)
        return self.until("RecognitionStarted")[-1]

    def send(self, name: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"message": name, **fields}))

    def speak(self, samples: Samples, size: int = 3200) -> int:
        """Send samples as pcm_s16le; return the number of frames."""
        data = (samples * 32_767).astype("<i2").tobytes()
        # The server may end the session meanwhile; its reason can still be read.
        with contextlib.suppress(ConnectionClosed):
            for start in range(0, len(data), size):
                self.socket.send(data[start : start + size])
        return -(-len(data) // size)

    def receive(self) -> Message:
        message: Message = json.loads(self.socket.recv(20))
        return message

    def until(self, *names: str) -> list[Message]:
        """Return everything up to the first message with one of these names."""
        found = [self.receive()]
        while found[-1]["message"] not in names:
            found.append(self.receive())
        return found

    def finish(self, last: int = 0) -> list[Message]:
        """End the stream and return the rest, with EndOfTranscript as the last one."""
        self.send("EndOfStream", last_seq_no=last)
        return self.until("EndOfTranscript", "Error")

    def error(self) -> tuple[str, str, int]:
        """Return type and reason of the error that ends the session, and the code of the close."""
        error = self.until("Error")[-1]
        return error["type"], error["reason"], self.close_code()

    def close_code(self) -> int:
        """Return the code with which the server closes."""
        with pytest.raises(ConnectionClosed) as closed:
            self.receive()
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code


Make = Callable[..., Server]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_PAUSE_S", 0.0)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    servers: list[Server] = []

    def made(**changed: Any) -> Server:
        servers.append(Server(tmp_path, monkeypatch, **changed))
        return servers[-1]

    yield made
    for server in servers:
        server.stop()


@pytest.fixture
def server(make: Make) -> Server:
    return make()


def named(messages: list[Message], name: str) -> list[Message]:
    return [message for message in messages if message["message"] == name]


def transcripts(messages: list[Message]) -> list[Message]:
    return [message for message in messages if "metadata" in message]


def text(messages: list[Message]) -> str:
    return "".join(message["metadata"]["transcript"] for message in named(messages, "AddTranscript"))


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/v2/en", "/v2/en?sm-sdk=x&jwt=y&other="])
def test_whole_session(server: Server, path: str) -> None:
    with server.connected(path) as client:
        started = client.start()
        count = client.speak(TALK)
        messages = client.finish(count)
    assert started["language_pack_info"]["word_delimiter"] == " "
    assert started["id"]
    assert text(messages) == "loud soft "
    assert [each["seq_no"] for each in named(messages, "AudioAdded")] == list(range(1, count + 1))
    assert messages[-1] == {"message": "EndOfTranscript"}
    for final in named(messages, "AddTranscript"):
        assert final["format"] == "2.9"
        assert all(result["type"] == "word" for result in final["results"])
        assert "channel" not in final
        for result in final["results"]:
            (best,) = result["alternatives"]
            assert {"content", "confidence", "language"} <= set(best)
            assert "speaker" not in best
    assert not named(messages, "AddPartialTranscript")


def test_final_follows_its_words_and_a_partial_follows_the_final(server: Server) -> None:
    with server.connected() as client:
        client.start(enable_partials=True)
        client.speak(TALK)
        messages = transcripts(client.finish())
    names = [(each["message"], each["metadata"]["transcript"]) for each in messages]
    assert names == [
        ("AddPartialTranscript", "loud"),
        ("AddTranscript", "loud "),
        ("AddPartialTranscript", ""),
        ("AddPartialTranscript", "soft"),
        ("AddTranscript", "soft "),
        ("AddPartialTranscript", ""),
    ]
    (word,) = messages[0]["results"]
    assert word["alternatives"][0]["content"] == "loud"


def test_speakers_are_labelled(server: Server) -> None:
    with server.connected() as client:
        client.start(diarization="speaker", enable_partials=True)
        client.speak(TALK)
        client.send("GetSpeakers")
        client.send("GetSpeakers", final=True)
        messages = client.finish()
    spoken = [
        (each["message"], result["alternatives"][0]["speaker"])
        for each in messages
        for result in each.get("results", [])
    ]
    assert spoken == [
        ("AddPartialTranscript", "UU"),
        ("AddTranscript", "S1"),
        ("AddPartialTranscript", "UU"),
        ("AddTranscript", "S2"),
    ]
    now, at_end = named(messages, "SpeakersResult")
    assert (
        now
        == at_end
        == {
            "message": "SpeakersResult",
            "speakers": [{"label": label, "speaker_identifiers": []} for label in ("S1", "S2")],
        }
    )
    assert messages[-2:] == [at_end, {"message": "EndOfTranscript"}]


class ThreeVoices(FakeStreams):
    """Voices by three levels of loudness."""

    def embed(self, samples: Samples, bounds: Sequence[Bounds]) -> Floats:
        loud = [float(samples[first:last].max()) for first, last in bounds]
        return np.eye(3, dtype=np.float32)[[0 if level > 0.4 else 1 if level > 0.15 else 2 for level in loud]]


@pytest.mark.parametrize(("config", "count"), [({}, 3), ({"speaker_diarization_config": {"max_speakers": 2}}, 2)])
def test_largest_number_of_speakers(server: Server, config: Message, count: int) -> None:
    server.recogniser = ThreeVoices()
    parts = [part for level in (0.8, 0.25, 0.08) for part in (burst(3, level=level), silence(1))]
    with server.connected() as client:
        client.start(diarization="speaker", **config)
        client.speak(np.concatenate(parts))
        messages = client.finish()
    results = [result for each in messages for result in each.get("results", [])]
    assert len({result["alternatives"][0]["speaker"] for result in results}) == count


def test_speakers_need_diarization(server: Server) -> None:
    with server.connected() as client:
        client.start()
        client.send("GetSpeakers")
        (warning,) = named(client.finish(), "Warning")
    assert warning["type"] == "speaker_id"


def test_end_of_utterance(server: Server) -> None:
    with server.connected() as client:
        client.start(conversation_config={"end_of_utterance_silence_trigger": 0.5}, enable_partials=True)
        client.speak(TALK)
        messages = transcripts(client.finish())
    assert [each["message"] for each in messages] == [
        "AddPartialTranscript", "AddTranscript", "AddPartialTranscript", "EndOfUtterance",
    ] * 2  # fmt: skip
    for end in named(messages, "EndOfUtterance"):
        assert end["metadata"]["start_time"] == end["metadata"]["end_time"]
        assert "forced" not in end


def test_forced_end_of_utterance(server: Server) -> None:
    with server.connected() as client:
        client.start()
        client.speak(burst(2))
        client.send("ForceEndOfUtterance", timestamp=2.0)
        messages = client.until("EndOfUtterance")
        assert text(messages) == "loud "
        assert [each["forced"] for each in transcripts(messages)] == [True, True]
        client.speak(np.concatenate([burst(2, level=0.1), silence(1)]))
        client.send("ForceEndOfUtterance")
        assert text(client.until("EndOfUtterance")) == "soft "
        assert client.finish()[-1]["message"] == "EndOfTranscript"


def test_forced_end_waits_for_its_time(server: Server) -> None:
    with server.connected() as client:
        client.start()
        client.send("ForceEndOfUtterance", timestamp=1.5)
        client.speak(burst(3))
        end = client.until("EndOfUtterance")[-1]
        assert end["metadata"]["end_time"] == pytest.approx(1.5, abs=0.2)


def test_configuration_changes_from_here_on(server: Server) -> None:
    with server.connected() as client:
        client.start()
        client.speak(TALK[:52_800])
        client.send("SetRecognitionConfig", transcription_config={"enable_partials": True, "max_delay": 1})
        client.speak(TALK[52_800:])
        messages = client.finish()
    assert [each["metadata"]["transcript"] for each in named(messages, "AddPartialTranscript")] == [
        "soft",
        "",
        "",
    ]
    assert text(messages) == "loud soft "


@pytest.mark.parametrize(("file", "codec"), [("a.wav", "pcm_s16le"), ("a.webm", "libopus"), ("a.mp3", "libmp3lame")])
def test_commands_of_a_file_take_effect_in_a_pause(server: Server, tmp_path: Path, file: str, codec: str) -> None:
    talk = np.concatenate([silence(0.5, 48_000), burst(3, 48_000), silence(0.5, 48_000)])
    with server.connected() as client:
        client.start({"type": "file"}, diarization="speaker", max_delay=0.7)
        client.socket.send(encode(tmp_path / file, talk, 48_000, codec).read_bytes())
        client.send("ForceEndOfUtterance")
        assert text(client.until("EndOfUtterance")) == "loud "
        # The stream has paused, and no samples follow.
        time.sleep(1.5)
        client.send("GetSpeakers")
        (speaker,) = client.until("SpeakersResult")[-1]["speakers"]
        assert speaker["label"] == "S1"
        assert client.finish()[-1] == {"message": "EndOfTranscript"}


def test_commands_follow_a_file_with_its_index_at_the_end(server: Server, tmp_path: Path) -> None:
    with server.connected() as client:
        client.start({"type": "file"}, diarization="speaker")
        client.socket.send(encode(tmp_path / "a.m4a", TALK, 16_000, "aac").read_bytes())
        client.send("GetSpeakers")
        client.send("ForceEndOfUtterance")
        messages = client.finish()
    assert text(messages) == "loud soft "
    assert [each["label"] for each in named(messages, "SpeakersResult")[0]["speakers"]] == ["S1", "S2"]
    end = named(messages, "EndOfUtterance")[0]["metadata"]["end_time"]
    assert end == pytest.approx(TALK.size / 16_000, abs=0.2)


def test_language_cannot_change(server: Server) -> None:
    with server.connected() as client:
        client.start()
        client.send("SetRecognitionConfig", transcription_config={"language": "de"})
        assert client.error() == ("invalid_config", "transcription_config.language: it cannot change", 1003)


def test_silence_moves_the_end_of_the_transcript_on(server: Server) -> None:
    with server.connected() as client:
        client.start(max_delay=1)
        client.speak(silence(5))
        finals = named(client.finish(), "AddTranscript")
    assert len(finals) >= 3
    assert all(final["results"] == [] and final["metadata"]["transcript"] == "" for final in finals)
    times = [(final["metadata"]["start_time"], final["metadata"]["end_time"]) for final in finals]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(times))


def channel_audio(client: Client, label: str, samples: Samples) -> None:
    data = base64.b64encode((samples * 32_767).astype("<i2").tobytes()).decode()
    client.send("AddChannelAudio", channel=label, data=data)


def test_channels(server: Server) -> None:
    """Each channel is transcribed by itself; the session ends when all of them have ended."""
    with server.connected() as client:
        started = client.start(diarization="channel", channel_diarization_labels=["agent", "caller"])
        assert started["channels"] == ["agent", "caller"]
        for start in range(0, TALK.size, 16_000):
            channel_audio(client, "agent", TALK[start : start + 16_000])
            channel_audio(client, "caller", TALK[::-1][start : start + 16_000])
        for label in ("agent", "caller"):
            client.send("EndOfChannel", channel=label, last_seq_no=3)
        messages = client.until("EndOfTranscript")
    for label, expected in (("agent", "loud soft "), ("caller", "soft loud ")):
        own = [each for each in messages if each.get("channel") == label]
        assert text(own) == expected
        assert [each["seq_no"] for each in named(own, "ChannelAudioAdded")] == list(range(1, 8))
        assert all(result["channel"] == label for each in own for result in each.get("results", []))
    assert not named(messages, "AudioAdded")


def test_channels_and_speakers_without_labels(server: Server) -> None:
    with server.connected() as client:
        assert client.start(diarization="channel_and_speaker")["channels"] == []
        channel_audio(client, "1", TALK)
        messages = client.finish()
    labels = [result["alternatives"][0]["speaker"] for each in messages for result in each.get("results", [])]
    assert labels == ["S1", "S2"]


def test_audio_after_the_end_is_ignored(server: Server) -> None:
    with server.connected() as client:
        client.start()
        client.send("EndOfStream", last_seq_no=0)
        client.socket.send(bytes(100))
        with contextlib.suppress(ConnectionClosed):
            messages = client.until("EndOfTranscript", "Warning")
    assert messages[-1]["message"] == "EndOfTranscript" or messages[-1]["type"] == "add_audio_after_eos"


def test_end_without_audio(server: Server) -> None:
    for audio in (RAW, {"type": "file"}):
        with server.connected() as client:
            client.start(audio)
            assert client.finish()[-1] == {"message": "EndOfTranscript"}


@pytest.mark.parametrize("number", [-1, 0, 31, 10**30, None])
def test_last_number_is_not_compared(server: Server, number: int | None) -> None:
    with server.connected() as client:
        client.start()
        client.speak(TALK)
        client.send("EndOfStream", last_seq_no=number)
        assert client.until("EndOfTranscript", "Error")[-1]["message"] == "EndOfTranscript"


def test_additional_vocabulary(server: Server) -> None:
    """A phrase that the model cannot write is a warning, the others are used."""
    with server.connected() as client:
        client.send(
            "StartRecognition",
            audio_format=RAW,
            transcription_config={"language": "en", "additional_vocab": ["yes", {"content": "Zürich"}]},
        )
        messages = client.until("Warning")
    assert named(messages, "RecognitionStarted")
    assert messages[-1]["type"] == "additional_vocab"
    assert messages[-1]["reason"].startswith("additional_vocab: no tokens of the model spell 'Zürich'")


def test_what_is_not_done_is_a_warning(server: Server) -> None:
    with server.connected() as client:
        client.send(
            "StartRecognition",
            audio_format=RAW,
            transcription_config={"language": "en"},
            translation_config={"target_languages": ["de"]},
            audio_events_config={"types": ["music"]},
        )
        warnings = named(client.finish(), "Warning")
    assert [each["type"] for each in warnings] == ["unsupported_translation_pair", "unsupported_audio_events"]
    assert all(each["reason"] for each in warnings)


def test_frames_split_samples_and_have_any_size(server: Server) -> None:
    texts = []
    for size in (999, 7777, 1 << 22):
        with server.connected() as client:
            client.start()
            client.speak(TALK, size)
            texts.append([each for each in client.finish() if each["message"] == "AddTranscript"])
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize(
    ("sent", "kind", "reason"),
    [
        ("not JSON", "invalid_message", "the message is not JSON"),
        ("", "invalid_message", "the message is not JSON"),
        ("[" * 100_000, "invalid_message", "the message is not JSON"),
        ("[]", "invalid_message", "the message is not a JSON object with its name as `message`"),
        ("{}", "invalid_message", "the message is not a JSON object with its name as `message`"),
        ('{"message": 3}', "invalid_message", "the message is not a JSON object with its name as `message`"),
        ('{"message": "AddVocab"}', "invalid_message", "'AddVocab' is not a message of this protocol"),
        ('{"message": "\\ud800"}', "invalid_message", "'\\ud800' is not a message of this protocol"),
        ('{"message": "EndOfStream"}', "protocol_error", "EndOfStream came before StartRecognition"),
        ('{"message": "GetSpeakers"}', "protocol_error", "GetSpeakers came before StartRecognition"),
    ],
)
def test_rejects_first_message(server: Server, sent: str, kind: str, reason: str) -> None:
    with server.connected() as client:
        client.socket.send(sent)
        assert client.error() == (kind, reason, 1003)


def test_rejects_audio_before_the_start(server: Server) -> None:
    with server.connected() as client:
        client.socket.send(bytes(100))
        assert client.error() == ("protocol_error", "audio came before StartRecognition", 1003)


@pytest.mark.parametrize(
    ("sent", "kind", "reason"),
    [
        ({"message": "StartRecognition"}, "protocol_error", "StartRecognition came twice"),
        ({"message": "AddChannelAudio", "channel": "a", "data": ""}, "protocol_error", "AddChannelAudio needs"),
        ({"message": "EndOfChannel", "channel": "a"}, "invalid_message", "'a' is not a channel of this session"),
        ({"message": "ForceEndOfUtterance", "timestamp": "now"}, "invalid_message", "timestamp: "),
        ({"message": "ForceEndOfUtterance", "timestamp": -1}, "invalid_message", "timestamp: "),
        ({"message": "ForceEndOfUtterance", "channel": "a"}, "invalid_message", "'a' is not a channel"),
        ({"message": "SetRecognitionConfig"}, "invalid_config", "transcription_config: "),
        ({"message": "EndOfStream", "last_seq_no": "x"}, "invalid_message", "last_seq_no: "),
    ],
)
def test_rejects_message_in_a_session(server: Server, sent: Message, kind: str, reason: str) -> None:
    with server.connected() as client:
        client.start()
        client.socket.send(json.dumps(sent))
        found = client.error()
    assert (found[0], found[2]) == (kind, 1003)
    assert found[1].startswith(reason)


def test_rejects_audio_that_is_not_base64_or_of_no_channel(server: Server) -> None:
    for fields, reason in (
        ({"channel": "a", "data": "%%%"}, "data: it is not base64"),
        ({"channel": "z", "data": ""}, "'z' is not a channel of this session, only a"),
    ):
        with server.connected() as client:
            client.start(diarization="channel", channel_diarization_labels=["a"])
            client.send("AddChannelAudio", **fields)
            assert client.error() == ("invalid_message", reason, 1003)
    with server.connected() as client:
        client.start(diarization="channel", channel_diarization_labels=["a"])
        client.socket.send(b"x")
        assert client.error() == ("protocol_error", "the audio of channels comes as AddChannelAudio", 1003)


@pytest.mark.parametrize(
    ("config", "kind", "code"),
    [
        ({"language": "xx"}, "invalid_language", 1003),
        ({"model": "melia-1"}, "invalid_model", 4004),
        ({"operating_point": "best"}, "invalid_model", 4004),
        ({"max_delay": "x"}, "invalid_config", 1003),
    ],
)
def test_rejects_what_is_not_served(server: Server, config: Message, kind: str, code: int) -> None:
    with server.connected() as client:
        client.send("StartRecognition", audio_format=RAW, transcription_config={"language": "en"} | config)
        found = client.error()
    assert (found[0], found[2]) == (kind, code)


def test_model_and_language_choose_the_recogniser(server: Server) -> None:
    for path, config in (("/v2/en", {"model": "standard"}), ("/v2", {"operating_point": "enhanced"})):
        with server.connected(path) as client:
            client.send("StartRecognition", audio_format=RAW, transcription_config=config)
            client.until("RecognitionStarted")
    assert server.requests == [("en", "standard"), ("en", "enhanced")]


@pytest.mark.parametrize(("languages", "used"), [(("de",), "de"), (("de", "en"), "en"), (("de", "fr"), None)])
def test_session_without_language_has_the_usual_one(
    server: Server, monkeypatch: pytest.MonkeyPatch, languages: tuple[str, ...], used: str | None
) -> None:
    monkeypatch.setattr(server.core.streams, "catalogue", catalogue_of(*languages))
    monkeypatch.setattr(server.recogniser, "language", used)
    with server.connected() as client:
        client.send("StartRecognition", audio_format=RAW, transcription_config={})
        if used is None:
            reason = "transcription_config.language: it is missing; use de, fr"
            assert client.error() == ("invalid_language", reason, 1003)
            return
        started = client.until("RecognitionStarted")[-1]
    assert server.requests == [(used, None)]
    assert started["language_pack_info"]["language_description"] == used


def test_session_has_the_direction_of_writing_of_its_tokens(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.connected() as client:
        assert client.start()["language_pack_info"]["writing_direction"] == "left-to-right"
    pieces = ("<blank>", "<unk>", "</s>", "\u2581\u0633\u0644\u0627\u0645", "\u0628", "\u062f", "\u0631")
    monkeypatch.setattr(server.recogniser, "tokens", dataclasses.replace(server.recogniser.tokens, pieces=pieces))
    with server.connected() as client:
        assert client.start()["language_pack_info"]["writing_direction"] == "right-to-left"


def test_names_of_clients_stand_for_the_best_model(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue of other networks has neither; clients send one of them even if their user chose none."""
    streams = server.core.streams
    assert streams is not None
    monkeypatch.setattr(streams, "catalogue", dataclasses.replace(streams.catalogue, operating_points=("own",)))
    for name, used in (("enhanced", None), ("own", "own")):
        with server.connected() as client:
            client.start(model=name)
        assert server.requests[-1] == ("en", used)
    with server.connected() as client:
        client.send("StartRecognition", audio_format=RAW, transcription_config={"language": "en", "model": "other"})
        assert client.error() == ("invalid_model", "'other' is not a model of this service; use own", 4004)


@pytest.mark.parametrize(
    ("problem", "kind", "code"),
    [
        (ServerUnreachableError("gpu:8001", "no server is ready there", "Start one"), "job_error", 4013),
        (ServerContractError("gpu:8001", "it does not serve ensemble_en_standard", "Serve it"), "invalid_model", 4004),
    ],
)
def test_reports_problem_of_the_server(server: Server, problem: Exception, kind: str, code: int) -> None:
    server.problem = problem
    with server.connected() as client:
        client.send("StartRecognition", audio_format=RAW, transcription_config={"language": "en"})
        found = client.error()
    assert (found[0], found[2]) == (kind, code)
    assert "gpu" not in found[1]


def test_waits_less_than_clients_for_the_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_PREPARE_S", 0.2)
    release = threading.Event()
    monkeypatch.setattr(server.core.streams, "get", lambda *_: release.wait(10) and server.recogniser)
    with server.connected() as client:
        client.send("StartRecognition", audio_format=RAW, transcription_config={"language": "en"})
        assert client.error() == ("job_error", "the inference server does not answer", 4013)
    release.set()


def test_outage_in_a_session_is_an_error(server: Server) -> None:
    def fail(request: int) -> None:
        if request > 2:
            raise ServerUnreachableError("gpu:8001", "no server is ready there after 60 s", "Start one")

    server.recogniser._fail = fail
    with server.connected() as client:
        client.start()
        client.speak(TALK)
        kind, reason, code = client.error()
    assert (kind, code) == ("job_error", 4013)
    assert reason.startswith("the inference server does not answer")


def test_refused_segment_is_a_warning(server: Server) -> None:
    def fail(request: int) -> None:
        if request <= 3:
            raise RequestError("out of luck")

    server.recogniser._fail = fail
    with server.connected() as client:
        client.start()
        client.speak(TALK)
        messages = client.finish()
    (warning,) = named(messages, "Warning")
    assert warning["type"] == "segment_loss"
    assert "out of luck" in warning["reason"]
    assert text(messages) == "soft "


def test_defect_ends_only_its_session(server: Server) -> None:
    def fail(_: int) -> None:
        raise ZeroDivisionError

    with server.connected() as healthy:
        healthy.start()
        server.recogniser._fail = fail
        with server.connected() as client:
            client.start()
            client.speak(TALK)
            assert client.error() == ("unknown_error", "a defect of the service, which is in its log", 1011)
        # A session that was open when the service stopped has the same type, and is no defect.
        counts = {kind: server.core.metrics.errors.labels(kind)._value.get() for kind in ("defect", "unknown_error")}
        assert counts == {"defect": 1.0, "unknown_error": 0.0}
        server.recogniser._fail = lambda _: None
        healthy.speak(TALK)
        assert text(healthy.finish()) == "loud soft "


def test_rejects_audio_that_is_no_sound(server: Server) -> None:
    """Before the end of the stream."""
    with server.connected() as client:
        client.start({"type": "file"})
        with contextlib.suppress(ConnectionClosed):
            for _ in range(30):
                client.socket.send(b"this is text" * 300)
        kind, reason, code = client.error()
    assert (kind, code) == ("invalid_audio_type", 1003)
    assert reason.startswith("the audio cannot be used: it cannot be decoded")
    assert "/dev" not in reason


def test_number_of_streams_is_limited(make: Make) -> None:
    server = make(realtime=RealtimeLimits(streams=2))
    with server.connected() as first:
        first.start()
        with server.connected() as second:
            second.start()
            with server.connected() as third:
                third.send("StartRecognition", audio_format=RAW, transcription_config={"language": "en"})
                assert third.error() == ("quota_exceeded", "the service transcribes 2 streams at a time", 4005)
            second.finish()
        wait_until(lambda: server.core.metrics.sessions._value.get() == 1)
        with server.connected() as client:
            labels = {"diarization": "channel", "channel_diarization_labels": ["a", "b"]}
            client.send("StartRecognition", audio_format=RAW, transcription_config={"language": "en"} | labels)
            assert client.error()[0] == "quota_exceeded"
    wait_until(lambda: not server.part.is_busy())


def test_channels_without_labels_are_counted_when_they_open(make: Make) -> None:
    server = make(realtime=RealtimeLimits(streams=3))
    quota = ("quota_exceeded", "the service transcribes 3 streams at a time", 4005)
    with server.connected() as first, server.connected() as second, server.connected() as third:
        first.start(diarization="channel")
        for label in ("a", "a", "b"):
            channel_audio(first, label, silence(0.1))
        while first.until("ChannelAudioAdded")[-1]["channel"] != "b":
            continue
        second.start(diarization="channel")
        channel_audio(second, "a", silence(0.1))
        third.send("StartRecognition", audio_format=RAW, transcription_config={"language": "en"})
        assert third.error() == quota
        channel_audio(second, "b", silence(0.1))
        assert second.error() == quota
        # The places of the second session are free again.
        wait_until(lambda: server.core.metrics.sessions._value.get() == 1)
        channel_audio(first, "c", TALK)
        messages = first.finish()
    assert text([each for each in messages if each.get("channel") == "c"]) == "loud soft "


def test_labels_count_for_channels_only(make: Make) -> None:
    server = make(realtime=RealtimeLimits(streams=1))
    with server.connected() as client:
        client.start(channel_diarization_labels=["a", "b"])
        client.speak(TALK)
        assert text(client.finish()) == "loud soft "


def test_number_of_connections_is_limited(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_UNSTARTED", 1)
    server = make(realtime=RealtimeLimits(streams=1))
    with server.connected(), server.connected() as second:
        with pytest.raises(InvalidStatus, match="HTTP 503"), server.connected():
            pass
        second.start()
        second.speak(TALK)
        assert text(second.finish()) == "loud soft "


def test_idle_session_ends_with_its_words(make: Make) -> None:
    server = make(realtime=RealtimeLimits(idle_s=1.5))
    with server.connected() as client:
        client.start()
        client.speak(np.concatenate([silence(0.5), burst(2)]))
        messages = client.until("Error")
        code = client.close_code()
    assert (messages[-1]["type"], code) == ("idle_timeout", 1008)
    assert [each["type"] for each in named(messages, "Warning")] == ["idle_timeout"]
    assert text(messages) == "loud "


def test_longest_session(make: Make) -> None:
    server = make(realtime=RealtimeLimits(idle_s=5, longest_s=1))
    with server.connected() as client:
        client.start()
        kind, reason, code = client.error()
    assert (kind, code) == ("session_timeout", 1008)
    assert reason == "the session has lasted 1 s, the limit of this service"


def jumping(path: Path, sound: Samples, jump_s: float) -> bytes:
    """Return a file of a second of silence after the sound, whose time stamp is later."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = add_audio(container, "pcm_s16le", 16_000, "mono")
        for start_s, part in ((0.0, sound), (jump_s, silence(1))):
            frame = av.AudioFrame.from_ndarray((part * 32_767).astype("<i2").reshape(1, -1), format="s16")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, round(start_s * 16_000), Fraction(1, 16_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def test_longest_audio_is_that_of_the_longest_session(make: Make, tmp_path: Path) -> None:
    """A few kilobytes can hold hours; what was spoken before the limit is final."""
    server = make(realtime=RealtimeLimits(longest_s=20))
    sound = np.concatenate([silence(0.5), burst(2), silence(1)])
    long = np.concatenate([sound, silence(20)])
    sent: list[tuple[Message, bytes]] = [
        ({"type": "file"}, jumping(tmp_path / "a.mka", sound, 3000.0)),
        ({"type": "file"}, encode(tmp_path / "a.m4a", long, 16_000, "aac").read_bytes()),
        (RAW, (long * 32_767).astype("<i2").tobytes()),
    ]
    for audio, data in sent:
        with server.connected() as client:
            client.start(audio)
            client.socket.send(data)
            client.send("EndOfStream", last_seq_no=1)
            messages = client.until("Error", "EndOfTranscript")
            code = client.close_code()
        reason = "the audio is longer than 20 s, the limit of this service"
        assert messages[-1] == {"message": "Error", "type": "session_timeout", "reason": reason}
        assert (text(messages), code) == ("loud ", 1008)


def test_connection_without_start_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.SessionLimits, "__init__", _short_start(session.SessionLimits.__init__))
    with server.connected() as client:
        assert client.error() == ("idle_timeout", "no StartRecognition came for 0.2 s", 1008)


def _short_start(made: Callable[..., None]) -> Callable[..., None]:
    return lambda self, **fields: made(self, **fields | {"start_s": 0.2})


def test_client_that_leaves_frees_its_stream(server: Server) -> None:
    with server.connected() as client:
        client.start()
        client.speak(burst(2))
        client.until("AudioAdded")
    wait_until(lambda: server.recogniser.cancelled == set(server.recogniser.streams))
    wait_until(lambda: not server.part.is_busy())


def test_client_that_leaves_ends_the_wait_for_a_place(server: Server) -> None:
    is_waiting = threading.Event()

    def wait(_: int) -> None:
        is_waiting.set()
        wait_until(server.recogniser.is_cancelled)
        raise CancelledRequestError("the request was cancelled")

    server.recogniser._fail = wait
    with server.connected() as client:
        client.start()
        client.speak(burst(2))
        assert is_waiting.wait(10)
    wait_until(lambda: not any(thread.name == "channel" for thread in threading.enumerate()))
    assert server.recogniser.requests == 1


def test_client_that_does_not_read_is_disconnected(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends audio without an end, and its acknowledgements fill the buffers on the way to it."""
    monkeypatch.setattr(session, "_SEND_TIMEOUT_S", 0.5)
    monkeypatch.setattr(service_server, "_UNREAD_MS", 2000)
    server = make()
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(("127.0.0.1", server.port))
    with connect(f"ws://127.0.0.1:{server.port}/v2", sock=plain, max_queue=1, ping_interval=None) as unread:
        Client(unread).start()
        with pytest.raises(ConnectionClosed):
            _send_for(unread, 60)
        wait_until(lambda: not server.part.is_busy())


def _send_for(unread: ClientConnection, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        unread.send(b"")


def test_service_that_stops_takes_no_new_session(server: Server) -> None:
    server.core.draining.set()
    with server.connected() as client:
        client.send("StartRecognition", audio_format=RAW, transcription_config={"language": "en"})
        assert client.error() == ("job_error", "the service is about to stop; connect again", 4013)


def test_other_protocol_is_not_found(server: Server) -> None:
    with pytest.raises(InvalidStatus, match="HTTP 404"), server.connected("/v2/agent"):
        pass


def test_key_in_header_or_query(make: Make, tmp_path: Path) -> None:
    server = make(keys=keys(tmp_path))
    with server.connected(Authorization=f"Bearer {KEY}") as client:
        client.start()
    with server.connected(f"/v2?jwt={KEY}&sm-app=x") as client:
        client.start()
    for headers in ({}, {"Authorization": "Bearer None"}):
        with pytest.raises(InvalidStatus, match="HTTP 401"), server.connected(**headers):
            pass


def test_page_of_another_host_is_refused(server: Server) -> None:
    with pytest.raises(InvalidStatus, match="HTTP 403"), server.connected(Origin="https://other.example"):
        pass
