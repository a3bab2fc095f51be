"""Notifications with a real database, storage and receiver."""

import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.exc import OperationalError

from service import core
from service.calls import Caller
from service.jobs.database import Database
from service.jobs.notifications import Notifier
from service.jobs.outages import Outages
from service.jobs.records import Job, Notice
from service.jobs.storage import Storage
from service.metrics import DEFECT
from tests.integration import receiver
from tests.integration.receiver import Receiver
from tests.unit.service.make import finished, settings, stored

MEBIBYTE = 2**20
LEASE_S = 1.0


class Parts:
    """A notifier and what it uses."""

    def __init__(self, folder: Path) -> None:
        self.core = core.make(settings(folder, notify_hosts=("127.0.0.1",), lease_s=LEASE_S))
        self.database = Database(self.core.settings.database)
        self.storage = Storage(self.core.settings.storage)
        self.notifier = self.other_service()

    def other_service(self) -> Notifier:
        """Return the notifier of another service with the same database."""
        return Notifier(self.core, self.database, self.storage, Outages(self.core, threading.Event()))

    def end(self, *hooks: dict[str, Any], content: bytes = b"sound", **changed: Any) -> Job:
        """Store a job that has ended, with its notifications."""
        config = {"type": "transcription", "notification_config": list(hooks)}
        job = stored(self.database, config=config, **changed)
        self.storage.write_bytes(f"{job.id}/recording", content)
        finished(self.database, job)
        return job

    def errors(self, job: Job) -> list[str]:
        """Return the errors of a job."""
        found = self.database.find(job.id)
        assert found is not None
        return [error.message for error in found.errors]

    def change_notices(self, **values: Any) -> None:
        """Change all notifications that wait, as time or another service does."""
        table = sqlalchemy.table("voxwright_notices", *map(sqlalchemy.column, values))
        with self.database._writing() as connection:
            connection.execute(table.update().values(**values))

    def notices(self) -> int:
        """Return the number of notifications that wait."""
        query = sqlalchemy.text("SELECT count(*) FROM voxwright_notices")
        with self.database._reading() as connection:
            return int(connection.execute(query).scalar_one())


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    made = Parts(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver.started() as state:
        yield state


@pytest.fixture
def counting() -> Iterator[tuple[str, list[int]]]:
    """Yield the URL of a receiver that keeps nothing, and the bytes that it received."""
    received: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            left = length = int(self.headers["content-length"])
            while left:
                left -= len(self.rfile.read(min(left, 2**16)))
            received.append(length)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - the standard library's
            """Print nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", received
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("contents", [["data"], ["jobinfo", "data"]])
def test_recording_is_sent_in_bounded_memory(
    parts: Parts, counting: tuple[str, list[int]], contents: list[str]
) -> None:
    url, received = counting
    job = parts.end({"url": url, "contents": contents})
    with Path(f"{parts.core.settings.storage}/{job.data_key}").open("wb") as file:
        file.truncate(64 * MEBIBYTE)
    tracemalloc.start()
    try:
        parts.notifier.send_due()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received[0] > 64 * MEBIBYTE
    assert peak < 8 * MEBIBYTE
    assert parts.notices() == 0


def test_recording_is_sent_whole(parts: Parts, there: Receiver) -> None:
    parts.end({"url": there.url, "contents": ["data"]}, content=b"sound" * 100_000)
    parts.notifier.send_due()
    (sent,) = there.received
    assert b"sound" * 100_000 in sent.body
    assert int(sent.headers["content-length"]) == len(sent.body)


@pytest.mark.parametrize("contents", [["data"], ["transcript"], None])
def test_lost_file_is_a_failed_attempt(parts: Parts, there: Receiver, contents: list[str] | None) -> None:
    hook = {"url": there.url} if contents is None else {"url": there.url, "contents": contents}
    job = parts.end(hook)
    parts.storage.remove(job.id)
    for _ in range(9):
        assert parts.notifier.send_due() == 0.0
        assert parts.notices() == 1
        parts.change_notices(free_us=0)
    parts.notifier.send_due()
    assert parts.errors(job) == ["notification 1 was not sent: its content cannot be read"]
    assert (parts.notices(), there.received) == (0, [])


def test_defect_is_a_failed_attempt(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    job = parts.end({"url": "http://127.0.0.1/", "contents": []})
    monkeypatch.setattr(type(parts.notifier._caller), "send", fail)
    parts.change_notices(attempts=9)
    parts.notifier.send_due()
    assert parts.errors(job) == ["notification 1 was not sent: a defect of the service"]
    assert parts.core.metrics.registry.get_sample_value("voxwright_errors_total", {"kind": DEFECT}) == 1


def test_header_of_an_earlier_release_is_given_up_at_once(parts: Parts, there: Receiver) -> None:
    job = parts.end({"url": there.url, "contents": [], "auth_headers": ["X-Name: \N{EURO SIGN}"]})
    parts.notifier.send_due()
    assert parts.errors(job) == ["notification 1 was not sent: a header has characters that are not Latin-1"]


def test_notification_that_ended_a_service_ten_times_is_not_sent_again(parts: Parts, there: Receiver) -> None:
    """A service that ends while it sends leaves a claim, which counts as an attempt."""
    job = parts.end({"url": there.url, "contents": []})
    parts.change_notices(attempts=10)
    parts.notifier.send_due()
    assert there.received == []
    assert parts.errors(job) == ["notification 1 was not sent: 10 attempts did not succeed"]


def test_slow_receiver_gets_a_notification_once(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers after three leases; another service looks for what is due all the time."""
    sent: list[str] = []

    def send(_: object, method: str, url: str, *__: object, **___: object) -> None:
        sent.append(url)
        end_s = time.monotonic() + 3 * LEASE_S
        while time.monotonic() < end_s:
            time.sleep(LEASE_S / 4)
            # What the worker's thread does.
            parts.notifier.renew_all()

    parts.end({"url": "http://127.0.0.1/", "contents": []})
    monkeypatch.setattr(Caller, "send", send)
    sending = threading.Thread(target=parts.notifier.send_due)
    sending.start()
    other = parts.other_service()
    while sending.is_alive():
        other.send_due()
        time.sleep(0.02)
    assert (len(sent), parts.notices()) == (1, 0)


def test_sent_notification_is_removed_after_an_outage(
    parts: Parts, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease has ended meanwhile, and the claim of another service changes nothing."""
    real, left = parts.database.end_notice, [OperationalError("", {}, ConnectionError("it is away"))]

    def end(notice: Notice) -> None:
        if left:
            parts.change_notices(token="other")  # noqa: S106
            raise left.pop()
        real(notice)

    parts.end({"url": there.url, "contents": []})
    monkeypatch.setattr(parts.database, "end_notice", end)
    parts.notifier.send_due()
    assert (len(there.received), parts.notices()) == (1, 0)


def test_deletion_of_the_job_ends_a_notification(parts: Parts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        job = parts.end({"url": f"http://127.0.0.1:{silent.getsockname()[1]}/", "contents": []})
        sending = threading.Thread(target=parts.notifier.send_due)
        sending.start()
        connection, _ = silent.accept()
        with connection:
            parts.database.delete(job.id, "alice", force=False)
            parts.notifier.renew_all()
            sending.join(10)
            assert not sending.is_alive()


def test_stop_releases_a_notification(parts: Parts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        parts.end({"url": f"http://127.0.0.1:{silent.getsockname()[1]}/", "contents": []})
        threading.Thread(target=parts.notifier.send_due, daemon=True).start()
        connection, _ = silent.accept()
        with connection:
            parts.notifier.release_all()
            again = parts.database.claim_notice(30.0)
    assert again is not None
    assert again.attempts == 1
