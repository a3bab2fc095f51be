"""Batch jobs in operation: restarts, several services, PostgreSQL, notifications, fetching, bad input, limits.

The recordings are noise that comes and goes, so that the jobs are fast.
"""

import email
import io
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.files import write
from service.jobs.database import Database
from tests.integration import postgres, receiver, services
from tests.integration.receiver import Receiver
from tests.integration.services import Service, submit
from tests.integration.serving import Running
from tests.unit.service.make import KEY

pytestmark = pytest.mark.integration
END_S = 60.0
LOCAL = ("--fetch-host=127.0.0.1", "--notify-host=127.0.0.1", "--lease=2")


def tone(seconds: float, seed: int = 1) -> bytes:
    """Return a WAV file of noise that comes and goes, as speech does."""
    generator = random.Random(seed)
    loud = bytes(generator.randrange(256) for _ in range(16_000))
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(16_000)
        for part in range(max(1, round(seconds * 2))):
            target.writeframes(loud if part % 2 else bytes(16_000))
    return file.getvalue()


@pytest.fixture
def options(server: Running) -> tuple[str, ...]:
    return (f"--endpoint=127.0.0.1:{server.grpc}", *LOCAL)


@pytest.fixture(scope="module")
def service(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service with small limits, which every test leaves alive."""
    limits = ("--largest-upload=3", "--longest-recording=0.05", "--idle-upload=1", "--unfinished-jobs=50")
    place = f"--endpoint=127.0.0.1:{server.grpc}"
    with services.started(tmp_path_factory.mktemp("service"), place, *LOCAL, *limits) as running:
        yield running


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver.started() as state:
        yield state


def wait_for(found: Callable[[], Any], seconds: float = END_S) -> Any:
    """Return what a function returns once it is true; fail after a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = found()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError(f"nothing after {seconds} s")


def ended(client: httpx.Client, job: str) -> dict[str, Any]:
    """Wait for the end of a job and return it."""
    shown = client.get(f"/v2/jobs/{job}?wait={END_S}").json()["job"]
    assert shown["status"] != "running"
    return dict(shown)


def test_jobs_survive_a_kill(options: tuple[str, ...], tmp_path: Path) -> None:
    first = services.start(tmp_path, *options)
    services.wait_ready(first)
    with first.client() as client:
        jobs = [submit(client, tone(8, seed)).json()["id"] for seed in range(6)]
    first.kill()
    with services.started(tmp_path, *options) as second, second.client() as client:
        assert {ended(client, job)["status"] for job in jobs} == {"done"}
        assert len(client.get(f"/v2/jobs/{jobs[0]}/transcript").json()["results"]) >= 0


def test_stopped_service_leaves_its_job_to_others_at_once(options: tuple[str, ...], tmp_path: Path) -> None:
    """The lease of a day does not keep another service waiting."""
    slow = (*options, "--lease=86400", "--drain=0", "--parallel=1", "--in-flight=1")
    with services.started(tmp_path, *slow, name="first") as first, first.client() as client:
        jobs = [submit(client, tone(90, seed)).json()["id"] for seed in range(3)]
    with services.started(tmp_path, *slow, name="second") as second, second.client() as client:
        assert [ended(client, job)["status"] for job in jobs] == ["done"] * 3


def test_service_drains(options: tuple[str, ...], tmp_path: Path) -> None:
    """After SIGTERM a service finishes what it works on, answers 503 on /ready, and ends with 0."""
    service = services.start(tmp_path, *options, "--drain=60", "--parallel=1", "--in-flight=1")
    services.wait_ready(service)
    with service.client() as client:
        job = submit(client, tone(170)).json()["id"]
        wait_for(lambda: 'voxwright_jobs{state="running"} 1.0' in client.get("/metrics").text)
        service.process.terminate()
        states = []
        try:
            while True:
                states.append(client.get("/ready").status_code)
                time.sleep(0.02)
        except httpx.TransportError:
            pass
    assert service.process.wait(60) == 0, service.log.read_text()
    assert set(states) <= {200, 503}
    database = Database(f"sqlite:///{tmp_path}/jobs.sqlite")
    found = database.find(job)
    database.close()
    assert found is not None
    assert found.state == "done"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_services_that_are_killed_do_200_jobs_once(
    kind: str, options: tuple[str, ...], there: Receiver, tmp_path: Path
) -> None:
    """Every job is done once, none is lost, none is doubled, and each end is notified at least once."""
    if kind == "sqlite":
        kill_and_count(f"sqlite:///{tmp_path}/jobs.sqlite", options, there, tmp_path)
        return
    with postgres.started() as url:
        kill_and_count(url, options, there, tmp_path)


def kill_and_count(url: str, options: tuple[str, ...], there: Receiver, folder: Path) -> None:
    chosen = (*options, f"--database={url}")
    generator = random.Random(7)
    running = [services.start(folder, *chosen, name=name) for name in ("a", "b")]
    stop, kills = threading.Event(), Counter[int]()

    def kill_at_random(which: int) -> None:
        while not stop.is_set():
            services.wait_ready(running[which])
            stop.wait(generator.uniform(0.2, 4.0))
            running[which].kill()
            kills[which] += 1
            running[which] = services.start(folder, *chosen, name="ab"[which])

    killers = [threading.Thread(target=kill_at_random, args=(which,)) for which in range(2)]
    hook = [{"url": f"{there.url}/hook", "contents": ["transcript.txt"]}]
    jobs: list[str] = []
    try:
        for killer in killers:
            killer.start()
        while len(jobs) < 200:
            jobs += submitted(running[generator.randrange(2)], tone(1.0 + len(jobs) % 5, len(jobs)), hook)
        wait_for(lambda: min(kills[0], kills[1]) >= 3, 240)
        stop.set()
        for killer in killers:
            killer.join()
        wait_for(lambda: not count_unfinished(url), 240)
        wait_for(lambda: {job_of(each.path) for each in there.received} >= set(jobs), 60)
    finally:
        stop.set()
        for killer in killers:
            killer.join()
        for service in running:
            service.kill()
    check_done(url, jobs, folder)


def submitted(service: Service, recording: bytes, hook: list[dict[str, Any]]) -> list[str]:
    """Submit a job; return its id, or nothing where the service was killed: it may then be stored or not."""
    try:
        with service.client() as client:
            answer = submit(client, recording, notification_config=hook)
    except httpx.TransportError:
        time.sleep(0.1)
        return []
    assert answer.status_code == 201, answer.text
    return [answer.json()["id"]]


def check_done(url: str, jobs: list[str], folder: Path) -> None:
    """Check that each job is done, once, and that its transcript is stored."""
    database = Database(url)
    found = [database.find(job) for job in jobs]
    database.close()
    for job in found:
        assert job is not None
        assert (job.state, job.transcript_key is None) == ("done", False)
        # A worker that was killed after it stored its result leaves one that no job refers to.
        assert (folder / "files" / (job.transcript_key or "")).is_file()
    logs = "".join((folder / f"{name}.log").read_text() for name in "ab")
    done = Counter(re.findall(r"job done \[(\w+)\]", logs))
    assert max(done.values()) == 1, "a job was done twice"


def count_unfinished(url: str) -> int:
    database = Database(url)
    try:
        return sum(database.unfinished().values())
    finally:
        database.close()


def job_of(path: str) -> str:
    return dict(httpx.QueryParams(path.partition("?")[2]))["id"]


def test_postgres_serves_two_services(options: tuple[str, ...], tmp_path: Path) -> None:
    """A job that one service received is shown by the other."""
    with postgres.started() as url:
        shared = (*options, f"--database={url}")
        with (
            services.started(tmp_path, *shared, name="a") as first,
            services.started(tmp_path, *shared, name="b") as second,
            first.client() as one,
            second.client() as two,
        ):
            jobs = [submit(one, tone(2, seed)).json()["id"] for seed in range(10)]
            assert {ended(two, job)["status"] for job in jobs} == {"done"}
            logs = first.log.read_text() + second.log.read_text()
            assert Counter(re.findall(r"job done \[(\w+)\]", logs)) == Counter(jobs)


def test_notification_with_the_transcript(service: Service, there: Receiver) -> None:
    there.statuses += [500, 503]
    with service.client() as client:
        hook = {"url": f"{there.url}/hook?token=1", "auth_headers": ["Authorization: Bearer x"]}
        job = submit(client, tone(2), notification_config=[hook]).json()["id"]
        ended(client, job)
        wait_for(lambda: len(there.received) == 3)
        assert "errors" not in ended(client, job)
    sent = there.received[-1]
    assert (sent.method, sent.path) == ("POST", f"/hook?token=1&id={job}&status=success")
    assert sent.headers["user-agent"] == "Speechmatics-API/2.0"
    assert sent.headers["authorization"] == "Bearer x"
    parts = form(sent.headers["content-type"], sent.body)
    assert json.loads(parts["data_file"])["job"]["id"] == job


@pytest.mark.parametrize(
    ("contents", "kind", "names"),
    [
        ([], None, None),
        (["transcript.txt"], "text/plain", None),
        (["jobinfo"], "application/json", None),
        (["data"], "multipart/form-data", {"data"}),
        (["jobinfo", "transcript.srt"], "multipart/form-data", {"jobinfo", "transcript.srt"}),
    ],
)
def test_contents_of_notifications(
    service: Service, there: Receiver, contents: list[str], kind: str | None, names: set[str] | None
) -> None:
    with service.client() as client:
        hook = {"url": f"{there.url}/hook", "contents": contents, "method": "put"}
        submit(client, tone(2), notification_config=[hook])
        (sent,) = wait_for(lambda: there.received)
    assert sent.method == "PUT"
    assert sent.headers.get("content-type", "").partition(";")[0] == (kind or "")
    if kind is None:
        assert sent.body == b""
    if names is not None:
        assert set(form(sent.headers["content-type"], sent.body)) == names


def form(content_type: str, body: bytes) -> dict[str, bytes]:
    """Return the parts of a form by their names."""
    message = email.message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)  # type: ignore[misc]
        for part in message.walk()
        if not part.is_multipart()
    }


