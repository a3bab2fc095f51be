"""The worker of jobs with a real database and storage, and a transcriber that the test controls."""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from contract.errors import ServerUnreachableError
from service import core, logs
from service.core import Core
from service.jobs import worker
from service.jobs.database import Database
from service.jobs.records import Job, State, new_id
from service.jobs.storage import Storage
from service.jobs.worker import Worker
from service.recognition import CancelledError, Transcriber
from tests.integration import receiver
from tests.unit.service.make import settings, stored
from transcriber.pipeline import TranscriptionResult
from transcriber.transcript import Transcript

TRANSCRIPT = Transcript(source="a", duration_s=1.0, language="en", operating_point="standard", turns=(), losses=())
OUTAGES = (
    OperationalError("", {}, ConnectionError("it is away")),
    InterfaceError("", {}, ConnectionError("it is away")),
    PoolTimeoutError("no connection is free"),
)


class Ready:
    """A server that is there."""

    problem = None


@dataclass(kw_only=True, slots=True)
class Instant:
    """A transcriber that does what the test names, and then returns an empty transcript."""

    recognisers: type[Ready] = Ready
    work: Callable[[Callable[[], bool]], object] = field(default=lambda _: None)

    def transcribe(self, *_: object, is_cancelled: Callable[[], bool], **__: object) -> TranscriptionResult:
        self.work(is_cancelled)
        return TranscriptionResult(transcript=TRANSCRIPT, notes=(), errors=())


@dataclass(kw_only=True, slots=True)
class Parts:
    """A worker and what it uses."""

    core: Core
    database: Database
    storage: Storage
    transcriber: Instant
    worker: Worker

    def add(self, **config: Any) -> Job:
        """Store a job, with a recording unless it is to be fetched."""
        job_id = new_id()
        key = None if "fetch_data" in config else f"{job_id}/recording"
        if key is not None:
            # Before the job, which a worker may take at once.
            self.storage.write(key, io.BytesIO(b"sound"))
        return stored(self.database, id=job_id, data_key=key, config={"type": "transcription", **config})

    def found(self, job: Job) -> Job:
        """Return a job as it is stored now."""
        found = self.database.find(job.id)
        assert found is not None
        return found

    def work(self) -> None:
        """Do one job."""
        self.worker._work_once()


Make = Callable[..., Parts]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    opened: list[Database] = []

    def made(**changed: Any) -> Parts:
        plain = core.make(settings(tmp_path, **changed))
        transcriber = Instant()
        shared = replace(plain, recordings=cast("Transcriber", transcriber))
        database, storage = Database(plain.settings.database), Storage(plain.settings.storage)
        opened.append(database)
        return Parts(
            core=shared, database=database, storage=storage, transcriber=transcriber,
            worker=Worker(shared, database, storage),
        )  # fmt: skip

    yield made
    for database in opened:
        database.close()


def failing(change: Callable[..., Any], *errors: Exception, is_done: bool = False) -> Callable[..., Any]:
    """Return a change of the database that raises at first; with `is_done`, only its answer is lost."""
    left = list(errors)

    def changed(*values: Any, **named: Any) -> Any:
        if left:
            if is_done:
                change(*values, **named)
            raise left.pop(0)
        return change(*values, **named)

    return changed


@pytest.mark.parametrize("error", OUTAGES)
@pytest.mark.parametrize("name", ["finish", "now_us"])
def test_outage_at_the_end_of_a_job_loses_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    parts = make(lease_s=0.4)
    job = parts.add()
    monkeypatch.setattr(parts.database, name, failing(getattr(parts.database, name), error, error))
    parts.work()
    found = parts.found(job)
    assert (found.state, found.errors, found.attempts) == (State.DONE, (), 1)
    assert parts.storage.read_bytes(found.transcript_key or "")


