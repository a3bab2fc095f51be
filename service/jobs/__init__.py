"""Batch jobs: recordings are submitted, and their transcripts are fetched later."""

import contextlib
import functools
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from service.core import Core, Part
from service.errors import speechmatics
from service.jobs import routes
from service.jobs.database import Database
from service.jobs.storage import Storage
from service.jobs.worker import Worker


def part(core: Core) -> Part:
    """Return the part that serves batch jobs; raise SettingError where database or storage cannot be used."""
    database = Database(core.settings.database)
    storage = Storage(core.settings.storage)
    worker = Worker(core, database, storage)
    for state in ("waiting", "running"):
        core.metrics.jobs.labels(state).set_function(functools.partial(_count, database, state))

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            await run_in_threadpool(worker.stop)
            database.close()

    return Part(
        router=routes.router(core, database, storage, worker),
        running=running,
        renders={"/v2": speechmatics},
        is_busy=worker.is_busy,
    )


def _count(database: Database, state: str) -> float:
    return database.unfinished()[state]


__all__ = ["part"]
