"""Keep jobs in SQLite or PostgreSQL, so that several services can share them.

A worker claims a job with a lease and a token of its own. Only the worker whose token the job still has can finish it:
one that was away for longer than its lease finishes nothing. So a job is never lost and never done twice.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import sqlalchemy as sql
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from contract.errors import OutputError, SettingError
from service.addresses import place
from service.jobs.records import Claim, Job, JobError, Notice, State

SCHEMA_VERSION = 4
# What each version added to the one before it.
_UPGRADES = {
    2: ("ALTER TABLE voxwright_jobs ADD COLUMN progress FLOAT",),
    # Earlier releases may have left files of deleted and expired jobs.
    3: ("ALTER TABLE voxwright_jobs ADD COLUMN has_files SMALLINT NOT NULL DEFAULT 1",),
    # Notifications of earlier releases have no host, and are sent one at a time, as these releases did.
    4: ("ALTER TABLE voxwright_notices ADD COLUMN host TEXT NOT NULL DEFAULT ''",),
}
_SQLITE_WAIT_S = 30.0
_LOCK_OF_SCHEMA, _LOCK_OF_NOTICES = 7_302_941, 7_302_942
"""Numbers that all services use for PostgreSQL's advisory locks."""
_NEVER_US = 2**62
_GONE_STATES = (State.DELETED, State.EXPIRED)
_READS = {"voxwright_reads": True}

_tables = sql.MetaData()
_schema = sql.Table("voxwright_schema", _tables, sql.Column("version", sql.Integer, primary_key=True))
_jobs = sql.Table(
    "voxwright_jobs",
    _tables,
    sql.Column("id", sql.String(16), primary_key=True),
    sql.Column("client", sql.Text, nullable=False),
    sql.Column("state", sql.String(16), nullable=False),
    sql.Column("created_us", sql.BigInteger, nullable=False),
    sql.Column("config", sql.Text, nullable=False),
    sql.Column("data_name", sql.Text, nullable=False),
    sql.Column("data_key", sql.Text),
    sql.Column("transcript_key", sql.Text),
    sql.Column("duration_s", sql.Float, nullable=False, default=0.0),
    # The share that is transcribed.
    sql.Column("progress", sql.Float),
    # 0 when the job is gone and its files are removed; services of an earlier release do not write it.
    sql.Column("has_files", sql.SmallInteger, nullable=False, server_default="1"),
    sql.Column("errors", sql.Text, nullable=False, default="[]"),
    sql.Column("attempts", sql.Integer, nullable=False, default=0),
    # Who works on it, and from when on another worker may take it.
    sql.Column("token", sql.String(36)),
    sql.Column("free_us", sql.BigInteger, nullable=False, default=0),
    sql.Index("voxwright_jobs_due", "state", "free_us"),
    sql.Index("voxwright_jobs_of_client", "client", "created_us"),
)
_notices = sql.Table(
    "voxwright_notices",
    _tables,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("job", sql.String(16), sql.ForeignKey("voxwright_jobs.id"), nullable=False),
    sql.Column("number", sql.Integer, nullable=False),
    # The host and port of its URL.
    sql.Column("host", sql.Text, nullable=False, server_default=""),
    sql.Column("attempts", sql.Integer, nullable=False, default=0),
    sql.Column("token", sql.String(36)),
    sql.Column("free_us", sql.BigInteger, nullable=False, default=0),
    sql.Index("voxwright_notices_due", "free_us"),
)


