"""Calls to a server in this process: how they are repeated, how long they wait, and how outages are reported."""

import socket
import threading
import time

import grpc
import numpy as np
import pytest

from contract.catalogue import read_catalogue
from contract.errors import ServerContractError, ServerUnreachableError
from tests.relay import Relay, relaying
from tests.unit.transcriber.server import Script, serving
from transcriber import connection as connections
from transcriber.audio import Samples
from transcriber.connection import Connection, _Outage
from transcriber.recogniser import CancelledRequestError, RequestError
from transcriber.triton_recogniser import TritonRecogniser, connect, connect_streams


def audio(frames: int) -> Samples:
    return np.full(160 * frames + 240, 0.1, dtype=np.float32)


def test_server_that_never_finishes_loading(connection: Connection, script: Script) -> None:
    script.loading, script.ready = True, set()
    with pytest.raises(ServerUnreachableError) as caught:
        connect(connection, read_catalogue(), "en", None)
    cause = "no server is ready there after 2 s (it is up, but not all of its models are ready)"
    assert str(caught.value).startswith(f"{connection.endpoint}: {cause}. Start one")


def test_waits_for_a_server_that_comes_up() -> None:
    with serving(Script()) as port:
        pass
    reported: list[str] = []
    connection = Connection(f"127.0.0.1:{port}", retry_timeout_s=20.0, notify=reported.append)
    found: list[TritonRecogniser] = []
    thread = threading.Thread(target=lambda: found.append(connect(connection, read_catalogue(), "en", None)))
    thread.start()
    time.sleep(0.4)
    with serving(Script(), port):
        thread.join(timeout=20)
    assert len(found) == 1
    assert reported == [f"waiting for the server at 127.0.0.1:{port}, for at most 20 s"]


def test_repeats_requests_while_the_server_is_busy(recogniser: TritonRecogniser, script: Script) -> None:
    script.failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert recogniser.recognise(audio(345)).encoder_length == 85
    assert len(script.requests) == 3


def test_repeats_requests_while_the_server_stops(recogniser: TritonRecogniser, script: Script) -> None:
    """The text and the status of Triton 2.51 between SIGTERM and its end."""
    script.failures = [grpc.StatusCode.NOT_FOUND] * 2
    script.failure_text = "Request for unknown model: 'ensemble_en_standard' has no available versions"
    assert recogniser.recognise(audio(345)).encoder_length == 85
    assert len(script.requests) == 3


def test_unknown_model_is_not_repeated(recogniser: TritonRecogniser, script: Script) -> None:
    script.failures = [grpc.StatusCode.NOT_FOUND]
    script.failure_text = "Request for unknown model: 'ensemble_en_standard' is not found"
    with pytest.raises(RequestError, match="is not found"):
        recogniser.recognise(audio(345))
    assert len(script.requests) == 1