def test_recording_is_fetched(service: Service, there: Receiver) -> None:
    there.files["/talk.wav"] = tone(2)
    there.redirects["/moved"] = f"{there.url}/talk.wav"
    with service.client() as client:
        wanted = {"url": f"{there.url}/moved", "auth_headers": ["X-Key: 1"]}
        job = fetch(client, wanted).json()["id"]
        shown = ended(client, job)
        assert (shown["status"], shown["data_name"]) == ("done", "moved")
        assert shown["config"]["fetch_data"] == {"url": f"{there.url}/moved"}
        assert client.get(f"/v2/jobs/{job}/data").content == tone(2)
    assert [each.headers["x-key"] for each in there.received] == ["1", "1"]


def fetch(client: httpx.Client, wanted: dict[str, Any], **config: Any) -> httpx.Response:
    """Submit a URL as the published clients do: a form with one part."""
    document = {"type": "transcription", "fetch_data": wanted, **config}
    return client.post("/v2/jobs", files={"config": (None, json.dumps(document))})


def test_failed_fetch_rejects_the_job(service: Service, there: Receiver) -> None:
    there.statuses += [404, 404, 404]
    with service.client() as client:
        hook = [{"url": f"{there.url}/hook", "contents": ["jobinfo"]}]
        job = fetch(client, {"url": f"{there.url}/none.wav"}, notification_config=hook).json()["id"]
        shown = ended(client, job)
        sent = wait_for(lambda: [each for each in there.received if each.path.startswith("/hook")])
    assert shown["status"] == "rejected"
    assert shown["errors"][0]["message"] == "the recording cannot be fetched: 127.0.0.1 answered with status 404"
    assert sent[0].path == f"/hook?id={job}&status=fetch_error"


