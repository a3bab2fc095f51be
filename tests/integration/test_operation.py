"""The real server in operation: restricted interfaces, a licence, graceful shutdown, crashes, kills under load."""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from contract.frames import FrameRule
from runtime import answers, licence, probe
from runtime.answers import Array
from runtime.licence_file import Licence
from tests.integration import serving
from tests.integration.networks import slow_body
from tests.integration.requests import Arrays, tensors
from tests.integration.serving import Running

pytestmark = pytest.mark.integration
ADMIN_KEY = "0123456789abcdef0123456789abcdef"
STANDARD = ["am_en_standard", "body_standard", "decoder_standard", "diar_standard", "ensemble_en_standard"]
# Encoder frames of a request.
FRAMES = 2
# The steps of a short request (after four of them the products are all but zero), and those whose time shows how fast
# this machine is; a step takes about a millisecond.
SHORT, MEASURED = 4, 500
# The duration of a request that takes longer than everything that a test does while it runs.
LONG_S = 8.0
BODY = FrameRule.of((400, 160), (3, 2), (3, 2))
SAMPLES = BODY.shortest + (FRAMES - 1) * BODY.hop
TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    serving.write_bundle(folder / "embedded" / "cpu", body_standard=slow_body())
    return folder


@pytest.fixture(scope="module")
def closed(engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with all that an operator may configure: licence, admin key, JSON log."""
    folder = tmp_path_factory.mktemp("closed")
    (folder / "admin.key").write_text(f"{ADMIN_KEY}\n")
    variables = {
        **licensed(folder, "standard"),
        "VOXWRIGHT_ADMIN_KEY": str(folder / "admin.key"),
        "VOXWRIGHT_LOG_FORMAT": "json",
        "VOXWRIGHT_THREADS": "1",
    }
    with serving.started(engines, folder, **variables) as running:
        serving.wait_ready(running)
        yield running


def licensed(folder: Path, *points: str) -> dict[str, str]:
    """Issue a licence that expires in ten days and return the environment variables that name it."""
    key, today = Ed25519PrivateKey.generate(), datetime.now(UTC).replace(microsecond=0)
    (folder / "private.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "vendor.pem").write_bytes(public)
    terms = Licence(
        product="voxwright",
        licensee="Example Ltd",
        not_before=today,
        expires=today + timedelta(days=10, hours=1),
        operating_points=points,
        languages=("en",),
    )
    licence.issue(terms, folder / "private.pem", folder / "license.json")
    return {"VOXWRIGHT_LICENCE": f"{folder}/license.json", "VOXWRIGHT_VENDOR_KEY": f"{folder}/vendor.pem"}


def speech(steps: int) -> Arrays:
    """Return a recording of FRAMES encoder frames that keeps the slow body busy for a number of steps."""
    return {
        "audio": np.full((1, SAMPLES), steps, dtype=np.float32),
        "audio_lengths": np.array([[SAMPLES]], dtype=np.int32),
    }


def over_grpc(server: Running, steps: int, timeout_s: float = TIMEOUT_S) -> int:
    """Send a request to the slow body and return the encoder length of its response."""
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        result = client.infer("body_standard", tensors(speech(steps)), client_timeout=timeout_s)
        return int(result.as_numpy("encoder_lengths")[0, 0])


def over_http(server: Running, steps: int, timeout_s: float = TIMEOUT_S) -> int:
    """Send the same request over HTTP."""
    request = {
        "audio": Array(type="FP32", shape=(1, SAMPLES), values=(float(steps),) * SAMPLES),
        "audio_lengths": Array(type="INT32", shape=(1, 1), values=(SAMPLES,)),
    }
    body, headers = answers.encode(request)
    with opened(server, "/v2/models/body_standard/infer", body, headers, timeout_s) as response:
        answer = answers.decode(response.read(), int(response.headers[answers.HEADER_LENGTH]))
    return int(answer["encoder_lengths"].values[0])


def steps_of(server: Running, duration_s: float) -> int:
    """Return the steps that keep the slow body busy for a time, however fast this machine is."""

    def measured() -> float:
        start = time.monotonic()
        over_grpc(server, MEASURED)
        return time.monotonic() - start

    # The fastest of several: a busy machine may soon be less busy.
    return round(duration_s * MEASURED / min(measured() for _ in range(3)))


def opened(server: Running, path: str, body: bytes | None, headers: dict[str, str], timeout_s: float) -> Any:
    request = urllib.request.Request(f"{server.url}{path}", body, headers)  # noqa: S310 - a server of these tests
    return urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310


def lines(server: Running) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


def test_licence_limits_operating_points(closed: Running) -> None:
    assert list(probe.models(closed.url)) == STANDARD
    first, *rest = lines(closed)
    assert re.fullmatch(
        r"licensed to Example Ltd until \d{4}-\d\d-\d\d \d\d:\d\d UTC: standard in en; "
        r"not licensed, so not served: operating point enhanced",
        first["message"],
    )
    assert ["in 10 days, but a licence that ends later is required" in line["message"] for line in rest].count(
        True
    ) == 1
    assert [line["level"] for line in rest if "a licence that ends later" in line["message"]] == ["warning"]
    assert any(
        "am_en_enhanced/batch" in line["message"]
        and line["message"].endswith("operating point enhanced is not licensed")
        for line in rest
    )


def test_rejects_unlicensed_operating_point(engines: Path, tmp_path: Path) -> None:
    variables = serving.environment(**licensed(tmp_path, "standard"), SM_OPERATING_POINT="enhanced")
    command = serving.command(engines, tmp_path / "repository")
    result = subprocess.run(
        command, env=variables, cwd=serving.ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 46
    assert result.stderr.splitlines()[-1] == (
        f"error: {tmp_path}/license.json: operating point enhanced is not licensed, only standard. "
        "Set SM_OPERATING_POINT to a licensed one, or request a licence for this one from the vendor."
    )


def test_log_lines_of_triton_have_a_full_date(closed: Running) -> None:
    others = [line for line in closed.log.read_text().splitlines() if not line.startswith("{")]
    assert any(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ I ", line) for line in others)


ADMIN = {
    "/v2/repository/index": b"{}",
    "/v2/repository/models/body_standard/unload": b"{}",
    "/v2/systemsharedmemory/status": None,
    "/v2/systemsharedmemory/region/r/register": b'{"key": "/r", "byte_size": 8}',
    "/v2/trace/setting": None,
    "/v2/logging": None,
}


def http_status(server: Running, path: str, body: bytes | None, **headers: str) -> tuple[int, str]:
    try:
        with opened(server, path, body, headers, TIMEOUT_S) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("path", ADMIN)
@pytest.mark.parametrize("headers", [{}, {"admin-key": "wrong"}], ids=["no key", "wrong key"])
def test_administration_interface_is_restricted(closed: Running, path: str, headers: dict[str, str]) -> None:
    status, body = http_status(closed, path, ADMIN[path], **headers)
    assert (status, json.loads(body)) == (403, {"error": "This API is restricted, expecting header 'admin-key'"})


def test_admin_key_opens_administration_interfaces(closed: Running) -> None:
    status, body = http_status(closed, "/v2/repository/index", b"{}", **{"admin-key": ADMIN_KEY})
    assert status == 200
    assert [entry["name"] for entry in json.loads(body)] == STANDARD
    # Models still cannot be changed, because model control is off.
    status, body = http_status(closed, "/v2/repository/models/body_standard/unload", b"{}", **{"admin-key": ADMIN_KEY})
    assert status != 200
    assert "explicit model load / unload is not allowed" in body
    assert probe.check(closed.url) is None


Call = Callable[..., object]
GRPC: dict[str, Callable[[triton.InferenceServerClient], Call]] = {
    "model-repository": lambda client: client.get_model_repository_index,
    "shared-memory": lambda client: client.get_system_shared_memory_status,
    "trace": lambda client: client.get_trace_settings,
    "logging": lambda client: client.get_log_settings,
}


@pytest.mark.parametrize("api", GRPC)
def test_grpc_administration_is_restricted(closed: Running, api: str) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{closed.grpc}") as client:
        for headers in (None, {"triton-grpc-protocol-admin-key": "wrong"}):
            with pytest.raises(InferenceServerException, match="expecting header 'triton-grpc-protocol-admin-key'"):
                GRPC[api](client)(headers=headers)
        GRPC[api](client)(headers={"triton-grpc-protocol-admin-key": ADMIN_KEY})


def test_client_interfaces_are_open(closed: Running) -> None:
    assert over_grpc(closed, SHORT) == over_http(closed, SHORT) == FRAMES
    with triton.InferenceServerClient(f"127.0.0.1:{closed.grpc}") as client:
        assert client.is_server_ready()
        assert client.get_model_metadata("body_standard").name == "body_standard"
        assert client.get_model_config("body_standard").config.name == "body_standard"
        assert client.get_inference_statistics("body_standard").model_stats[0].name == "body_standard"


@pytest.mark.parametrize("send", [over_grpc, over_http])
def test_completes_request_in_flight_before_shutdown(engines: Path, tmp_path: Path, send: Callable[..., int]) -> None:
    with serving.started(engines, tmp_path, SM_OPERATING_POINT="standard", VOXWRIGHT_THREADS="1") as server:
        serving.wait_ready(server)
        steps = steps_of(server, LONG_S)
        with ThreadPoolExecutor(max_workers=1) as pool:
            answer: Future[int] = pool.submit(send, server, steps)
            time.sleep(1.0)
            server.process.send_signal(signal.SIGTERM)
            refused_over_http(server)
            # While HTTP drains, Triton 2.51 still responds over gRPC.
            if send is over_grpc:
                no_longer_ready_over_grpc(server)
                with pytest.raises(InferenceServerException):
                    over_grpc(server, SHORT)
            # The request was still in flight during all of the above.
            assert not answer.done()
            assert answer.result(TIMEOUT_S) == FRAMES
        assert server.process.wait(TIMEOUT_S) == 0


def refused_over_http(server: Running) -> None:
    """Wait until the server refuses a new connection."""
    end = time.monotonic() + TIMEOUT_S
    while probe.check(server.url) is None:
        assert time.monotonic() < end, "the server accepts new connections after SIGTERM"
        time.sleep(0.02)


def no_longer_ready_over_grpc(server: Running) -> None:
    """Wait until the server is not ready over gRPC or does not respond: HTTP alone may only have been slow."""
    end = time.monotonic() + TIMEOUT_S
    with contextlib.suppress(InferenceServerException), triton.InferenceServerClient(f"127.0.0.1:{server.grpc}") as it:
        while it.is_server_ready():
            assert time.monotonic() < end, "the server is ready after SIGTERM"
            time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_crash_ends_the_process_with_its_signal(engines: Path, tmp_path: Path, number: signal.Signals) -> None:
    with serving.started(engines, tmp_path, SM_OPERATING_POINT="standard") as server:
        serving.wait_ready(server)
        os.kill(server.process.pid, number)
        assert server.process.wait(TIMEOUT_S) == -number
        end_stubs(server)


def end_stubs(server: Running) -> None:
    try:
        os.killpg(server.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


CLIENTS, DEADLINE_S = 4, 5.0


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_under_load(engines: Path, tmp_path: Path, kills: int) -> None:
    """Start, load, kill, repeatedly. Every start succeeds, and no client waits past its deadline."""
    for kill in range(kills):
        with serving.started(engines, tmp_path, SM_OPERATING_POINT="standard", VOXWRIGHT_THREADS="1") as server:
            serving.wait_ready(server)
            over_since: list[float] = []
            answered = threading.Semaphore(0)
            clients = [
                threading.Thread(target=load, args=(server, answered, over_since), daemon=True) for _ in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            # All clients are active, so that the kill meets requests in flight.
            assert all(answered.acquire(timeout=TIMEOUT_S) for _ in range(2 * CLIENTS))
            # In turn the server alone, whose stub processes then live on for a while, and the whole process group.
            (os.kill if kill % 2 else os.killpg)(server.process.pid, signal.SIGKILL)
            for client in clients:
                client.join(2 * DEADLINE_S)
            assert not any(client.is_alive() for client in clients)
            assert max(over_since) <= DEADLINE_S + 1
            assert server.process.wait(TIMEOUT_S) == -signal.SIGKILL
            end_stubs(server)


def load(server: Running, answered: threading.Semaphore, over_since: list[float]) -> None:
    """Send one request after the other until one fails, and record how long that one took."""
    while True:
        start = time.monotonic()
        try:
            assert over_grpc(server, SHORT, timeout_s=DEADLINE_S) == FRAMES
        except InferenceServerException:
            over_since.append(time.monotonic() - start)
            return
        answered.release()
