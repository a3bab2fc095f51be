"""Test the health probe against a small HTTP server."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from contract.errors import ProbeError
from runtime import probe
from tests.ports import free_ports
from tests.unit.runtime import synthetic

ROOT = Path(__file__).parents[3]
STATISTICS = {"model_stats": [{"name": "odd"}, {"name": "body_standard"}, {"name": "body_standard"}]}
LOOK = "Read the server's log; `python -m runtime.doctor` reports what would stop a start"
RESTART = "Restart the server; if that does not help, build the engines again with `python -m build.engines`"


@contextmanager
def answering(paths: dict[str, tuple[int, bytes]], *, live: int = 200, ready: int = 200) -> Iterator[str]:
    """Serve fixed answers by path; yield the address."""
    states = {"/v2/health/live": (live, b""), "/v2/health/ready": (ready, b"")}
    known = {**states, "/v2/models/stats": (200, json.dumps(STATISTICS).encode()), **paths}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = known.get(self.path, (404, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    with serving(Handler) as url:
        yield url


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve with a handler; yield the address."""
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def run(url: str, *options: str) -> str:
    called = CliRunner().invoke(probe.command, ["--url", url, "--timeout", "0", *options])
    return str(called.exception) if called.exception else called.output


READY = {"/v2/models/body_standard/ready": (200, b""), "/v2/models/odd/ready": (200, b"")}


def test_ready() -> None:
    with answering(READY) as url:
        assert run(f"{url}/") == f"{url}: ready, 2 models: body_standard, odd\n"


def test_follows_no_redirect() -> None:
    """The headers of a client, such as a token, are for its server alone."""
    reached = list[str]()

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reached.append(self.path)
            self.send_response(200)
            self.end_headers()

    class Gateway(Elsewhere):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", other)
            self.end_headers()

    with serving(Elsewhere) as other, serving(Gateway) as url:
        problem = run(url, "--live", "--header", "authorization: Bearer secret")
    assert problem == f"{url}: not live after 0 s: the server is not live (HTTP 302). {LOOK}."
    assert reached == []


def test_ends_an_answer_that_comes_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_ANSWER_S", 0.3)

    class Drips(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b" ")
                    time.sleep(0.05)

    with serving(Drips) as url:
        problem = "no HTTP server answers (the answer is not complete after 0.3 s)"
        assert run(url, "--live") == f"{url}: not live after 0 s: {problem}. {LOOK}."


def test_live() -> None:
    with answering({}, ready=400) as url:
        assert run(url, "--live") == f"{url}: live\n"


@pytest.mark.parametrize(
    ("states", "option", "state", "problem"),
    [
        ({"live": 503}, "--live", "live", "the server is not live (HTTP 503)"),
        ({"live": 503}, "--inference", "ready", "the server is not live (HTTP 503)"),
        ({"ready": 400}, "--inference", "ready", "the server is not ready (HTTP 400)"),
    ],
)
def test_not_ready(states: dict[str, int], option: str, state: str, problem: str) -> None:
    with answering({}, **states) as url:
        assert run(url, option) == f"{url}: not {state} after 0 s: {problem}. {LOOK}."


def test_no_server() -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    problem = "no HTTP server answers ([Errno 111] Connection refused)"
    assert run(url) == f"{url}: not ready after 0 s: {problem}. {LOOK}."


@pytest.mark.parametrize(
    ("url", "code", "expected"),
    [("http://127.0.0.1:1", 51, "error: http://127.0.0.1:1: not ready"), ("localhost:8000", 2, "Error: Invalid value")],
)
def test_exit_codes(url: str, code: int, expected: str) -> None:
    command = [sys.executable, "-m", "runtime.probe", "--url", url, "--timeout", "0"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (code, "")
    assert expected in result.stderr


def test_default_address_uses_the_port_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("VOXWRIGHT_HTTP_PORT", str(port))
    expected = str(CliRunner().invoke(probe.command, ["--timeout", "0"]).exception)
    assert expected.startswith(f"http://localhost:{port}: not ready after 0 s: ")


METADATA = {
    "inputs": [{"name": "audio", "shape": [-1, -1]}, {"name": "audio_lengths", "shape": [-1, 1]}],
    "outputs": [],
}
BODY = {**READY, "/v2/models/body_standard": (200, json.dumps(METADATA).encode())}


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (500, b'{"error":"the stub is dead"}', "it fails: the stub is dead"),
        (503, b"<html>", "it fails: HTTP 503"),
        (200, b"{}", "its answer does not follow Triton's protocol"),
        (200, b"\x00", "its answer does not follow Triton's protocol"),
    ],
)
def test_rejects_model_without_a_valid_answer(status: int, body: bytes, cause: str) -> None:
    with answering({**BODY, "/v2/models/body_standard/infer": (status, body)}) as url:
        assert run(url, "--inference") == f"model body_standard: {cause}. {RESTART}."


def test_rejects_model_that_takes_features() -> None:
    """As older releases do."""
    metadata = {"inputs": [{"name": "features", "shape": [-1, -1, 80]}, {"name": "feature_lengths", "shape": [-1, 1]}]}
    with answering({**READY, "/v2/models/body_standard": (200, json.dumps(metadata).encode())}) as url:
        assert run(url, "--inference") == (
            "model body_standard: it has no input audio, only features, feature_lengths: it is not of this release or "
            "catalogue. Use the probe of the server's release, or name the catalogue of the server with --catalogue."
        )


def test_reads_the_catalogue_beside_the_engines_as_the_server_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of a user's own may have the name of a reference model and other inputs."""
    synthetic.write_catalogue(tmp_path / "catalogue", "quick")
    monkeypatch.setenv("VOXWRIGHT_ENGINES", str(tmp_path))
    with answering(BODY) as url:
        assert run(url, "--inference") == (
            f"{url}: ready, 2 models: body_standard, odd; 0 answered correctly; not in the catalogue, so not checked: "
            "body_standard, odd\n"
        )


def test_rejects_model_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(ProbeError) as refusal:
        # The kernel accepts the connection, and no process answers.
        probe.infer(f"http://127.0.0.1:{listener.getsockname()[1]}", "body_standard", synthetic.FAMILIES["body"], 0.2)
    assert str(refusal.value) == f"model body_standard: it does not answer within 0.2 s (timed out). {RESTART}."
    assert refusal.value.exit_code == 47


def test_rejects_server_that_does_not_list_its_models() -> None:
    with answering({"/v2/models/stats": (200, b"[]")}) as url:
        assert run(url).startswith(f"{url}: it does not list its models (")


def test_wait_polls_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["nothing answers", "the server is not ready", None])
    monkeypatch.setattr(probe, "check", lambda *_: next(answers))
    monkeypatch.setattr(probe, "_PAUSE_S", 0.0)
    assert probe.wait("http://host", 60.0) is None


def test_models() -> None:
    with answering({"/v2/models/body_standard/ready": (200, b"")}) as url:
        assert probe.models(url) == {"body_standard": "READY", "odd": "UNAVAILABLE"}


@pytest.mark.parametrize("url", ["http://localhost:abc", "http://[::1", "http://localhost:99999"])
def test_reports_malformed_address(url: str) -> None:
    assert str(probe.check(url)).startswith("no HTTP server answers (")


def test_reports_port_of_another_protocol() -> None:
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
    assert str(problem).startswith("no HTTP server answers (")