def test_redirect_to_another_host_is_not_followed(service: Service, there: Receiver) -> None:
    there.redirects["/moved"] = "http://localhost:1/secret"
    with service.client() as client:
        shown = ended(client, fetch(client, {"url": f"{there.url}/moved"}).json()["id"])
    assert "this service may not call localhost" in shown["errors"][0]["message"]


def test_too_large_recording_is_not_fetched(service: Service, there: Receiver) -> None:
    there.files["/talk.wav"] = bytes(4_000_000)
    with service.client() as client:
        shown = ended(client, fetch(client, {"url": f"{there.url}/talk.wav"}).json()["id"])
    assert "sends more than 3000000 bytes" in shown["errors"][0]["message"]


GOOD = json.dumps({"type": "transcription"})
FILE = {"data_file": b"x"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
MALFORMED = "Malformed request"
BAD_FORMS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "no config": ({"files": FILE}, 400, MALFORMED, "config: the part is absent"),
    "no json": ({"data": {"config": "{"}, "files": FILE}, 400, MALFORMED, "config: it is not JSON"),
    "a list": ({"data": {"config": "[]"}, "files": FILE}, 400, MALFORMED, "config: Input should be"),
    "no type": ({"data": {"config": "{}"}, "files": FILE}, 400, MALFORMED, "type: Field required"),
    "deep": ({"data": {"config": "[" * 100_000}, "files": FILE}, 400, MALFORMED, "config: "),
    "no data": ({"files": {"config": (None, GOOD)}}, 400, "Missing data_file", "send the recording as data_file"),
    "plain data": ({"data": {"config": GOOD, "data_file": "x"}, "files": {"a": b"x"}}, 400, MALFORMED, "data_file: it"),
    "json body": ({"json": {"type": "transcription"}}, 415, MALFORMED, "the content type is application/json"),
    "no body": ({}, 415, MALFORMED, "the content type is absent"),
    "no boundary": (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        MALFORMED,
        "the form is damaged",
    ),
    "cut": ({"content": b"--b\r\nContent-Disposition: form-data; name=", "headers": FORM}, 400, MALFORMED, "config: "),
}