def test_reports_an_outage_once(script: Script) -> None:
    reported: list[str] = []
    with serving(script) as port:
        connection = Connection(f"127.0.0.1:{port}", retry_timeout_s=20.0, notify=reported.append)
        recogniser = connect(connection, read_catalogue(), "en", None)
        script.failures = [grpc.StatusCode.UNAVAILABLE] * 6
        threads = [threading.Thread(target=recogniser.recognise, args=(audio(345),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert reported == [f"waiting for the server at {connection.endpoint}, for at most 20 s"]


def test_ends_after_the_retry_timeout(recogniser: TritonRecogniser, script: Script) -> None:
    script.failures = [grpc.StatusCode.UNAVAILABLE] * 100
    with pytest.raises(ServerUnreachableError, match=r"after 2 s \(scripted UNAVAILABLE\)"):
        recogniser.recognise(audio(345))


def test_does_not_repeat_rejected_request(recogniser: TritonRecogniser, script: Script) -> None:
    script.failures = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(RequestError, match="scripted INVALID_ARGUMENT"):
        recogniser.recognise(audio(345))
    assert len(script.requests) == 1


def test_close_ends_waiting(script: Script) -> None:
    with serving(script) as port:
        connection = Connection(f"127.0.0.1:{port}", retry_timeout_s=3600.0)
        recogniser = connect(connection, read_catalogue(), "en", None)
        script.failures = [grpc.StatusCode.UNAVAILABLE] * 100
        threading.Timer(0.2, connection.close).start()
        # Without the close, this would last an hour.
        with pytest.raises(ServerUnreachableError):
            recogniser.recognise(audio(345))


def test_exit_codes() -> None:
    assert ServerContractError.exit_code == 52
    assert ServerUnreachableError.exit_code == 51


def test_serves_several_threads(recogniser: TritonRecogniser) -> None:
    lengths: list[int] = []
    threads = [
        threading.Thread(target=lambda: lengths.append(recogniser.recognise(audio(345)).encoder_length))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [85] * 8


def test_one_outage_is_reported_while_other_models_answer() -> None:
    """A server that comes back: one call succeeds while another still waits, and both belong to one outage."""
    outage = _Outage()
    assert outage.wait(time.monotonic(), is_first=True)
    assert not outage.wait(time.monotonic(), is_first=True)
    outage.leave(was_waiting=True, succeeded=True)
    assert not outage.wait(time.monotonic(), is_first=True)
    outage.leave(was_waiting=True, succeeded=True)
    sent_before_the_end = time.monotonic()
    outage.leave(was_waiting=True, succeeded=True)
    assert not outage.wait(sent_before_the_end, is_first=True)
    outage.leave(was_waiting=True, succeeded=True)


def test_next_outage_is_reported_again() -> None:
    outage = _Outage()
    assert outage.wait(time.monotonic(), is_first=True)
    outage.leave(was_waiting=True, succeeded=True)
    assert outage.wait(time.monotonic(), is_first=True)


def test_outage_lasts_when_every_call_has_failed() -> None:
    outage = _Outage()
    assert outage.wait(time.monotonic(), is_first=True)
    outage.leave(was_waiting=True, succeeded=False)
    assert not outage.wait(time.monotonic(), is_first=True)


def test_reports_an_outage_once_to_many_threads(script: Script) -> None:
    """Requests that were answered before and during the outage do not cause another report."""
    reported: list[str] = []
    with serving(script) as port:
        connection = Connection(f"127.0.0.1:{port}", retry_timeout_s=20.0, notify=reported.append)
        recogniser = connect(connection, read_catalogue(), "en", None)
    threads = [threading.Thread(target=recogniser.recognise, args=(audio(345),)) for _ in range(8)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    with serving(script, port):
        for thread in threads:
            thread.join()
    assert reported == [f"waiting for the server at {connection.endpoint}, for at most 20 s"]


def test_reports_once_that_it_waits_for_a_place(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams wait at a time; later the server answers at once, and then it is slow again."""
    monkeypatch.setattr(connections, "_PLACE_NOTICE_S", 0.2)
    script.realtime = True
    reported: list[str] = []
    with serving(script) as port:
        connection = Connection(f"127.0.0.1:{port}", notify=reported.append, one_server=True)
        streams = connect_streams(connection, read_catalogue(), "en", None)
        window = np.zeros(streams.window_samples, dtype=np.float32)
        script.delay_s = 0.6
        threads = [
            threading.Thread(target=streams.step, args=(number, window), kwargs={"start": True, "end": False})
            for number in (1, 2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert reported == [
            f"waiting for a place: the server at {connection.endpoint} has not answered for 0 s, and its 4 places for "
            "streams may all be taken. The place of a client that vanished is free again after 60 s"
        ]
        # A window within a stream has its place.
        streams.step(1, window, start=False, end=True)
        script.delay_s = 0.0
        streams.step(3, window, start=True, end=True)
        assert len(reported) == 1
        script.delay_s = 0.6
        streams.step(4, window, start=True, end=True)
    assert len(reported) == 2


def test_states_how_long_it_waited_for_an_answer(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STEP_TIMEOUT_S", 0.3)
    script.realtime = True
    with serving(script) as port:
        streams = connect_streams(Connection(f"127.0.0.1:{port}", one_server=True), read_catalogue(), "en", None)
        window = np.zeros(streams.window_samples, dtype=np.float32)
        streams.step(1, window, start=True, end=False)
        script.delay_s = 1.0
        with pytest.raises(RequestError, match=r"^ensemble_en_standard did not answer within 0\.3 s$"):
            streams.step(1, window, start=False, end=False)
    # It is sent once: the server may have processed it.
    assert len(script.requests) == 2


def test_wait_for_a_place_ends_when_its_stream_is_cancelled(script: Script) -> None:
    script.realtime = True
    with serving(script) as port:
        streams = connect_streams(Connection(f"127.0.0.1:{port}", one_server=True), read_catalogue(), "en", None)
        is_over = threading.Event()
        session, window = streams.cancellable(is_over.is_set), np.zeros(streams.window_samples, dtype=np.float32)
        session.step(1, window, start=True, end=True)
        script.delay_s = 8.0
        threading.Timer(0.5, is_over.set).start()
        began_s = time.monotonic()
        with pytest.raises(CancelledRequestError):
            session.step(2, window, start=True, end=False)
        assert 0.4 < time.monotonic() - began_s < 3.0
        with pytest.raises(CancelledRequestError):
            session.step(2, window, start=True, end=False)
        assert len(script.requests) == 2
        # The other sessions go on.
        script.delay_s = 0.0
        streams.step(3, window, start=True, end=True)


def test_cancelled_stream_does_not_wait_for_a_server(script: Script) -> None:
    script.realtime = True
    with serving(script) as port:
        streams = connect_streams(Connection(f"127.0.0.1:{port}", one_server=True), read_catalogue(), "en", None)
    is_over = threading.Event()
    session, window = streams.cancellable(is_over.is_set), np.zeros(streams.window_samples, dtype=np.float32)
    threading.Timer(0.5, is_over.set).start()
    began_s = time.monotonic()
    with pytest.raises(CancelledRequestError):
        session.step(1, window, start=True, end=False)
    assert time.monotonic() - began_s < 10.0


def test_optional_models_survive_an_outage(script: Script) -> None:
    """A question for a model that gets no answer is repeated: it does not mean that the model is missing."""
    with serving(script) as port:
        connection = Connection(f"127.0.0.1:{port}", retry_timeout_s=20)
        assert connection.serves("decoder_standard")
        assert not connection.serves("lm_enhanced")
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(connection.serves("decoder_standard")))
    thread.start()
    time.sleep(0.5)
    with serving(script, port):
        thread.join()
    assert found == [True]


@pytest.mark.parametrize(
    ("status", "text", "sentence"),
    [
        (
            grpc.StatusCode.UNAUTHENTICATED,
            "no token",
            "it refuses the requests of this client (no token). Name the header",
        ),
        (grpc.StatusCode.PERMISSION_DENIED, "other", "it refuses the requests of this client (other). Name the header"),
        (grpc.StatusCode.UNIMPLEMENTED, "what?", "it is not a Triton server (what?). Name the gRPC port of a server."),
    ],
)
def test_refusal_of_every_request_ends_at_once(
    script: Script, status: grpc.StatusCode, text: str, sentence: str
) -> None:
    script.refusal = (status, text)
    with serving(script) as port:
        connection = Connection(f"127.0.0.1:{port}", retry_timeout_s=3600)
        with pytest.raises(ServerUnreachableError) as caught:
            connect(connection, read_catalogue(), "en", None)
    assert str(caught.value).startswith(f"{connection.endpoint}: {sentence}")


def test_opens_another_connection_after_every_pause(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay forgets a connection in the pause. No request waits, not even for a ping."""
    monkeypatch.setattr(connections, "IDLE_S", 0.2)
    with serving(script) as port, relaying(port, Relay(idle_s=0.4)) as relay:
        recogniser = connect(Connection(f"127.0.0.1:{relay.port}"), read_catalogue(), "en", None)
        for number in range(1, 4):
            began_s = time.monotonic()
            assert recogniser.recognise(audio(345)).encoder_length == 85
            assert time.monotonic() - began_s < 4
            assert relay.opened == number
            time.sleep(0.6)


def test_threads_without_a_pause_share_a_connection(script: Script) -> None:
    with serving(script) as port, relaying(port, Relay()) as relay:
        recogniser = connect(Connection(f"127.0.0.1:{relay.port}"), read_catalogue(), "en", None)
        threads = [threading.Thread(target=recogniser.recognise, args=(audio(345),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert relay.opened == 1


@pytest.mark.parametrize(
    ("addresses", "count"),
    [
        (["127.0.0.1"], 1),
        (["10.0.0.1", "10.0.0.2", "10.0.0.3"], 3),
        # A server of two families, and a name that is listed twice.
        (["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"], 2),
        (["10.0.0.1", "10.0.0.1"], 1),
        ([], 1),
    ],
)
def test_counts_the_servers_of_a_name(monkeypatch: pytest.MonkeyPatch, addresses: list[str], count: int) -> None:
    def resolve(_host: str, port: int, **_options: object) -> list[tuple[object, ...]]:
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in addresses]
        return [(family, 0, 0, "", (each, port)) for family, each in zip(families, addresses, strict=True)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    connection = Connection("servers.example:8001")
    assert connection.servers() == count
    # A deployment that grew is found after a while.
    addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert connection.servers() == count
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 31)
    assert connection.servers() == 4
    assert Connection("servers.example:8001", one_server=True).servers() == 1


def test_a_proxy_counts_as_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    assert Connection("servers.example:8001").servers() == 1
