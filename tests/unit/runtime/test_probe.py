"""The probe against a server of a few lines."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from runtime import probe
from tests.unit.runtime.test_launch import free_port

INDEX = [{"name": "body_standard", "version": "1", "state": "READY"}, {"name": "odd", "version": "1"}]


@contextmanager
def answering(*, live: int = 200, ready: int = 200) -> Iterator[str]:
    """Serve fixed states; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(live if self.path == "/v2/health/live" else ready)

        def do_POST(self) -> None:
            self._answer(200, json.dumps(INDEX).encode())

        def _answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def run(url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = probe.run(probe.parse(["--url", url, "--timeout", "0"]))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with answering() as url:
        assert run(f"{url}/", capsys) == (0, f"{url}: ready, 2 models: body_standard, odd\n", "")


@pytest.mark.parametrize(
    ("states", "problem"), [({"live": 503}, "live (HTTP 503)"), ({"ready": 400}, "ready (HTTP 400)")]
)
def test_not_ready(states: dict[str, int], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(**states) as url:
        assert run(url, capsys) == (1, "", f"{url}: not ready after 0 s: the server is not {problem}\n")


def test_nothing_there(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    expected = f"{url}: not ready after 0 s: nothing answers that speaks HTTP ([Errno 111] Connection refused)\n"
    assert run(url, capsys) == (1, "", expected)


def test_wait_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["nothing answers", "the server is not ready", None])
    monkeypatch.setattr(probe, "check", lambda _: next(answers))
    monkeypatch.setattr(probe, "_PAUSE_S", 0.0)
    assert probe.wait("http://host", 60.0) is None


def test_models() -> None:
    with answering() as url:
        assert probe.models(url) == {"body_standard": "READY", "odd": "UNKNOWN"}


def test_an_address_without_a_scheme(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        probe.parse(["--url", "localhost:8000"])
    assert left.value.code == 2
    assert "--url: 'localhost:8000' does not start with http://" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://localhost:abc", "http://[::1", "http://localhost:99999"])
def test_an_address_that_is_none_is_said(url: str) -> None:
    assert str(probe.check(url)).startswith("nothing answers that speaks HTTP (")


def test_a_port_that_speaks_something_else_is_said() -> None:
    """The gRPC port is the likely mistake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1024)
                connection.sendall(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        problem = probe.check(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert str(problem).startswith("nothing answers that speaks HTTP (")