@pytest.mark.parametrize("name", BAD_FORMS)
def test_bad_forms(service: Service, name: str) -> None:
    request, status, error, detail = BAD_FORMS[name]
    with service.client() as client:
        answer = client.post("/v2/jobs", **request)
        body = answer.json()
        assert (answer.status_code, body["code"], body["error"]) == (status, status, error), body
        assert body["detail"].startswith(detail)
        assert client.get("/live").status_code == 200


@pytest.mark.parametrize(
    ("config", "error", "detail"),
    [
        ({"transcription_config": {"language": "xx"}}, "Requested product not available",
         "'xx' is not a language of this service"),
        ({"transcription_config": {"language": "en", "model": "tiny"}}, "Requested product not available", "'tiny'"),
        ({"transcription_config": {"langage": "en"}}, MALFORMED,
         "transcription_config.langage: this service does not know the field"),
        ({"transcription_config": {"diarization": "all"}}, MALFORMED, "config.diarization: Input"),
        ({"translation_config": {"target_languages": ["de"]}}, "Requested product not available", "translation_config"),
        ({"notification_config": [{"url": "http://10.0.0.1/"}]}, MALFORMED,
         "notification_config.url: this service may not call 10.0.0.1"),
        ({"notification_config": [{"url": "file:///etc/passwd"}]}, MALFORMED,
         "notification_config.url: it is not a URL that begins with http:// or https://"),
        ({"notification_config": [{"url": "http://127.0.0.1/", "auth_headers": ["a: b\r\nc: d"]}]}, MALFORMED,
         "notification_config.0.auth_headers.0: it is not a header"),
        ({"fetch_data": {"url": "http://127.0.0.1/a.wav"}}, MALFORMED, "data_file and fetch_data were both sent"),
        ({"type": "alignment"}, MALFORMED, "type: Input should be 'transcription'"),
    ],
)  # fmt: skip
def test_bad_configurations(service: Service, config: dict[str, Any], error: str, detail: str) -> None:
    with service.client() as client:
        answer = submit(client, tone(1), **config)
        assert (answer.status_code, answer.json()["error"]) == (400, error), answer.json()
        assert detail in answer.json()["detail"]


