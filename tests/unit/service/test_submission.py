"""The submission of jobs while the storage or the database fails: nothing is lost, and nothing is left behind."""

import errno
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from starlette.datastructures import UploadFile
from starlette.testclient import TestClient

from service import app, core, jobs
from service.errors import StorageError
from service.jobs.cleaner import Cleaner
from service.jobs.database import Database
from service.jobs.records import State
from service.jobs.storage import Storage
from tests.unit.service.make import settings

DAY_US = 86_400_000_000
CONFIG = {"type": "transcription", "transcription_config": {"language": "en"}}
FULL = StorageError(errno.ENOSPC, "No space left on device")
LARGE = 2**21
"""More bytes than an upload keeps in memory."""


class Api:
    """The API without a server: jobs are stored and wait."""

    def __init__(self, folder: Path) -> None:
        self.core = core.make(settings(folder))
        self.database, self.storage = Database(self.core.settings.database), Storage(self.core.settings.storage)
        application = app.assemble(self.core, [jobs.part(self.core)])
        self.client = TestClient(application, base_url="http://localhost:8080", raise_server_exceptions=False)
        self.files = folder / "files"

    def submit(self, content: bytes = b"sound") -> Any:
        """Submit a recording."""
        return self.client.post(
            "/v2/jobs", files={"config": (None, json.dumps(CONFIG)), "data_file": ("a.wav", content)}
        )

    def stored(self) -> list[str]:
        """Return the jobs that have files."""
        return sorted({path.parent.name for path in self.files.rglob("*") if path.is_file()})

    def clean(self) -> None:
        """Remove what is too old."""
        worker = jobs.worker.Worker(self.core, self.database, self.storage)
        assert isinstance(worker.cleaner, Cleaner)
        worker.cleaner.clean()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    made = Api(tmp_path)
    yield made
    made.database.close()


def failing(error: Exception, after: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a method that raises, after it has done its work if that is given."""

    def fail(*values: Any, **named: Any) -> Any:
        if after is not None:
            after(*values, **named)
        raise error

    return fail


def test_submitted_recording_waits(api: Api) -> None:
    answer = api.submit()
    assert answer.status_code == 201
    found = api.database.find(answer.json()["id"])
    assert found is not None
    assert found.state == State.RUNNING
    assert api.stored() == [found.id]


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (StorageError("ClientError 503 Slow Down"), 503, "the storage fails"),
        (FULL, 507, "the service has no space left for the recording"),
    ],
)
def test_recording_that_cannot_be_stored_is_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, detail: str
) -> None:
    monkeypatch.setattr(Storage, "write", failing(error, Storage.write))
    answer = api.submit()
    assert (answer.status_code, answer.json()["detail"]) == (status, detail)
    assert "retry-after" in answer.headers
    assert api.stored() == []
    assert api.database.claim(30.0) is None
    assert api.database.gone_with_files("", 10) == []


def test_upload_that_fills_the_temporary_folder_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UploadFile, "write", failing(OSError(errno.ENOSPC, "No space left on device")))
    answer = api.submit(b"x" * LARGE)
    assert (answer.status_code, answer.json()["error"]) == (507, "Insufficient Storage")
    assert api.stored() == []


def test_recording_is_kept_where_the_answer_of_the_database_is_lost(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job was added, and would find no recording."""
    lost = OperationalError("COMMIT", {}, Exception("the connection was closed"))
    monkeypatch.setattr(Database, "add", failing(lost, Database.add))
    assert api.submit().status_code == 503
    claim = api.database.claim(30.0)
    assert claim is not None
    assert api.stored() == [claim.job.id]


def test_recording_of_a_service_that_died_is_removed_after_a_day(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It died between the two, and the database noted that there may be files."""
    with monkeypatch.context() as patched:
        patched.setattr(Database, "add", failing(OperationalError("INSERT", {}, Exception("the server was closed"))))
        patched.setattr(
            Database, "withdraw", failing(OperationalError("UPDATE", {}, Exception("the server was closed")))
        )
        assert api.submit().status_code == 503
    left = api.stored()
    assert len(left) == 1
    api.clean()
    assert api.stored() == left
    now_us = api.database.now_us()
    monkeypatch.setattr("service.jobs.database._now_us", lambda _: now_us + DAY_US + 1)
    api.clean()
    assert api.stored() == []


@pytest.mark.parametrize("path", ["data", "transcript"])
def test_storage_that_fails_is_no_defect(api: Api, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    job_id = api.submit().json()["id"]
    claim = api.database.claim(30.0)
    assert claim is not None
    api.storage.write(f"{job_id}/transcript", io.BytesIO(b"{}"))
    assert api.database.finish(claim, State.DONE, transcript_key=f"{job_id}/transcript")
    for name in ("size", "read_bytes"):
        monkeypatch.setattr(Storage, name, failing(StorageError("ClientError 503 Slow Down")))
    answer = api.client.get(f"/v2/jobs/{job_id}/{path}")
    assert (answer.status_code, answer.json()["detail"]) == (503, "the storage fails")
    for name in ("size", "read_bytes"):
        monkeypatch.setattr(Storage, name, failing(FileNotFoundError("gone")))
    assert api.client.get(f"/v2/jobs/{job_id}/{path}").status_code == 404
