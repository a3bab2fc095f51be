"""Calls to a server in this process: how they are repeated, how long they wait, and how outages are reported."""

import threading
import time

import grpc
import numpy as np
import pytest

from contract.catalogue import read_catalogue
from contract.errors import ServerContractError, ServerUnreachableError
from tests.unit.transcriber.server import Script, serving
from transcriber.audio import Samples
from transcriber.connection import Connection, _Outage
from transcriber.recogniser import RequestError
from transcriber.triton_recogniser import TritonRecogniser, connect


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