BAD_RECORDINGS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty (zero bytes)"),
    "text": (b"hello\n" * 1000, "it cannot be decoded as a recording"),
    "zip": (b"PK\x03\x04" + bytes(1000), "it cannot be decoded as a recording"),
    "header only": (tone(1)[:44], "it contains no sound at all (zero samples)"),
    "playlist": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "it cannot be decoded as a recording"),
    "other file": (b"ffconcat version 1.0\nfile /etc/passwd\n", "you have no permission to read it"),
    "same file": (b"ffconcat version 1.0\nfile recording\n", "it cannot be decoded as a recording"),
    "random": (random.Random(3).randbytes(100_000), "it cannot be decoded as a recording"),
}


@pytest.mark.parametrize("name", BAD_RECORDINGS)
def test_bad_recordings_are_rejected(service: Service, name: str) -> None:
    content, message = BAD_RECORDINGS[name]
    with service.client() as client:
        job = submit(client, content).json()["id"]
        shown = ended(client, job)
        assert shown["status"] == "rejected"
        assert shown["errors"][0]["message"].startswith(message)
        answer = client.get(f"/v2/jobs/{job}/transcript")
        assert (answer.status_code, answer.json()["error"]) == (404, "Job rejected")


def test_small_file_of_days_of_silence_is_rejected(service: Service, tmp_path: Path) -> None:
    """A compressed silence of ten minutes has 90 kB; the limit of this service is three minutes."""
    import av
    import numpy as np

    path = tmp_path / "silence.flac"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), dtype=np.int16), "s16", "mono")
        frame.sample_rate = 16_000
        for second in range(600):
            frame.pts = second * 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    # Without its number of samples, so that only decoding shows how long it is.
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    assert len(content) < 200_000
    with service.client() as client:
        shown = ended(client, submit(client, bytes(content), "silence.flac").json()["id"])
    assert shown["errors"][0]["message"] == "it is longer than 3 minutes, which is the limit of this service"


