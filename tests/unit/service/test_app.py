"""The application without a server: access, errors, request ids, metrics."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Request
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.testclient import TestClient, WebSocketDenialResponse

from contract.errors import AudioError, ServerUnreachableError
from service import app, core, health, logs
from service.core import Core, MakePart, Part, client_name
from service.errors import ApiError, speechmatics
from tests.unit.service.make import KEY, keys, settings

Make = Callable[..., TestClient]
BEARER = {"Authorization": f"Bearer {KEY}"}


def failing(_: Core) -> Part:
    """Return a part whose routes raise."""
    router = APIRouter(prefix="/v2")
    raised: dict[str, Exception] = {
        "api": ApiError(423, "Resource Locked", "the job is running"),
        "server": ServerUnreachableError("gpu:8001", "no server is ready there", "Start one"),
        "audio": AudioError("/secret/path", "it is empty (zero bytes)", "Check it"),
        "database": OperationalError("SELECT secret", {}, Exception("connection refused")),
        "busy database": PoolTimeoutError("secret"),
        "defect": ZeroDivisionError("secret"),
    }

    @router.get("/fail/{kind}")
    async def fail(kind: str) -> None:
        raise raised[kind]

    @router.get("/name")
    async def name(request: Request) -> str:
        return client_name(request)

    return Part(router=router, renders={"/v2": speechmatics, "/v1": lambda error: {"error": {"message": error.detail}}})


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(*parts: MakePart, **changed: Any) -> TestClient:
        shared = core.make(settings(tmp_path, **changed))
        built = [part(shared) for part in (health.part, *parts)]
        return TestClient(app.assemble(shared, built), base_url="http://localhost:8080", raise_server_exceptions=False)

    return made


@pytest.mark.parametrize(
    ("kind", "status", "error", "detail"),
    [
        ("api", 423, "Resource Locked", "the job is running"),
        ("server", 503, "Service Unavailable", "the inference server does not answer"),
        ("audio", 400, "Job rejected due to invalid audio", "it is empty (zero bytes)"),
        ("database", 503, "Service Unavailable", "the database does not answer"),
        ("busy database", 503, "Service Unavailable", "the database does not answer"),
        ("defect", 500, "Internal Server Error", "a defect of the service, which is in its log"),
    ],
)
def test_every_exception_is_json(make: Make, kind: str, status: int, error: str, detail: str) -> None:
    response = make(failing).get(f"/v2/fail/{kind}")
    assert response.status_code == status
    assert response.json() == {"code": status, "error": error, "detail": detail}


def test_unknown_paths_and_methods_are_json_of_their_protocol(make: Make) -> None:
    client = make(failing)
    assert client.get("/v2/nothing").json()["error"] == "Not Found"
    assert client.post("/live").json()["code"] == 405
    assert "message" in client.get("/v1/nothing").json()["error"]


def test_keys_are_demanded(make: Make, tmp_path: Path) -> None:
    client = make(failing, keys=keys(tmp_path))
    refused = client.get("/v2/name")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.json()["error"] == "Permission Denied"
    assert client.get("/v2/name", headers={"Authorization": "Bearer wrong-wrong-wrong"}).status_code == 401
    assert client.get("/v2/name", headers={"Authorization": f"Basic {KEY}"}).status_code == 401
    assert client.get("/v2/name", headers=BEARER).json() == "alice"
    assert client.get(f"/v2/name?jwt={KEY}").json() == "alice"


def test_operation_needs_no_key(make: Make, tmp_path: Path) -> None:
    client = make(keys=keys(tmp_path))
    assert client.get("/live").json() == {"alive": True, "live": True}
    assert client.get("/metrics").status_code == 200


def test_without_keys_pages_of_other_hosts_are_refused(make: Make) -> None:
    client = make(failing)
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example:8080"}):
        assert client.get("/v2/name", headers=headers).status_code == 403
    for headers in ({"Origin": "http://localhost:8080"}, {"Host": "127.0.0.1:8080"}, {"Host": "[::1]:8080"}):
        assert client.get("/v2/name", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:8080", 200),
        ("127.1.2.3", 200),
        ("[::1]:8080", 200),
        ("", 403),
        ("127.evil.example:8080", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("0.0.0.0:8080", 403),
        ("192.168.1.1:8080", 403),
        ("[::ffff:192.168.1.1]", 403),
        ("[::1", 400),
        ("::1]:8080", 400),
        ("127.0.0.1:8080.evil.example", 400),
        ("127.0.0.1:99999", 400),
    ],
)
def test_without_keys_only_names_of_this_machine_are_answered(make: Make, host: str, status: int) -> None:
    """Another host can make a name of its own resolve to this machine, and a browser then sends its page's requests."""
    client = make(failing)
    for headers in ({"Host": host}, {"Host": host, "Origin": f"http://{host}"}):
        assert client.get("/v2/name", headers=headers).status_code == status


