"""The removal of old jobs and of files, with a store that fails at times."""

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from service import app, core, jobs
from service.jobs import cleaner
from service.jobs.cleaner import Cleaner
from service.jobs.database import Database
from service.jobs.records import Job, State
from service.jobs.storage import Storage
from service.jobs.worker import Worker
from tests.unit.service.make import finished, settings, stored

DAY_S = 86_400.0


class Parts:
    """A cleaner of an object store and what it uses; `failures` is how many removals fail from now on."""

    def __init__(self, folder: Path) -> None:
        self.core = core.make(settings(folder, storage=f"memory://{uuid4()}"))
        self.database, self.storage = Database(self.core.settings.database), Storage(self.core.settings.storage)
        self.cleaner = Cleaner(self.core, self.database, self.storage, threading.Event())

    def add(self, *, age_s: float = 0.0, is_done: bool = True) -> Job:
        """Store a job with a recording."""
        job = stored(self.database, client="", created_us=self.database.now_us() - round(age_s * 1e6))
        self.storage.write(f"{job.id}/recording", io.BytesIO(b"sound"))
        if is_done:
            finished(self.database, job)
        return job

    def is_stored(self, job: Job) -> bool:
        """Return whether a recording is stored."""
        try:
            return bool(self.storage.size(f"{job.id}/recording"))
        except FileNotFoundError:
            return False


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    made = Parts(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that lets the next removals of files fail, of all jobs or of some."""
    remove = Storage.remove

    def failing(count: int, *names: str) -> None:
        left = [OSError("503 Slow Down")] * count

        def removed(storage: Storage, job: str) -> None:
            if left and (not names or job in names):
                raise left.pop()
            remove(storage, job)

        monkeypatch.setattr(Storage, "remove", removed)

    return failing


def test_all_old_jobs_expire_in_one_pass(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaner, "_BATCH", 10)
    old = [parts.add(age_s=8 * DAY_S) for _ in range(25)]
    young = parts.add()
    assert parts.cleaner.clean() == 60.0
    found = [parts.database.find(job.id) for job in old]
    assert {job and job.state for job in found} == {State.EXPIRED}
    assert not any(parts.is_stored(job) for job in old)
    assert parts.is_stored(young)


def test_files_of_expired_jobs_are_removed_after_the_store_failed(parts: Parts, fail: Callable[..., None]) -> None:
    old = [parts.add(age_s=15 * DAY_S) for _ in range(20)]
    fail(3)
    parts.cleaner.clean()
    assert sum(map(parts.is_stored, old)) == 3
    rows = [parts.database.find(job.id) is not None for job in old]
    assert rows == [parts.is_stored(job) for job in old], "the rows of removed files are forgotten"
    parts.cleaner.clean()
    assert not any(parts.is_stored(job) for job in old)
    assert [parts.database.find(job.id) for job in old] == [None] * 20


def test_jobs_whose_files_cannot_be_removed_do_not_hold_up_others(parts: Parts, fail: Callable[..., None]) -> None:
    """A pass ends after ten failures, and the next one goes on behind them."""
    old = sorted((parts.add(age_s=8 * DAY_S) for _ in range(15)), key=lambda job: job.id)
    fail(10**6, *(job.id for job in old[:10]))
    parts.cleaner.clean()
    assert [parts.is_stored(job) for job in old] == [True] * 15
    parts.cleaner.clean()
    assert [parts.is_stored(job) for job in old] == [True] * 10 + [False] * 5


def test_deletion_succeeds_while_the_store_fails(parts: Parts, fail: Callable[..., None]) -> None:
    job = parts.add()
    application = app.assemble(parts.core, [jobs.part(parts.core)])
    client = TestClient(application, base_url="http://localhost:8080", raise_server_exceptions=False)
    fail(1)
    answer = client.delete(f"/v2/jobs/{job.id}")
    assert (answer.status_code, answer.json()["job"]["status"]) == (200, "deleted")
    assert client.get(f"/v2/jobs/{job.id}").status_code == 404
    assert parts.is_stored(job)
    parts.cleaner.clean()
    assert not parts.is_stored(job)


def test_files_of_a_deleted_job_are_removed_at_once(parts: Parts) -> None:
    application = app.assemble(parts.core, [jobs.part(parts.core)])
    client = TestClient(application, base_url="http://localhost:8080", raise_server_exceptions=False)
    done, running = parts.add(), parts.add(is_done=False)
    for job in (done, running):
        assert client.delete(f"/v2/jobs/{job.id}?force=true").status_code == 200
        assert not parts.is_stored(job)
    # The worker of a running job may have written another file meanwhile.
    assert parts.database.gone_with_files("", 10) == [running.id]


def test_file_of_a_late_worker_is_removed_after_the_store_failed(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("503 Slow Down")

    job = parts.add(is_done=False)
    parts.database.delete(job.id, "", force=True)
    assert parts.cleaner.remove(job.id)
    parts.storage.write_bytes(f"{job.id}/recording", b"late")
    monkeypatch.setattr(Storage, "discard", refuse)
    with pytest.raises(OSError, match="503"):
        Worker(parts.core, parts.database, parts.storage)._discard(job, f"{job.id}/recording")
    parts.cleaner.clean()
    assert not parts.is_stored(job)