def test_huge_uploads_are_refused(service: Service) -> None:
    with service.client() as client:
        answer = submit(client, bytes(5_000_000))
        assert (answer.status_code, answer.json()["error"]) == (413, "Request Entity Too Large")
        assert answer.json()["detail"] == "the recording has more than 3 MB, the limit of this service"

        def parts() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="data_file"; filename="a"\r\n\r\n'
            for _ in range(60):
                yield bytes(100_000)

        # Without a length, the limit is met while the body is received.
        answer = client.post("/v2/jobs", content=parts(), headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert answer.status_code == 413
        assert client.get("/live").status_code == 200


def test_stalled_uploads_are_ended(service: Service) -> None:
    """The client sends a part of its body and then nothing."""
    with socket.create_connection(("127.0.0.1", service.port), 30) as connection:
        head = f"POST /v2/jobs HTTP/1.1\r\nHost: localhost:{service.port}\r\nContent-Length: 1000\r\n"
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n".encode())
        answer = b""
        while block := connection.recv(65_536):
            answer += block
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"nothing was received for 1 seconds" in answer


def test_names_of_files_are_only_names(service: Service) -> None:
    with service.client() as client:
        for name, shown in (("../../etc/passwd", "passwd"), ("C:\\a\\b.wav", "b.wav"), ("größe.wav", "größe.wav")):
            job = submit(client, tone(1), name).json()["id"]
            assert ended(client, job)["data_name"] == shown


def test_states_of_a_job(options: tuple[str, ...], tmp_path: Path) -> None:
    """While a job runs it cannot be read, nor deleted without force."""
    with services.started(tmp_path, *options, "--parallel=1", "--in-flight=1") as service, service.client() as client:
        first, second = (submit(client, tone(120, seed)).json()["id"] for seed in (1, 2))
        assert client.get(f"/v2/jobs/{second}?wait=0").json()["job"]["status"] == "running"
        answer = client.get(f"/v2/jobs/{second}/transcript?wait=0")
        assert (answer.status_code, answer.json()["error"]) == (404, "Transcription not ready")
        answer = client.delete(f"/v2/jobs/{second}")
        assert (answer.status_code, answer.json()["error"]) == (423, "Resource Locked")
        answer = client.delete(f"/v2/jobs/{second}?force=true")
        assert (answer.status_code, answer.json()["job"]["status"]) == (200, "deleted")
        assert client.get(f"/v2/jobs/{second}").status_code == 404
        assert not (tmp_path / "files" / second).exists()
        assert second in {job["id"] for job in client.get("/v2/jobs?include_deleted=true").json()["jobs"]}
        assert second not in {job["id"] for job in client.get("/v2/jobs").json()["jobs"]}
        assert ended(client, first)["status"] == "done"
        for path in (f"/v2/jobs/{first}/transcript?format=pdf", "/v2/jobs?limit=0", "/v2/jobs?created_before=monday"):
            assert client.get(path).status_code == 400
        assert client.get("/v2/jobs/none").json()["error"] == "Job not found"


def test_clients_see_their_own_jobs_only(options: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path / "keys", f"alice {KEY}\nbob {KEY}2\n")
    secured = (*options, f"--api-keys={tmp_path}/keys", "--unfinished-jobs=2", "--retention=0.0001")
    with services.started(tmp_path, *secured) as service:
        with service.client() as unknown:
            assert unknown.get("/v2/jobs").json()["error"] == "Permission Denied"
        alice, bob = ({"Authorization": f"Bearer {key}"} for key in (KEY, f"{KEY}2"))
        with service.client(headers=alice) as one, service.client(headers=bob) as two:
            job = submit(one, tone(2)).json()["id"]
            assert two.get(f"/v2/jobs/{job}").status_code == 404
            assert two.delete(f"/v2/jobs/{job}?force=true").status_code == 404
            assert two.get("/v2/jobs").json() == {"jobs": []}
            ended(one, job)
            # Expired after nine seconds.
            wait_for(lambda: one.get(f"/v2/jobs/{job}").status_code == 410, 40)
            assert one.get(f"/v2/jobs/{job}/transcript").json()["error"] == "Job Expired"
            assert not (tmp_path / "files" / job).exists()


def test_quota(tmp_path: Path) -> None:
    """Without a server no job ends."""
    service = services.start(tmp_path, "--endpoint=127.0.0.1:9", "--unfinished-jobs=1")
    services.wait_ready(service, "/live")
    with service.client() as client:
        assert submit(client, tone(1)).status_code == 201
        answer = submit(client, tone(1))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")
        assert answer.json()["error"] == "Max concurrent running jobs exceeded"
        assert len(list((tmp_path / "files").iterdir())) == 1, "the refused recording was removed"
    assert service.stop() == 0


def test_service_without_a_server_keeps_jobs(server: Running, tmp_path: Path) -> None:
    """Jobs are stored while the server is away, and done when it is there."""
    away = services.start(tmp_path, "--endpoint=127.0.0.1:9")
    services.wait_ready(away, "/live")
    with away.client() as client:
        problems = client.get("/ready")
        assert problems.status_code == 503
        wait_for(lambda: client.get("/ready").json()["problems"] == ["127.0.0.1:9: no server is ready there"])
        job = submit(client, tone(2)).json()["id"]
        assert client.get(f"/v2/jobs/{job}?wait=1").json()["job"]["status"] == "running"
    assert away.stop() == 0
    with services.started(tmp_path, f"--endpoint=127.0.0.1:{server.grpc}") as there, there.client() as client:
        assert ended(client, job)["status"] == "done"


@pytest.mark.slow
def test_answers_are_those_of_the_api_description(service: Service, tmp_path: Path) -> None:
    """schemathesis makes requests from /openapi.json, wrong ones too, and compares every answer with it."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [f"{Path(sys.executable).parent}/schemathesis", "run", f"{service.url}/openapi.json"]
    options = ["--max-examples=10", f"--checks={checks}", "--include-path-regex=^/(v2/jobs|live|ready|metrics)"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"(\d+) generated, \1 passed", done.stdout), done.stdout


def test_settings_that_end_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert services.refusal(tmp_path, "--storage=" + f"{tmp_path}/file/x")[0] == 10
    code, text = services.refusal(tmp_path, "--host=0.0.0.0")
    assert (code, text) == (
        10,
        "error: --host: other machines can reach 0.0.0.0, and there are no API keys. "
        "Name a file of keys with --api-keys, or use --host 127.0.0.1.",
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, text = services.refusal(tmp_path, f"--port={port}")
        assert (code, text) == (
            44,
            f"error: port {port}: another program listens at it. Choose another one with --port.",
        )