class Database:
    """The jobs of all services that share a database; for several threads."""

    def __init__(self, url: str) -> None:
        """Open the database and make its tables where there are none.

        Raises SettingError for a URL that cannot be used and for a schema of another release.
        """
        self._engine = _engine(url)
        self._shown = self._engine.url.render_as_string(hide_password=True)
        try:
            self._prepare()
        except DBAPIError as error:
            cause = f"{self._shown} cannot be opened ({_reason(error)})"
            raise SettingError("--database", cause, "Check the address, the user and its rights") from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def reserve(self, job: Job, *, most_unfinished: int) -> bool:
        """Note a job whose recording is about to be stored, so that a service that dies leaves no unknown files.

        Returns False where its client has too many jobs that are not done.
        """
        with self._writing() as connection:
            if _unfinished(connection, job.client) >= most_unfinished:
                return False
            connection.execute(_jobs.insert().values(**_row(job) | {"state": State.RECEIVING, "free_us": _NEVER_US}))
            return True

    def withdraw(self, job_id: str) -> bool:
        """End a reserved job that will not be added, as an expired one; return False where it was added after all."""
        reserved = _jobs.c.id == job_id, _jobs.c.state == State.RECEIVING
        with self._writing() as connection:
            return bool(connection.execute(_jobs.update().where(*reserved).values(**_gone(State.EXPIRED))).rowcount)

    def add(self, job: Job, *, most_unfinished: int) -> bool:
        """Store a job, reserved or new; return False where its client has too many jobs that are not done."""
        reserved = _jobs.c.id == job.id, _jobs.c.state == State.RECEIVING
        with self._writing() as connection:
            if _unfinished(connection, job.client) >= most_unfinished:
                return False
            if not connection.execute(_jobs.update().where(*reserved).values(**_row(job))).rowcount:
                connection.execute(_jobs.insert().values(**_row(job)))
            return True

    def now_us(self) -> int:
        """Return the time of the database, which all services share."""
        with self._reading() as connection:
            return _now_us(connection)

    def find(self, job_id: str, client: str | None = None) -> Job | None:
        """Return a job; None where there is none, or where it belongs to another client than the one named."""
        query = sql.select(_jobs).where(_is_job(job_id))
        if client is not None:
            query = query.where(_jobs.c.client == client)
        with self._reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else _job(row)

    def newest(
        self,
        client: str,
        *,
        limit: int,
        before_us: int | None = None,
        after_us: int | None = None,
        states: Sequence[State] = (State.RUNNING, State.DONE, State.REJECTED),
    ) -> list[Job]:
        """Return the jobs of a client, the newest first."""
        query = sql.select(_jobs).where(_jobs.c.client == client, _jobs.c.state.in_(states))
        if before_us is not None:
            query = query.where(_jobs.c.created_us < before_us)
        if after_us is not None:
            query = query.where(_jobs.c.created_us > after_us)
        query = query.order_by(_jobs.c.created_us.desc(), _jobs.c.id).limit(limit)
        with self._reading() as connection:
            return [_job(row) for row in connection.execute(query)]

    def unfinished(self) -> dict[str, int]:
        """Return the number of jobs that wait and that run, of all clients."""
        with self._reading() as connection:
            now = _now_us(connection)
            held = sql.and_(_jobs.c.token.is_not(None), _jobs.c.free_us > now)
            query = sql.select(
                sql.func.count(), sql.func.coalesce(sql.func.sum(sql.case((held, 1), else_=0)), 0)
            ).where(_jobs.c.state == State.RUNNING)
            total, held_count = connection.execute(query).one()
        return {"waiting": total - int(held_count), "running": int(held_count)}

    def claim(self, lease_s: float) -> Claim | None:
        """Take the oldest job that no worker holds; None where there is none."""
        with self._writing() as connection:
            taken = _take(connection, _jobs, lease_s, _jobs.c.created_us, _jobs.c.state == State.RUNNING)
            if taken is None:
                return None
            claim = Claim(job=_job(taken[0]), token=taken[1])
            if claim.job.progress is not None:
                # That of a service that died.
                self._change(connection, claim, progress=None)
            return claim

    def renew(self, claim: Claim, lease_s: float) -> bool:
        """Lengthen the lease; return False where the job is deleted or another worker has it."""
        with self._writing() as connection:
            until = _now_us(connection) + round(lease_s * 1e6)
            return self._change(connection, claim, free_us=until)

    def note_progress(self, claim: Claim, progress: float) -> None:
        """Store the share of a recording that is transcribed, for the clients of all services."""
        with self._writing() as connection:
            self._change(connection, claim, progress=progress)

    def release(self, claim: Claim, pause_s: float) -> None:
        """Return a job to the queue after a pause, as if it had not been tried."""
        with self._writing() as connection:
            free_us = _now_us(connection) + round(pause_s * 1e6)
            back = {"token": None, "progress": None, "attempts": claim.job.attempts}
            self._change(connection, claim, free_us=free_us, **back)

    def fetched(self, claim: Claim, data_key: str) -> bool:
        """Note where the recording of a job lies that was fetched; return False where the job is lost."""
        with self._writing() as connection:
            return self._change(connection, claim, data_key=data_key)

    def finish(
        self,
        claim: Claim,
        state: State,
        *,
        transcript_key: str | None = None,
        duration_s: float = 0.0,
        errors: Sequence[str] = (),
    ) -> bool:
        """End a job and queue its notifications, both or none; return False where the job is lost."""
        with self._writing() as connection:
            now = _now_us(connection)
            found = [JobError(message=message, at_us=now) for message in errors]
            is_held = self._change(
                connection,
                claim,
                state=state,
                transcript_key=transcript_key,
                duration_s=duration_s,
                errors=_errors_text(found),
                token=None,
                free_us=_NEVER_US,
            )
            if is_held:
                for number, wanted in enumerate(claim.job.config.get("notification_config", ())):
                    row = {"job": claim.job.id, "number": number, "host": place(wanted["url"])}
                    connection.execute(_notices.insert().values(**row))
            return is_held

    def delete(self, job_id: str, client: str, *, force: bool) -> tuple[Job | None, bool]:
        """Delete a job; return it as it was, and whether it is deleted: a running one is deleted only by `force`."""
        states = [State.DONE, State.REJECTED, *([State.RUNNING] if force else [])]
        query = sql.select(_jobs).where(_is_job(job_id), _jobs.c.client == client).with_for_update()
        with self._writing() as connection:
            row = connection.execute(query).first()
            if row is None:
                return None, False
            is_deleted = row.state in states
            if is_deleted:
                self._remove(connection, job_id, State.DELETED)
            return _job(row), is_deleted

    def expire(self, retention_s: float, reserved_s: float, limit: int) -> int:
        """Mark up to `limit` jobs that are older than the retention as expired; return their number.

        Reserved ones expire after `reserved_s`: the service that received their recordings died.
        """
        with self._writing() as connection:
            now = _now_us(connection)
            is_ended = _jobs.c.state.in_([State.DONE, State.REJECTED])
            is_reserved = _jobs.c.state == State.RECEIVING
            is_old = sql.or_(
                sql.and_(is_ended, _jobs.c.created_us < now - round(retention_s * 1e6)),
                sql.and_(is_reserved, _jobs.c.created_us < now - round(reserved_s * 1e6)),
            )
            query = sql.select(_jobs.c.id).where(is_old).limit(limit).with_for_update(skip_locked=True)
            found = list(connection.execute(query).scalars())
            for job_id in found:
                self._remove(connection, job_id, State.EXPIRED)
            return len(found)

    def gone_with_files(self, after: str, limit: int) -> list[str]:
        """Return deleted and expired jobs whose files are not removed yet, in the order of their ids."""
        query = sql.select(_jobs.c.id).where(
            _jobs.c.state.in_(_GONE_STATES), _jobs.c.has_files == 1, _jobs.c.id > after
        )
        with self._reading() as connection:
            return list(connection.execute(query.order_by(_jobs.c.id).limit(limit)).scalars())

    def note_files(self, job_id: str, *, exist: bool) -> None:
        """Note whether a job that is deleted or expired still has files; any other job has."""
        gone = _jobs.c.id == job_id, _jobs.c.state.in_(_GONE_STATES)
        with self._writing() as connection:
            connection.execute(_jobs.update().where(*gone).values(has_files=int(exist)))

    def forget(self, age_s: float) -> int:
        """Remove the rows of jobs that are gone with their files and older than an age; return their number."""
        with self._writing() as connection:
            oldest = _now_us(connection) - round(age_s * 1e6)
            gone = _jobs.c.state.in_(_GONE_STATES), _jobs.c.has_files == 0
            return connection.execute(_jobs.delete().where(*gone, _jobs.c.created_us < oldest)).rowcount

    def claim_notice(self, lease_s: float) -> Notice | None:
        """Take a notification that is due, of a host to which no service sends one now; None where there is none."""
        with self._reading() as connection:
            due = sql.select(sql.func.count()).select_from(_notices).where(_notices.c.free_us <= _now_us(connection))
            if not connection.execute(due).scalar_one():
                # Many threads look for notifications, and only those that may find one take a lock.
                return None
        with self._writing() as connection:
            if connection.dialect.name == "postgresql":
                # Two services must not take two notifications of one host at the same time.
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK_OF_NOTICES)))
            sent = _notices.alias()
            busy = sql.select(sent.c.host).where(sent.c.token.is_not(None), sent.c.free_us > _now_us(connection))
            taken = _take(connection, _notices, lease_s, _notices.c.free_us, _notices.c.host.not_in(busy))
            if taken is None:
                return None
            row, token = taken
            job = connection.execute(sql.select(_jobs).where(_jobs.c.id == row.job)).one()
            return Notice(id=row.id, job=_job(job), number=row.number, attempts=row.attempts + 1, token=token)

    def renew_notice(self, notice: Notice, lease_s: float) -> bool:
        """Lengthen the lease of a notification; return False where its job is deleted or another service has it."""
        with self._writing() as connection:
            until = _now_us(connection) + round(lease_s * 1e6)
            return self._change_notice(connection, notice, free_us=until)

    def release_notice(self, notice: Notice) -> None:
        """Return a notification to the queue, as if it had not been tried."""
        with self._writing() as connection:
            self._change_notice(connection, notice, token=None, free_us=0, attempts=notice.attempts - 1)

    def delay_notice(self, notice: Notice, pause_s: float) -> None:
        """Try a notification again after a pause."""
        with self._writing() as connection:
            free_us = _now_us(connection) + round(pause_s * 1e6)
            self._change_notice(connection, notice, token=None, free_us=free_us)

    def end_notice(self, notice: Notice) -> None:
        """Remove a notification that was sent, also where another service has it by now: it need not send it again."""
        # SQLite gives the id of a removed row to a new one.
        sent = _notices.c.id == notice.id, _notices.c.job == notice.job.id, _notices.c.number == notice.number
        with self._writing() as connection:
            connection.execute(_notices.delete().where(*sent))

    def give_up_notice(self, notice: Notice, error: str) -> None:
        """Remove a notification that is still held, and add an error to those of its job."""
        # The job first, as in `delete`: two transactions that lock in different orders would wait for each other.
        query = sql.select(_jobs.c.errors).where(_jobs.c.id == notice.job.id).with_for_update()
        with self._writing() as connection:
            known = connection.execute(query).scalar()
            mine = _notices.c.id == notice.id, _notices.c.token == notice.token
            if connection.execute(_notices.delete().where(*mine)).rowcount and known is not None:
                errors = [*_errors(known), JobError(message=error, at_us=_now_us(connection))]
                change = _jobs.update().where(_jobs.c.id == notice.job.id)
                connection.execute(change.values(errors=_errors_text(errors)))

    @staticmethod
    def _change_notice(connection: Connection, notice: Notice, **values: Any) -> bool:
        """Change a notification that is still held; return whether it is."""
        mine = _notices.c.id == notice.id, _notices.c.token == notice.token
        return bool(connection.execute(_notices.update().where(*mine).values(**values)).rowcount)

    @staticmethod
    def _change(connection: Connection, claim: Claim, **values: Any) -> bool:
        """Change a job that is still held; return whether it is."""
        mine = _jobs.c.id == claim.job.id, _jobs.c.token == claim.token, _jobs.c.state == State.RUNNING
        return bool(connection.execute(_jobs.update().where(*mine).values(**values)).rowcount)

    @staticmethod
    def _remove(connection: Connection, job_id: str, state: State) -> None:
        connection.execute(_notices.delete().where(_notices.c.job == job_id))
        connection.execute(_jobs.update().where(_jobs.c.id == job_id).values(**_gone(state)))

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(**_READS) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            yield connection

    def _prepare(self) -> None:
        with self._writing() as connection:
            if connection.dialect.name == "postgresql":
                # Two services that start together must not both make the tables.
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK_OF_SCHEMA)))
            if not sql.inspect(connection).has_table(_schema.name):
                _tables.create_all(connection)
                connection.execute(_schema.insert().values(version=SCHEMA_VERSION))
            versions = list(connection.execute(sql.select(_schema.c.version)).scalars())
            if len(versions) == 1:
                versions = [_upgraded(connection, versions[0])]
        if versions != [SCHEMA_VERSION]:
            found = " and ".join(map(str, versions)) or "none"
            raise SettingError(
                "--database",
                f"the schema version of {self._shown} is {found}, and this release reads {SCHEMA_VERSION}",
                "Use the release that wrote it, or name another database",
            )