def test_transcript_is_kept_where_the_answer_to_the_commit_is_lost(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make(lease_s=0.4)
    job = parts.add()
    monkeypatch.setattr(parts.database, "finish", failing(parts.database.finish, OUTAGES[0], is_done=True))
    parts.work()
    found = parts.found(job)
    assert found.state == State.DONE
    assert parts.storage.read_bytes(found.transcript_key or "")


def test_outage_costs_no_attempt_where_the_job_is_given_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError("the disk is away")

    parts = make(lease_s=0.4)
    job = parts.add()
    parts.transcriber.work = fail
    monkeypatch.setattr(parts.database, "release", failing(parts.database.release, OUTAGES[0]))
    parts.work()
    assert (parts.found(job).state, parts.found(job).attempts) == (State.RUNNING, 0)


def test_finished_job_waits_for_the_store(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors of object stores are of kinds of their own."""

    class StoreError(Exception):
        pass

    def fail(*_: object, **__: object) -> None:
        raise StoreError

    parts = make(storage=f"memory://{new_id()}")
    job = parts.add()
    monkeypatch.setattr(parts.storage._files, "pipe_file", fail)
    parts.work()
    assert (parts.found(job).state, parts.found(job).attempts) == (State.RUNNING, 0)


def test_outage_at_the_stop_rejects_no_job(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make(lease_s=0.4)
    job = parts.add()
    parts.transcriber.work = lambda _: parts.worker._stopping.set()
    monkeypatch.setattr(parts.database, "finish", failing(parts.database.finish, *OUTAGES))
    with pytest.raises(OperationalError):
        parts.work()
    assert parts.found(job).state == State.RUNNING


def test_stop_releases_a_job_whose_own_release_met_an_outage(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: object) -> None:
        parts.worker._stopping.set()
        raise CancelledError

    parts = make()
    job = parts.add()
    parts.transcriber.work = stop
    monkeypatch.setattr(parts.database, "release", failing(parts.database.release, OUTAGES[0]))
    with pytest.raises(OperationalError):
        parts.work()
    parts.worker.stop()
    again = parts.database.claim(30.0)
    assert again is not None
    assert (again.job.id, again.job.attempts) == (job.id, 0)


def test_threads_log_an_outage_once_a_pause(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    parts = make()
    for _ in range(10):
        parts.worker._outages.report(OUTAGES[0])
    assert capsys.readouterr().err == "WARNING: the database does not answer: it is away\n"
    assert parts.core.metrics.registry.get_sample_value("voxwright_errors_total", {"kind": "database"}) == 10


def test_lease_is_renewed_soon_after_an_outage(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause of an outage is shorter than the lease."""
    parts = make(lease_s=2.0)
    job, goes_on = parts.add(), threading.Event()
    parts.transcriber.work = lambda _: goes_on.wait(20)
    monkeypatch.setattr(parts.database, "renew", failing(parts.database.renew, OUTAGES[0]))
    parts.worker.start()
    try:
        time.sleep(3.0)
        assert parts.database.claim(30.0) is None
        goes_on.set()
        end_s = time.monotonic() + 10
        while parts.found(job).state == State.RUNNING and time.monotonic() < end_s:
            time.sleep(0.02)
    finally:
        parts.worker.stop()
    assert (parts.found(job).state, parts.found(job).attempts) == (State.DONE, 1)


def test_defect_of_the_transcription_rejects_the_job(make: Make) -> None:
    parts = make()
    job = parts.add()
    parts.transcriber.work = lambda _: 1 // 0
    parts.work()
    assert [error.message for error in parts.found(job).errors] == [
        "it could not be transcribed, by a defect of the service"
    ]


def wait_until(is_true: Callable[[], object]) -> None:
    """Wait until something is true; fail after a while."""
    end_s = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.fixture
def endless() -> Iterator[str]:
    """Yield the URL of a recording that never ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1000))
                    time.sleep(0.05)

        def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - the standard library's
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/a.wav"
    server.shutdown()
    server.server_close()


def test_deleted_job_frees_its_thread_while_it_is_fetched(make: Make, endless: str) -> None:
    parts = make(parallel=1, lease_s=2.0, fetch_hosts=("127.0.0.1",))
    slow = parts.add(fetch_data={"url": endless})
    parts.worker.start()
    wait_until(lambda: parts.found(slow).attempts)
    next_job = parts.add()
    assert parts.database.delete(slow.id, "alice", force=True)[1]
    began_s = time.monotonic()
    wait_until(lambda: parts.found(next_job).state == State.DONE)
    assert time.monotonic() - began_s < 5
    parts.worker.stop()


def test_stop_ends_a_fetch_and_costs_no_attempt(make: Make, endless: str) -> None:
    parts = make(parallel=1, fetch_hosts=("127.0.0.1",))
    job = parts.add(fetch_data={"url": endless})
    parts.worker.start()
    wait_until(lambda: parts.found(job).attempts)
    began_s = time.monotonic()
    parts.worker.stop()
    assert time.monotonic() - began_s < 3
    again = parts.database.claim(30.0)
    assert again is not None
    assert (again.job.id, again.job.attempts) == (job.id, 0)


def test_stop_gives_back_what_threads_still_hold(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that do not end share the time of the stop, and their late results change nothing."""
    monkeypatch.setattr(worker, "_STOP_S", 0.5)
    parts, goes_on = make(parallel=2), threading.Event()
    jobs = [parts.add(), parts.add()]
    parts.transcriber.work = lambda _: goes_on.wait(20)
    parts.worker.start()
    wait_until(lambda: all(parts.found(job).attempts for job in jobs))
    began_s = time.monotonic()
    parts.worker.stop()
    assert time.monotonic() - began_s < 2
    claims = [parts.database.claim(30.0) for _ in jobs]
    assert [claim and claim.job.attempts for claim in claims] == [0, 0]
    goes_on.set()
    wait_until(lambda: not parts.worker.is_busy())
    assert {parts.found(job).state for job in jobs} == {State.RUNNING}


def test_job_that_waits_for_the_server_is_given_back_at_once_by_a_service_that_stops(make: Make) -> None:
    def stop(_: object) -> None:
        parts.core.draining.set()
        raise ServerUnreachableError("gpu:8001", "no server is ready there", "Start one")

    parts = make()
    job = parts.add()
    parts.transcriber.work = stop
    parts.work()
    again = parts.database.claim(30.0)
    assert again is not None
    assert (again.job.id, again.job.attempts) == (job.id, 0)


def test_slow_receiver_delays_no_notification_of_others(make: Make) -> None:
    parts = make(notify_hosts=("127.0.0.1",))
    with receiver.started() as there, socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (silent.getsockname()[1],) * 3 + (there.port,):
            parts.add(notification_config=[{"url": f"http://127.0.0.1:{port}/", "contents": []}])
            parts.work()
        began_s = time.monotonic()
        parts.worker.start()
        wait_until(lambda: there.received)
        assert time.monotonic() - began_s < 5
        parts.worker.stop()
