"""Real time with the published clients, unchanged, against the real server with the reference networks."""

import asyncio
import contextlib
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import jiwer
import numpy as np
import pytest
import soundfile
from speechmatics import rt
from speechmatics.rt import AsyncClient, AsyncMultiChannelClient, AudioEncoding, ServerMessageType, TranscriptResult
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from contract.catalogue import read_catalogue
from tests.integration import services
from tests.integration.reference import ROOT
from tests.integration.services import Service
from tests.integration.serving import Running
from transcriber.audio import Samples
from transcriber.connection import Connection
from transcriber.pipeline import Plan
from transcriber.session import Event, Final, StreamRules, StreamSession
from transcriber.triton_recogniser import TritonStreams, connect_streams

pytestmark = pytest.mark.integration
DIALOGUE, RATE_HZ, SECONDS = ROOT / "demo" / "dialogue.flac", 16_000, 20
RAW = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": RATE_HZ}
PCM = rt.AudioFormat(encoding=AudioEncoding.PCM_S16LE, sample_rate=RATE_HZ)
COMMAND_S = 120
Message = dict[str, Any]


@pytest.fixture(scope="module")
def service(streams: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with services.started(folder, f"--realtime-endpoint=127.0.0.1:{streams.grpc}") as running:
        yield running


@pytest.fixture(scope="module")
def recogniser(streams: Running) -> TritonStreams:
    return connect_streams(Connection(f"127.0.0.1:{streams.grpc}", one_server=True), read_catalogue(), "en", "enhanced")


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Return the first 20 s of the dialogue, in which it is in the middle of a sentence."""
    found: Samples = soundfile.read(DIALOGUE, frames=SECONDS * RATE_HZ, dtype="float32")[0]
    return found


@pytest.fixture(scope="module")
def expected(recogniser: TritonStreams, samples: Samples) -> list[str]:
    """Return the words that the transcriber finds without the service."""
    return directly(recogniser, samples)


@pytest.fixture(scope="module")
def wav(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "dialogue.wav"
    soundfile.write(path, samples, RATE_HZ, "PCM_16")
    return path


def directly(recogniser: TritonStreams, samples: Samples) -> list[str]:
    with StreamSession(recogniser, Plan(speakers=False), rules=StreamRules(max_delay_s=4.0)) as stream:
        events: list[Event] = stream.push(samples) + stream.finish()
    finals = [event for event in events if isinstance(event, Final)]
    return [word.content for final in finals for turn in final.turns for word in turn.words]


def pcm(samples: Samples) -> bytes:
    return (samples * 32_768).clip(-32_768, 32_767).astype("<i2").tobytes()


def url(service: Service, path: str = "/v2") -> str:
    return f"ws://127.0.0.1:{service.port}{path}"


class Received:
    """What a client of speechmatics-rt is sent."""

    def __init__(self, client: AsyncClient | AsyncMultiChannelClient) -> None:
        self.messages: list[Message] = []
        for kind in ServerMessageType:
            client.on(kind, self.messages.append)

    def named(self, name: str) -> list[Message]:
        return [message for message in self.messages if message["message"] == name]

    def words(self, channel: str | None = None) -> list[str]:
        finals = [each for each in self.named("AddTranscript") if each.get("channel") == channel]
        assert all(TranscriptResult.from_message(each).is_final for each in finals)
        return "".join(each["metadata"]["transcript"] for each in finals).split()


def with_rt(service: Service, audio: bytes, *, raw: bool = False, sessions: int = 1, **config: Any) -> list[Received]:
    """Transcribe with speechmatics-rt, with one client object for all sessions."""

    async def run() -> list[Received]:
        found = []
        async with AsyncClient(url=url(service)) as client:
            for _ in range(sessions):
                found.append(Received(client))
                form = (
                    rt.AudioFormat(encoding=AudioEncoding.PCM_S16LE, sample_rate=RATE_HZ) if raw else rt.AudioFormat()
                )
                await client.transcribe(
                    io.BytesIO(audio), transcription_config=rt.TranscriptionConfig(**config), audio_format=form
                )
        return found

    return asyncio.run(asyncio.wait_for(run(), COMMAND_S))


def old_client(service: Service, folder: Path, *arguments: str | Path, stdin: bytes | None = None) -> str:
    """Run the command of speechmatics-python and return what it prints."""
    command = [Path(sys.executable).parent / "speechmatics", "-vv", "rt", "transcribe", *arguments]
    options = ["--url", url(service), "--ssl-mode", "none", "--lang", "en"]
    done = subprocess.run(
        [*command, *options],
        input=stdin,
        env=services.environment_without_home(folder),
        capture_output=True,
        timeout=COMMAND_S,
        check=False,
    )
    log = done.stderr.decode()
    assert done.returncode == 0, log
    # It logs every message, and ends with exit code 0 also where the server closes too early.
    assert "EndOfTranscript" in log
    return done.stdout.decode()


def test_rt_client_sends_a_file(service: Service, wav: Path, expected: list[str]) -> None:
    (received,) = with_rt(service, wav.read_bytes())
    assert received.words() == expected
    assert received.messages[-1]["message"] == "EndOfTranscript"
    frames = -(-wav.stat().st_size // 4096)
    assert [each["seq_no"] for each in received.named("AudioAdded")] == list(range(1, frames + 1))
    assert not received.named("AddPartialTranscript") + received.named("Error") + received.named("Warning")


def test_rt_client_sends_raw_audio_and_gets_partials(service: Service, samples: Samples, expected: list[str]) -> None:
    (received,) = with_rt(service, pcm(samples), raw=True, enable_partials=True, max_delay=4.0)
    assert received.words() == expected
    assert received.messages[-1]["message"] == "EndOfTranscript"
    partials = received.named("AddPartialTranscript")
    assert len(partials) > 20
    for partial in partials:
        results = TranscriptResult.from_message(partial).results
        spoken = [each.content for result in results for each in result.alternatives or []]
        assert " ".join(spoken) == partial["metadata"]["transcript"]
    # Every final is followed by the partial of the rest.
    shown = [each for each in received.messages if "metadata" in each and each["metadata"]["transcript"] != " "]
    for final, following in itertools.pairwise(shown):
        if final["message"] == "AddTranscript" and final["results"]:
            assert following["message"] == "AddPartialTranscript"


def test_rt_client_with_speakers_and_ends_of_utterances(service: Service) -> None:
    config = rt.ConversationConfig(end_of_utterance_silence_trigger=0.5)
    (received,) = with_rt(service, DIALOGUE.read_bytes(), diarization="speaker", conversation_config=config)
    results = [result for final in received.named("AddTranscript") for result in final["results"]]
    reference = json.loads((ROOT / "demo" / "dialogue.json").read_text())
    assert jiwer.wer(reference["text"], " ".join(received.words())) <= 0.05
    assert {result["alternatives"][0]["speaker"] for result in results} == {"S1", "S2"}
    assert len(received.named("EndOfUtterance")) >= 3
    assert received.messages[-1]["message"] == "EndOfTranscript"


def test_rt_client_object_runs_several_sessions(service: Service, samples: Samples) -> None:
    first, second = with_rt(service, pcm(samples[: 5 * RATE_HZ]), raw=True, sessions=2)
    # The handlers of the first session are called in the second one too.
    both = first.named("AddTranscript")
    assert [each for each in both if each not in second.named("AddTranscript")] == []
    assert second.words()[:3] == ["hello", "sarah", "good"]
    assert len(second.named("EndOfTranscript")) == 1


def test_rt_client_forces_the_end_of_an_utterance(service: Service, samples: Samples) -> None:
    """As a voice agent that detects the end of a turn by itself, in the middle of a sentence."""

    async def run() -> Received:
        async with AsyncClient(url=url(service)) as client:
            received, ended = Received(client), asyncio.Event()
            client.on(ServerMessageType.END_OF_UTTERANCE, lambda _: ended.set())
            await client.start_session(transcription_config=rt.TranscriptionConfig(), audio_format=PCM)
            data = pcm(samples[: 3 * RATE_HZ])
            for start in range(0, len(data), 3200):
                await client.send_audio(data[start : start + 3200])
            await client.force_end_of_utterance()
            await ended.wait()
            assert received.words()[:5] == ["hello", "sarah", "good", "to", "have"]
            await client.stop_session()
        return received

    received = asyncio.run(asyncio.wait_for(run(), COMMAND_S))
    (end,) = received.named("EndOfUtterance")
    assert end["forced"]
    assert end["metadata"]["end_time"] == pytest.approx(3.0, abs=0.1)
    assert received.messages[-1]["message"] == "EndOfTranscript"


def test_rt_client_sends_channels(service: Service, samples: Samples, recogniser: TritonStreams) -> None:
    half = samples.size // 2
    channels = {"agent": samples[:half], "caller": samples[half:]}

    async def run() -> Received:
        async with AsyncMultiChannelClient(url=url(service)) as client:
            received, ended = Received(client), asyncio.Event()
            client.on(ServerMessageType.END_OF_TRANSCRIPT, lambda _: ended.set())
            await client.transcribe(
                {label: io.BytesIO(pcm(part)) for label, part in channels.items()},
                transcription_config=rt.TranscriptionConfig(enable_partials=True),
                audio_format=PCM,
            )
            # Its `transcribe` returns before the transcript has ended.
            await ended.wait()
        return received

    received = asyncio.run(asyncio.wait_for(run(), COMMAND_S))
    for label, part in channels.items():
        assert received.words(label) == directly(recogniser, part)
        frames = -(-2 * part.size // 4096)
        acknowledged = [each["seq_no"] for each in received.named("ChannelAudioAdded") if each["channel"] == label]
        assert acknowledged == list(range(1, frames + 1))


def test_old_client_sends_a_file(service: Service, wav: Path, expected: list[str], tmp_path: Path) -> None:
    assert old_client(service, tmp_path, wav).split() == expected


def test_old_client_sends_raw_audio(service: Service, recogniser: TritonStreams, tmp_path: Path) -> None:
    """More frames than it sends ahead of their acknowledgements."""
    dialogue: Samples = soundfile.read(DIALOGUE, dtype="float32")[0]
    assert pcm(dialogue)[512 * 4096 :]
    options = ("-", "--raw", "pcm_s16le", "--sample-rate", str(RATE_HZ), "--enable-partials", "--print-json")
    printed = old_client(service, tmp_path, *options, stdin=pcm(dialogue))
    messages = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    finals = [each for each in messages if each["message"] == "AddTranscript"]
    assert "".join(each["metadata"]["transcript"] for each in finals).split() == directly(recogniser, dialogue)
    assert any(each["message"] == "AddPartialTranscript" for each in messages)


@pytest.mark.parametrize("form", ["raw", "file"])
def test_npm_client(
    service: Service, npm_clients: Path, wav: Path, samples: Samples, expected: list[str], form: str, tmp_path: Path
) -> None:
    path = wav
    if form == "raw":
        path = tmp_path / "dialogue.raw"
        path.write_bytes(pcm(samples))
    done = subprocess.run(
        ["node", "realtime.mjs", url(service), path, form],
        cwd=npm_clients,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
    )
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    finals = [each for each in messages if each["message"] == "AddTranscript"]
    assert "".join(each["metadata"]["transcript"] for each in finals).split() == expected
    assert messages[-1]["message"] == "EndOfTranscript"
    assert any(each["message"] == "AddPartialTranscript" for each in messages)


class Client:
    """A client that sends any message."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def start(self, **config: Any) -> None:
        self.send("StartRecognition", audio_format=RAW, transcription_config={"language": "en"} | config)
        self.until("RecognitionStarted")

    def send(self, name: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"message": name, **fields}))

    def until(self, *names: str) -> list[Message]:
        found: list[Message] = []
        while not found or found[-1]["message"] not in names:
            found.append(json.loads(self.socket.recv(60)))
        return found


