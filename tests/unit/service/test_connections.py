"""Connections without a request, with a real server and real sockets."""

import contextlib
import logging
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service import connections, logs

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], socket.socket]]:
    """Yield a function that opens a connection to a server that waits half a second, and serves eight at a time."""
    monkeypatch.setattr(connections, "WAIT_S", 0.5)
    monkeypatch.setattr(connections.Http, "most", 8)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(answering, http=connections.Http, lifespan="off", log_config=None, timeout_keep_alive=60)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with contextlib.ExitStack() as opened:

        def connected() -> socket.socket:
            return opened.enter_context(socket.create_connection(listener.getsockname(), timeout=10))

        yield connected
    server.should_exit = True
    thread.join(10)


def is_answered(connection: socket.socket) -> bool:
    """Send a request and read its answer; return False where the connection was closed."""
    answer = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(REQUEST)
        while not answer.endswith(b"ok") and (part := connection.recv(1000)):
            answer += part
    return answer.endswith(b"ok")


def is_closed(connection: socket.socket) -> bool:
    """Wait until the server closes a connection."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\n"])
@pytest.mark.parametrize("is_used", [False, True])
def test_connection_without_a_request_is_closed(
    connect: Callable[[], socket.socket], start: bytes, is_used: bool
) -> None:
    """At its beginning and after a request, each before and within a header."""
    connection = connect()
    assert not is_used or is_answered(connection)
    connection.sendall(start)
    assert is_closed(connection)


def test_slow_header_is_not_waited_for(connect: Callable[[], socket.socket]) -> None:
    connection, started = connect(), time.monotonic()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while time.monotonic() < started + 10:
            connection.sendall(b"GET / HTTP/1.1\r\nX: " if time.monotonic() < started + 0.1 else b"a")
            time.sleep(0.05)
    assert time.monotonic() < started + 5


def test_requests_keep_a_connection_open(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    for _ in range(4):
        assert is_answered(connection)
        time.sleep(0.3)


def test_more_connections_than_fit_are_closed_at_once(connect: Callable[[], socket.socket]) -> None:
    opened = [connect() for _ in range(8)]
    assert is_closed(connect())
    assert is_answered(opened[0])
    opened[1].close()
    end = time.monotonic() + 10
    while not is_answered(connect()):
        assert time.monotonic() < end, "no place became free"


@pytest.mark.parametrize(("limits", "most"), [((256, 256), 64), ((1024, 1024), 512), ((1024, 4096), 3584)])
def test_connections_leave_files_to_the_rest(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, values: raised.append(values))
    assert connections.raise_limit() == most
    assert raised == ([] if limits[0] == limits[1] else [(limits[1], limits[1])])


def test_repeated_lines_of_the_loop_are_logged_once_in_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    for _ in range(1000):
        logging.getLogger("asyncio").error("socket.accept() out of system resource")
    logging.getLogger("asyncio").error("another")
    assert capsys.readouterr().err == "ERROR: socket.accept() out of system resource\nERROR: another\n"