@pytest.mark.parametrize("path", ["/v2/name", "/v2/fail/api", "/v2/nothing", "/v1/nothing", "/live"])
def test_malformed_host_is_an_error_of_the_client(make: Make, tmp_path: Path, path: str) -> None:
    for client in (make(failing), make(failing, keys=keys(tmp_path))):
        response = client.get(path, headers={**BEARER, "Host": "[::1"})
        assert response.status_code == 400
        assert "the header Host is not the name of a host" in response.text


def test_malformed_origin_is_another_host(make: Make) -> None:
    assert make(failing).get("/v2/name", headers={"Origin": "http://[::1"}).status_code == 403


def test_named_origins_may_call(make: Make, tmp_path: Path) -> None:
    client = make(failing, keys=keys(tmp_path), allowed_origins=("https://app.example",))
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    preflight = client.options("/v2/name", headers=headers)
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    named = client.get("/v2/name", headers={**BEARER, "Origin": "https://app.example"})
    assert named.json() == "alice"
    assert "X-Request-Id" in named.headers["access-control-expose-headers"]


def test_state_may_be_requested_without_a_body(make: Make) -> None:
    client = make()
    assert [client.head(path).status_code for path in ("/live", "/ready")] == [200, 503]


def test_refused_session_is_logged_and_counted(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    client = make(failing, keys=keys(tmp_path))
    with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/v2?jwt=wrong"):
        pass
    assert "INFO: WebSocket /v2 401" in capsys.readouterr().err
    assert 'voxwright_requests_total{route="other",status="401"} 1.0' in client.get("/metrics").text


def test_request_ids_are_kept_or_made(make: Make) -> None:
    client = make()
    assert client.get("/live", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert len(client.get("/live", headers={"X-Request-Id": "x\ty" * 40}).headers["x-request-id"]) == 36


def test_log_lines_are_json_with_the_request_id(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    make(failing, log_format="json").get("/v2/fail/defect", headers={"X-Request-Id": "abc-1"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {line["request_id"] for line in lines} == {"abc-1"}
    assert any("ZeroDivisionError" in line.get("traceback", "") for line in lines)
    assert lines[-1]["message"] == "GET /v2/fail/defect 500"
    assert lines[-1]["status"] == 500


def test_client_writes_no_line_of_its_own_into_the_log(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    client = make(failing)
    client.get("/nothing%0aERROR:%20forged%20line%1b[2J%e2%80%a8x%c3%a9")
    logs.warning("from\r\nERROR: forged \x85\u2028\x1b[2J\ud800 é")
    lines = capsys.readouterr().err.split("\n")
    assert lines[0].startswith("INFO: GET /nothing%0AERROR:%20forged%20line%1B%5B2J%E2%80%A8x%C3%A9 404 [")
    assert lines[1:] == [r"WARNING: from\r\nERROR: forged \x85\u2028\x1b[2J\ud800 é", ""]


def test_traceback_is_indented(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    try:
        raise ValueError("sent\n\nERROR: forged line")
    except ValueError:
        logs.exception("a request failed")
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == "ERROR: a request failed"
    assert "ValueError: sent" in rest[-3]
    assert all(line.startswith("  ") for line in rest)


def test_ready_names_what_is_missing(make: Make) -> None:
    client = make()
    response = client.get("/ready")
    assert (response.status_code, response.json()["ready"]) == (503, False)
    assert response.json()["problems"] == ["127.0.0.1:9: the server was not checked yet"]


def test_waiting_for_servers_ends_before_the_parts_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        yield
        ended.append("part")

    shared = core.make(settings(tmp_path))
    for server in shared.servers():
        monkeypatch.setattr(server, "close", lambda: ended.append("server"))
        monkeypatch.setattr(server, "watch", lambda: None)
    with TestClient(app.assemble(shared, [Part(router=APIRouter(), running=running)])):
        assert ended == []
    assert ended == ["server", "part"]


def test_metrics_count_requests(make: Make) -> None:
    client = make(failing)
    client.get("/v2/fail/api")
    client.get("/v2/nothing")
    text = client.get("/metrics").text
    assert 'voxwright_requests_total{route="/v2/fail/{kind}",status="423"} 1.0' in text
    assert 'voxwright_requests_total{route="other",status="404"} 1.0' in text
    assert "voxwright_ready 0.0" in text
