"""What a worker notes of the progress of a job."""

from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from service.jobs import documents, worker
from service.jobs.database import Database
from service.jobs.records import Claim, Job, State
from service.jobs.worker import Progress


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(worker, "time", clock)
    return clock


class Notes(Database):
    """A database that remembers notes, or does not answer."""

    def __init__(self) -> None:
        self.found: list[float] = []
        self.is_away = False

    def note_progress(self, claim: Claim, progress: float) -> None:
        if self.is_away:
            raise OperationalError("", {}, ConnectionError("it is away"))
        self.found.append(progress)


CLAIM = Claim(
    job=Job(id="a", client="", state=State.RUNNING, created_us=0, config={}, data_name="a.wav"),
    token="t",  # noqa: S106
)


def test_notes_the_share_once_a_second(clock: Clock) -> None:
    notes = Notes()
    report = Progress(notes, CLAIM)
    for now_s, done_s in ((100.0, 10.0), (100.9, 20.0), (101.0, 30.0), (101.5, 40.0), (102.0, 120.0)):
        clock.now_s = now_s
        report(done_s, 100.0)
    # A recording can be longer than it declares.
    assert notes.found == [0.1, 0.3, 1.0]


@pytest.mark.parametrize("declared_s", [None, 0.0])
def test_recording_without_a_duration_has_no_progress(clock: Clock, declared_s: float | None) -> None:
    notes = Notes()
    Progress(notes, CLAIM)(10.0, declared_s)
    assert notes.found == []


def test_job_goes_on_while_the_database_is_away(clock: Clock) -> None:
    notes = Notes()
    report = Progress(notes, CLAIM)
    notes.is_away = True
    report(10.0, 100.0)
    notes.is_away, clock.now_s = False, 101.0
    report(20.0, 100.0)
    assert notes.found == [0.2]


def test_progress_of_a_job_is_shown_while_it_runs(tmp_path: Path, clock: Clock) -> None:
    database = Database(f"sqlite:///{tmp_path}/jobs.sqlite")
    assert database.add(CLAIM.job, most_unfinished=1)
    claim = database.claim(30)
    assert claim is not None
    Progress(database, claim)(1.0, 3.0)

    def shown() -> dict[str, object]:
        found = database.find("a")
        assert found is not None
        return documents.description(found, with_config=False)

    assert shown()["progress"] == 0.333
    assert database.finish(claim, State.DONE, duration_s=3.0)
    assert "progress" not in shown()
    database.close()
