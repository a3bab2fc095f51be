"""The database of jobs, in SQLite and in PostgreSQL alike: leases, states, quotas, schema versions."""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from contract.errors import OutputError, SettingError
from service.jobs.database import SCHEMA_VERSION, Database
from service.jobs.records import Claim, Job, State, new_id
from tests.integration import postgres

CONFIG = {"type": "transcription", "notification_config": [{"url": "https://a.example"}, {"url": "https://b.example"}]}
COUNT = itertools.count(1)


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres.started() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.sqlite"
    # A database of its own for each test.
    server = request.getfixturevalue("postgres_url")
    name = f"test{next(COUNT)}"
    engine = sqlalchemy.create_engine(
        server.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return str(server).replace("/postgres", f"/{name}")


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


def job(database: Database, **changed: Any) -> Job:
    plain = {
        "id": new_id(), "client": "alice", "state": State.RUNNING, "created_us": database.now_us(), "config": CONFIG,
        "data_name": "a.wav", "data_key": "x/recording",
    }  # fmt: skip
    return Job(**{**plain, **changed})


def added(database: Database, **changed: Any) -> Job:
    made = job(database, **changed)
    assert database.add(made, most_unfinished=1000)
    return made


def claimed(database: Database, lease_s: float = 30.0) -> Claim:
    claim = database.claim(lease_s)
    assert claim is not None
    return claim


def test_job_is_kept_as_it_was(database: Database) -> None:
    made = added(database, data_name="größe \N{SNOWMAN}.wav")
    assert database.find(made.id) == made
    assert database.find(made.id, "alice") == made
    assert database.find(made.id, "bob") is None
    assert database.find("none") is None


@pytest.mark.parametrize("name", ["\0", "a\0b", "\N{SNOWMAN}", "' OR 1", "x" * 64])
def test_any_text_may_name_no_job(database: Database, name: str) -> None:
    added(database)
    assert database.find(name) is None
    assert database.find(name, "alice") is None
    assert database.delete(name, "alice", force=True) == (None, False)


def test_jobs_are_claimed_in_order_and_once(database: Database) -> None:
    first, second = added(database), added(database)
    assert [claimed(database).job.id, claimed(database).job.id] == [first.id, second.id]
    assert database.claim(30.0) is None
    assert database.unfinished() == {"waiting": 0, "running": 2}


def test_finished_job(database: Database) -> None:
    made = added(database)
    claim = claimed(database)
    assert database.finish(claim, State.DONE, transcript_key="k", duration_s=1.5, errors=["part is missing"])
    found = database.find(made.id)
    assert found is not None
    assert (found.state, found.transcript_key, found.duration_s) == (State.DONE, "k", 1.5)
    assert [error.message for error in found.errors] == ["part is missing"]
    assert database.claim(30.0) is None
    assert not database.finish(claim, State.DONE), "a job is finished once"


def test_worker_whose_lease_ended_finishes_nothing(database: Database) -> None:
    made = added(database)
    late = claimed(database, lease_s=0.0)
    other = claimed(database)
    assert other.job.id == made.id
    assert other.job.attempts == 1
    assert not database.renew(late, 30.0)
    assert not database.finish(late, State.DONE, transcript_key="late")
    assert database.finish(other, State.DONE, transcript_key="other")
    found = database.find(made.id)
    assert found is not None
    assert found.transcript_key == "other"


def test_renewed_lease_keeps_a_job(database: Database) -> None:
    added(database)
    claim = claimed(database, lease_s=0.2)
    assert database.renew(claim, 30.0)
    time.sleep(0.3)
    assert database.claim(30.0) is None


def test_released_job_waits_and_was_not_tried(database: Database) -> None:
    made = added(database)
    database.release(claimed(database), 0.2)
    assert database.claim(30.0) is None
    time.sleep(0.3)
    assert claimed(database).job.attempts == 0
    assert database.find(made.id) is not None


def test_deleted_job_is_lost_for_its_worker(database: Database) -> None:
    made = added(database)
    claim = claimed(database)
    assert database.delete(made.id, "alice", force=False) == (database.find(made.id), False)
    assert database.delete(made.id, "bob", force=True) == (None, False)
    _, is_deleted = database.delete(made.id, "alice", force=True)
    assert is_deleted
    assert not database.renew(claim, 30.0)
    assert not database.finish(claim, State.DONE, transcript_key="k")
    assert database.newest("alice", limit=10) == []
    assert [each.id for each in database.newest("alice", limit=10, states=[State.DELETED])] == [made.id]


def test_list_is_limited_and_filtered(database: Database) -> None:
    made = [added(database, created_us=time_us) for time_us in (10, 20, 30, 40)]
    added(database, client="bob")
    ids = [each.id for each in reversed(made)]
    assert [each.id for each in database.newest("alice", limit=3)] == ids[:3]
    assert [each.id for each in database.newest("alice", limit=9, before_us=30)] == ids[2:]
    assert [each.id for each in database.newest("alice", limit=9, after_us=30)] == ids[:1]


def test_quota_counts_unfinished_jobs_of_a_client(database: Database) -> None:
    assert database.add(job(database), most_unfinished=1)
    assert not database.add(job(database), most_unfinished=1)
    assert database.add(job(database, client="bob"), most_unfinished=1)
    database.finish(claimed(database), State.DONE)
    assert database.add(job(database), most_unfinished=1)


def test_reserved_job_is_no_job_until_it_is_added(database: Database) -> None:
    made = job(database)
    assert database.reserve(made, most_unfinished=1)
    assert database.newest("alice", limit=9, states=list(State)[1:]) == []
    assert database.claim(30.0) is None
    assert database.unfinished() == {"waiting": 0, "running": 0}
    assert database.add(made, most_unfinished=1)
    assert database.find(made.id) == made
    assert not database.withdraw(made.id)
    assert claimed(database).job == made
    assert not database.reserve(job(database), most_unfinished=1)


def test_reserved_job_expires_and_leaves_its_files_to_the_cleaner(database: Database) -> None:
    now_us = database.now_us()
    dead, withdrawn = job(database, created_us=now_us - 70_000_000), job(database)
    for made in (dead, withdrawn, job(database, created_us=now_us - 50_000_000)):
        assert database.reserve(made, most_unfinished=1)
    assert database.withdraw(withdrawn.id)
    assert database.expire(3600.0, 60.0, 10) == 1
    assert database.gone_with_files("", 10) == sorted([dead.id, withdrawn.id])


def test_notifications_are_queued_with_the_end(database: Database) -> None:
    added(database)
    assert database.claim_notice(30.0) is None
    database.finish(claimed(database), State.DONE)
    first, second = database.claim_notice(0.0), database.claim_notice(30.0)
    assert first is not None
    assert second is not None
    assert database.claim_notice(30.0) is not None, "the lease of the first has ended"
    assert (first.job.state, first.attempts) == (State.DONE, 1)
    database.end_notice(first)
    assert {first.number, second.number} <= {0, 1}


def test_failed_notification_is_an_error_of_the_job(database: Database) -> None:
    made = added(database)
    database.finish(claimed(database), State.DONE, errors=["one"])
    notice = database.claim_notice(30.0)
    assert notice is not None
    database.delay_notice(notice, 0.0)
    again = database.claim_notice(30.0)
    while again is not None and again.id != notice.id:
        again = database.claim_notice(30.0)
    assert again is not None
    assert again.attempts == 2
    database.give_up_notice(notice, "of an old token")
    database.give_up_notice(again, "two")
    found = database.find(made.id)
    assert found is not None
    assert ([error.message for error in found.errors], found.state) == (["one", "two"], State.DONE)


def test_lease_of_a_notification_is_renewed_by_its_holder(database: Database) -> None:
    added(database, config={"notification_config": [{"url": "https://a.example"}]})
    database.finish(claimed(database), State.DONE)
    late = database.claim_notice(0.0)
    held = database.claim_notice(0.2)
    assert late is not None
    assert held is not None
    assert not database.renew_notice(late, 30.0)
    assert database.renew_notice(held, 30.0)
    time.sleep(0.3)
    assert database.claim_notice(30.0) is None
    # The one that was away has sent it: no other service sends it again.
    database.end_notice(late)
    assert not database.renew_notice(held, 30.0)
    database.end_notice(held)
    assert database.claim_notice(30.0) is None


def notified(database: Database, *urls: str) -> Job:
    made = added(database, config={"notification_config": [{"url": url} for url in urls]})
    assert database.finish(claimed(database), State.DONE)
    return made


def test_one_notification_at_a_time_is_sent_to_a_host(database: Database) -> None:
    """The jobs of a client whose host hangs do not keep those of other clients waiting."""
    for _ in range(3):
        notified(database, "https://hangs.example/a")
    other = notified(database, "https://HANGS.example.:443/b", "https://hangs.example:8443/", "http://hangs.example/")
    taken = [database.claim_notice(30.0) for _ in range(4)]
    first, second, third = (notice for notice in taken if notice is not None)
    assert [first.job.config["notification_config"][0]["url"]] == ["https://hangs.example/a"]
    assert [(notice.job.id, notice.number) for notice in (second, third)] == [(other.id, 1), (other.id, 2)]
    database.delay_notice(first, 30.0)
    again = database.claim_notice(30.0)
    assert again is not None
    assert again.number == 0


def test_services_send_one_notification_at_a_time_to_a_host(database: Database, url: str) -> None:
    for _ in range(20):
        notified(database, "https://a.example/", "https://b.example/")
    other, taken = Database(url), []
    barrier = threading.Barrier(8)

    def take(mine: Database) -> None:
        barrier.wait()
        taken.append(mine.claim_notice(30.0))

    threads = [threading.Thread(target=take, args=(each,)) for each in (database, other) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    other.close()
    assert sorted(notice.number for notice in taken if notice is not None) == [0, 1]


def test_end_of_a_notification_ends_no_later_one_with_its_id(database: Database) -> None:
    hook = {"notification_config": [{"url": "https://a.example"}]}
    first = added(database, config=hook)
    database.finish(claimed(database), State.DONE)
    sent = database.claim_notice(30.0)
    assert sent is not None
    database.delete(first.id, "alice", force=False)
    added(database, config=hook)
    database.finish(claimed(database), State.DONE)
    database.end_notice(sent)
    assert database.claim_notice(30.0) is not None


def test_released_notification_waits_and_was_not_tried(database: Database) -> None:
    added(database, config={"notification_config": [{"url": "https://a.example"}]})
    database.finish(claimed(database), State.DONE)
    notice = database.claim_notice(30.0)
    assert notice is not None
    database.release_notice(notice)
    again = database.claim_notice(30.0)
    assert again is not None
    assert again.attempts == 1


def test_notification_is_given_up_while_its_job_is_deleted(database: Database) -> None:
    """The deletion holds the job and then removes the notification; another order of locks would be a deadlock."""
    made = added(database, config={"notification_config": [{"url": "https://a.example"}]})
    database.finish(claimed(database), State.DONE)
    notice = database.claim_notice(30.0)
    assert notice is not None
    if database._engine.dialect.name == "sqlite":
        pytest.skip("SQLite locks the whole database")
    failed: list[Exception] = []

    def give_up() -> None:
        try:
            database.give_up_notice(notice, "one")
        except sqlalchemy.exc.OperationalError as error:
            failed.append(error)

    thread = threading.Thread(target=give_up)
    with database._writing() as connection:
        lock = "SELECT 1 FROM voxwright_jobs WHERE id = :job FOR UPDATE"
        connection.execute(sqlalchemy.text(lock), {"job": made.id})
        thread.start()
        # By now it waits for the job.
        time.sleep(0.5)
        Database._remove(connection, made.id, State.DELETED)
    thread.join(20)
    assert failed == []


def test_old_jobs_expire(database: Database) -> None:
    old = added(database, created_us=1)
    database.finish(claimed(database), State.DONE, transcript_key="k")
    running = added(database, created_us=2)
    assert (database.expire(60.0, 60.0, 10), database.expire(60.0, 60.0, 10)) == (1, 0)
    found = database.find(old.id)
    assert found is not None
    assert (found.state, found.transcript_key) == (State.EXPIRED, None)
    assert database.claim_notice(30.0) is None
    assert database.gone_with_files("", 10) == [old.id]
    assert database.forget(60.0) == 0, "its files must be removed first"
    database.note_files(old.id, exist=False)
    assert database.gone_with_files("", 10) == []
    assert database.forget(60.0) == 1
    assert database.find(old.id) is None
    assert database.find(running.id) is not None


def test_jobs_expire_in_batches(database: Database) -> None:
    for _ in range(5):
        added(database, created_us=1)
        database.finish(claimed(database), State.DONE)
    assert [database.expire(60.0, 60.0, 2) for _ in range(4)] == [2, 2, 1, 0]
    names = database.gone_with_files("", 10)
    assert names == sorted(names)
    assert database.gone_with_files(names[1], 2) == names[2:4]


def test_many_threads_claim_every_job_once(database: Database, url: str) -> None:
    """Two connections to the database, as two services have; eight threads."""
    for _ in range(60):
        added(database)
    other = Database(url)
    found: list[str] = []

    def work(mine: Database) -> None:
        while (claim := mine.claim(30.0)) is not None:
            assert mine.finish(claim, State.DONE)
            found.append(claim.job.id)

    threads = [threading.Thread(target=work, args=(each,)) for each in (database, other) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    other.close()
    assert len(found) == len(set(found)) == 60


def test_second_service_finds_the_tables(url: str, database: Database) -> None:
    made = added(database)
    again = Database(url)
    assert again.find(made.id) == made
    again.close()


def test_other_schema_version_is_refused(url: str, database: Database) -> None:
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE voxwright_schema SET version = 7"))
    engine.dispose()
    with pytest.raises(SettingError) as raised:
        Database(url)
    assert raised.value.cause == f"the schema version of {url} is 7, and this release reads {SCHEMA_VERSION}".replace(
        "postgresql:", "postgresql+psycopg:"
    )


NEW_COLUMNS = {2: ("voxwright_jobs", "progress"), 3: ("voxwright_jobs", "has_files"), 4: ("voxwright_notices", "host")}
"""What each version of the schema added."""


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_database_of_an_earlier_release_is_upgraded(url: str, database: Database, version: int) -> None:
    ended, made, gone = added(database), added(database), added(database)
    database.finish(claimed(database), State.DONE)
    database.delete(gone.id, "alice", force=True)
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for table, column in [NEW_COLUMNS[newer] for newer in range(version + 1, SCHEMA_VERSION + 1)]:
            connection.execute(sqlalchemy.text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        connection.execute(sqlalchemy.text("UPDATE voxwright_schema SET version = :version"), {"version": version})
    engine.dispose()
    for _ in range(2):
        again = Database(url)
        assert again.find(made.id) == made
        again.close()
    again = Database(url)
    claim = again.claim(30)
    assert claim is not None
    again.note_progress(claim, 0.5)
    found = again.find(made.id)
    assert found is not None
    assert found.progress == 0.5
    # Earlier releases may have left files of it.
    assert again.gone_with_files("", 10) == [gone.id]
    notice = again.claim_notice(30)
    assert notice is not None
    assert notice.job.id == ended.id
    # Its hosts are not known, so that one is sent at a time.
    assert again.claim_notice(30) is None
    again.end_notice(notice)
    assert again.claim_notice(30) is not None
    again.close()


def test_progress_is_that_of_the_worker_that_holds_the_job(database: Database) -> None:
    made = added(database)

    def progress() -> float | None:
        found = database.find(made.id)
        assert found is not None
        return found.progress

    assert progress() is None
    first = database.claim(0.05)
    assert first is not None
    database.note_progress(first, 0.8)
    assert progress() == 0.8
    time.sleep(0.1)
    second = database.claim(30)
    assert second is not None
    # The next worker begins again, and the one that was away changes nothing.
    assert progress() is None
    database.note_progress(first, 0.9)
    assert progress() is None
    database.note_progress(second, 0.1)
    assert progress() == 0.1
    database.release(second, 0.0)
    assert progress() is None


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("nonsense", "'nonsense' is not a URL of a database"),
        ("mysql://a/b", "mysql is not supported"),
        ("sqlite://", "a database in memory does not survive a restart"),
    ],
)
def test_wrong_urls(url: str, cause: str) -> None:
    with pytest.raises(SettingError) as raised:
        Database(url)
    assert (raised.value.subject, raised.value.cause) == ("--database", cause)


def test_unreachable_database_is_named_without_its_password() -> None:
    with pytest.raises(SettingError) as raised:
        Database("postgresql://me:secret@127.0.0.1:9/jobs?connect_timeout=2")
    assert "postgresql+psycopg://me:***@127.0.0.1:9/jobs" in raised.value.cause
    assert "secret" not in str(raised.value)


def test_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite").write_text("text" * 1000)
    with pytest.raises(SettingError, match=r"cannot be opened \(file is not a database\)"):
        Database(f"sqlite:///{tmp_path}/jobs.sqlite")


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        Database(f"sqlite:///{tmp_path}/file/jobs.sqlite")