def transcribed(service: Service, samples: Samples, size: int = 8192) -> list[str]:
    """Return the words of raw audio that is sent as fast as the service takes it."""
    with connect(url(service), max_size=2**20) as socket:
        client = Client(socket)
        client.start(model="enhanced")
        data = pcm(samples)
        received: list[Message] = []
        reader = threading.Thread(target=lambda: received.extend(client.until("EndOfTranscript", "Error")))
        reader.start()
        for start in range(0, len(data), size):
            socket.send(data[start : start + size])
        client.send("EndOfStream", last_seq_no=0)
        reader.join()
    assert received[-1]["message"] == "EndOfTranscript", received[-1]
    finals = [each for each in received if each["message"] == "AddTranscript"]
    return "".join(each["metadata"]["transcript"] for each in finals).split()


def test_concurrent_sessions_equal_their_transcripts_alone(service: Service, samples: Samples) -> None:
    """Eight different stretches of the dialogue at the same time."""
    parts = [samples[start : start + 10 * RATE_HZ] for start in range(0, 8 * 20_000, 20_000)]
    alone = [transcribed(service, part) for part in parts]
    assert len({tuple(words) for words in alone}) == 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda part: transcribed(service, part), parts)) == alone


def test_pings_are_answered_while_audio_waits(service: Service, samples: Samples) -> None:
    """Three minutes in one go: frames are acknowledged when they are used, and the socket is read all the time."""
    data = pcm(np.tile(samples, 9))
    frames, received = -(-len(data) // 4096), list[Message]()
    with connect(url(service), max_size=2**20, ping_interval=None) as socket:
        client = Client(socket)
        client.start(model="standard")

        def read() -> None:
            while not received or received[-1]["message"] != "EndOfTranscript":
                received.extend(client.until("AudioAdded", "EndOfTranscript"))

        reader = threading.Thread(target=read)
        reader.start()
        for start in range(0, len(data), 4096):
            socket.send(data[start : start + 4096])
        # The ping queues behind all of the audio.
        assert socket.ping().wait(30)
        used = sum(each["message"] == "AudioAdded" for each in received)
        client.send("EndOfStream", last_seq_no=0)
        reader.join()
        assert used < frames, "all audio was used before the ping was answered"
    assert [each["seq_no"] for each in received if each["message"] == "AudioAdded"] == list(range(1, frames + 1))


def test_malformed_clients_do_not_harm_the_service(service: Service, samples: Samples) -> None:
    """Frames that are no text, too large or broken; half a handshake; a client that is gone."""
    with connect(url(service)) as socket:
        socket.send("no JSON")
        assert json.loads(socket.recv())["type"] == "invalid_message"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1003
    with connect(url(service), max_size=None) as socket:
        client = Client(socket)
        client.start()
        with contextlib.suppress(ConnectionClosed):
            socket.send(bytes(17 * 2**20))
        with pytest.raises(ConnectionClosed) as closed:
            client.until("Error")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    for garbage in (b"", b"GET /v2 HTTP/1.1\r\nUpgrade: websocket\r\n", b"\0" * 1000, b"\x16\x03\x01" + bytes(100)):
        with socket_to(service) as plain:
            plain.sendall(garbage)
    with socket_to(service) as plain:
        handshake = (
            f"GET /v2 HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        plain.sendall(handshake.encode())
        assert b" 101 " in plain.recv(4096)
        plain.sendall(b"\xff\xff\xff\xff\xff")
    with pytest.raises(InvalidStatus), connect(url(service, "/v2/agent")):
        pass
    assert transcribed(service, samples[: 5 * RATE_HZ])[:2] == ["hello", "sarah"]


def socket_to(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), 10)


def test_vanished_and_stalled_clients_leave_no_stream(
    service: Service, recogniser: TritonStreams, samples: Samples
) -> None:
    """Clients that break off in the middle of a word, or go on without a sound: afterwards every place is free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(url(service), ping_interval=None, max_size=2**20)) for _ in range(12)]
        for place, each in enumerate(sockets):
            client = Client(each)
            client.start(max_delay=0.7)
            each.send(pcm(samples[: (place + 2) * 8000]))
            client.until("AudioAdded")
        for each in sockets[::2]:
            # As when the machine is gone: the connection breaks without a close.
            each.socket.shutdown(2)
        # The others stall: their words become final, and the server keeps no state of them.
        assert_all_places_are_free(recogniser)
        for each in sockets[1::2]:
            client = Client(each)
            client.send("EndOfStream", last_seq_no=1)
            assert client.until("EndOfTranscript", "Error")[-1]["message"] == "EndOfTranscript"
    end = time.monotonic() + 20
    while "voxwright_sessions 0.0" not in service.client().get("/metrics").text:
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
def test_client_that_hangs_is_found(service: Service) -> None:
    """Its machine still answers for the connection, but the program answers no ping."""
    program = (
        "import asyncio, sys\nfrom speechmatics.rt import AsyncClient\n"
        "async def main():\n    async with AsyncClient(url=sys.argv[1]) as client:\n"
        "        await client.start_session()\n        print('started', flush=True)\n        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, url(service)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hanging:
        try:
            assert hanging.stdout is not None
            assert hanging.stdout.readline() == "started\n"
            assert "voxwright_sessions 1.0" in service.client().get("/metrics").text
            hanging.send_signal(signal.SIGSTOP)
            end = time.monotonic() + 60
            while "voxwright_sessions 0.0" not in service.client().get("/metrics").text:
                assert time.monotonic() < end
                time.sleep(1)
        finally:
            hanging.kill()


def assert_all_places_are_free(recogniser: TritonStreams) -> None:
    """Open a stream in each place: one more than are free would wait until the others end."""
    window = np.zeros(recogniser.window_samples, dtype=np.float32)
    streams = range(1, recogniser.places.count + 1)
    end = time.monotonic() + 30
    while True:
        began = time.monotonic()
        for stream in streams:
            recogniser.step(stream, window, start=True, end=False)
        seconds = time.monotonic() - began
        for stream in streams:
            recogniser.cancel(stream)
        if seconds < 20:
            return
        assert time.monotonic() < end, f"{len(streams)} streams took {seconds:.1f} s to begin"


def test_stops_in_order(streams: Running, samples: Samples, expected: list[str], tmp_path: Path) -> None:
    """After SIGTERM the open session goes on to its end, and no new one begins."""
    running = services.start(tmp_path, f"--realtime-endpoint=127.0.0.1:{streams.grpc}")
    services.wait_ready(running)
    with connect(url(running), max_size=2**20) as socket_:
        client = Client(socket_)
        client.start(model="enhanced")
        data = pcm(samples)
        socket_.send(data[: len(data) // 2])
        client.until("AddTranscript")
        running.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while running.client().get("/ready").status_code != 503:
            assert time.monotonic() < deadline
        with connect(url(running)) as other:
            late = Client(other)
            late.send("StartRecognition", audio_format=RAW, transcription_config={"language": "en"})
            assert late.until("Error")[-1]["type"] == "job_error"
        socket_.send(data[len(data) // 2 :])
        client.send("EndOfStream", last_seq_no=2)
        assert client.until("EndOfTranscript", "Error")[-1]["message"] == "EndOfTranscript"
    assert running.process.wait(30) == 0, running.log.read_text()


def test_sessions_end_with_their_words_when_the_time_to_stop_is_over(
    streams: Running, samples: Samples, tmp_path: Path
) -> None:
    running = services.start(tmp_path, f"--realtime-endpoint=127.0.0.1:{streams.grpc}", "--drain=4")
    services.wait_ready(running)
    with connect(url(running), max_size=2**20) as socket_:
        client = Client(socket_)
        client.start(model="enhanced")
        socket_.send(pcm(samples[: 2 * RATE_HZ]))
        client.until("AudioAdded")
        running.process.send_signal(signal.SIGTERM)
        messages = client.until("Error")
        assert messages[-1]["reason"] == "the service stops; connect again"
        assert "hello" in "".join(each["metadata"]["transcript"] for each in messages if "metadata" in each)
        with pytest.raises(ConnectionClosed) as closed:
            socket_.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
    assert running.process.wait(30) == 0, running.log.read_text()


def test_other_formats_and_rates(service: Service, samples: Samples, expected: list[str], tmp_path: Path) -> None:
    """An m4a with its index last, and mu-law at 8 kHz: nearly the same words."""
    path = tmp_path / "dialogue.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="fltp", layout="mono")
        frame.sample_rate = RATE_HZ
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE_HZ, frame_size=1024)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(part))
    (received,) = with_rt(service, path.read_bytes())
    assert len(set(received.words()) & set(expected)) > 0.9 * len(set(expected))
    assert received.messages[-1]["message"] == "EndOfTranscript"


def test_undecodable_file_is_an_error_for_every_client(service: Service, tmp_path: Path) -> None:
    noise = os.urandom(300_000)
    (received,) = with_rt(service, noise)
    assert received.messages[-1]["type"] == "invalid_audio_type"
    path = tmp_path / "noise.wav"
    path.write_bytes(noise)
    with pytest.raises(AssertionError, match="the audio cannot be used"):
        old_client(service, tmp_path, path)


def test_commands_of_the_page(service: Service, tmp_path: Path) -> None:
    """The clients of the page print the words of the dialogue."""
    page = (ROOT / "docs" / "services.md").read_text()
    section = page[page.index("## Real time") : page.index("### Configuration of a session")]
    (client,) = re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    (program,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    python = f"{sys.executable} -W ignore {tmp_path / 'program.py'}"
    for command in (client.replace(".venv/bin/", f"{Path(sys.executable).parent}/"), python):
        text = (tmp_path / "program.py").read_text().replace(":8080", f":{service.port}")
        (tmp_path / "program.py").write_text(text)
        done = subprocess.run(
            ["bash", "-euc", command.replace(":8080", f":{service.port}")],
            cwd=ROOT,
            env=services.environment_without_home(tmp_path),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split()[:4] == ["hello", "sarah", "good", "to"]
        assert done.stdout.split()[-3:] == ["you", "on", "wednesday"]