def _upgraded(connection: Connection, version: int) -> int:
    """Add to an older schema what is new in this release; return the version of the schema afterwards."""
    for newer in range(version + 1, SCHEMA_VERSION + 1):
        for statement in _UPGRADES[newer]:
            connection.execute(sql.text(statement))
        connection.execute(_schema.update().values(version=newer))
    return max(version, SCHEMA_VERSION)


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        remedy = "Use sqlite:///FILE or postgresql://USER@HOST/NAME"
        raise SettingError("--database", f"{url!r} is not a URL of a database", remedy) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        cause = f"{parsed.drivername} is not supported"
        raise SettingError("--database", cause, "Use sqlite:///FILE or postgresql://USER@HOST/NAME")
    try:
        if parsed.get_backend_name() == "postgresql":
            # A connection that the server closed is noticed before it is used.
            return sql.create_engine(parsed, pool_pre_ping=True)
        return _sqlite(parsed)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise SettingError("--database", f"{parsed.drivername} is not installed", "Use postgresql://...") from error


def _sqlite(url: sql.URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise SettingError("--database", "a database in memory does not survive a restart", "Use sqlite:///FILE")
    folder = Path(url.database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(folder, f"cannot be made ({error.strerror})", "Name another --database") from error
    engine = sql.create_engine(url, connect_args={"timeout": _SQLITE_WAIT_S})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        # Python's own handling of transactions would begin them late, so that two writers could meet.
        connection.isolation_level = None
        for line in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {line}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("voxwright_reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _take(
    connection: Connection,
    table: sql.Table,
    lease_s: float,
    order: sql.Column[int],
    *conditions: sql.ColumnElement[bool],
) -> tuple[Any, str] | None:
    """Take the first free row with a lease; return it as it was and the new token, None where no row is free."""
    now = _now_us(connection)
    # SQLite knows no lock of a row: there a transaction that writes has the database alone.
    query = (
        sql.select(table)
        .where(table.c.free_us <= now, *conditions)
        .order_by(order)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    held = {"token": str(uuid4()), "free_us": now + round(lease_s * 1e6), "attempts": row.attempts + 1}
    connection.execute(table.update().where(table.c.id == row.id).values(**held))
    return row, held["token"]


def _unfinished(connection: Connection, client: str) -> int:
    mine = _jobs.c.client == client, _jobs.c.state == State.RUNNING
    return int(connection.execute(sql.select(sql.func.count()).select_from(_jobs).where(*mine)).scalar_one())


def _gone(state: State) -> dict[str, Any]:
    return {"state": state, "token": None, "free_us": _NEVER_US, "data_key": None, "transcript_key": None}


def _is_job(job_id: str) -> sql.ColumnElement[bool]:
    # No job has such an id, and PostgreSQL takes no zero in a text.
    return sql.false() if "\0" in job_id else _jobs.c.id == job_id


def _now_us(connection: Connection) -> int:
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1000
    # Services on several machines share the clock of the database.
    text = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    return int(connection.execute(sql.text(text)).scalar_one())


def _row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "client": job.client,
        "state": job.state,
        "created_us": job.created_us,
        "config": json.dumps(job.config, ensure_ascii=False),
        "data_name": job.data_name,
        "data_key": job.data_key,
        "duration_s": job.duration_s,
        "free_us": 0,
    }


def _job(row: Any) -> Job:
    return Job(
        id=row.id,
        client=row.client,
        state=State(row.state),
        created_us=row.created_us,
        config=json.loads(row.config),
        data_name=row.data_name,
        data_key=row.data_key,
        transcript_key=row.transcript_key,
        duration_s=row.duration_s,
        progress=row.progress,
        errors=tuple(_errors(row.errors)),
        attempts=row.attempts,
    )


def _errors(text: str) -> list[JobError]:
    return [JobError(message=message, at_us=at_us) for message, at_us in json.loads(text)]


def _errors_text(errors: Sequence[JobError]) -> str:
    return json.dumps([[error.message, error.at_us] for error in errors], ensure_ascii=False)


def _reason(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split())
