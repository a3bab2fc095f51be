"""Remove jobs that are too old, and the files of jobs that are gone."""

import threading

from service import logs
from service.core import Core
from service.jobs.database import Database
from service.jobs.records import State
from service.jobs.storage import Storage

_PAUSE_S = 60.0
_BATCH = 100
_MOST_FAILURES = 10
"""After so many jobs whose files cannot be removed, a pass ends: the storage is probably away."""
_UNLISTED_AGE_S = 86_400.0
"""How old files without a job are before they are removed: their recording may still be received."""


class Cleaner:
    """Removes what is too old until `stopping` is set.

    A job that is deleted or expired has a note that its files exist, until they are removed. So an error of the storage
    leaves nothing for ever.
    """

    def __init__(self, core: Core, database: Database, storage: Storage, stopping: threading.Event) -> None:
        self._core, self._database, self._storage, self._stopping = core, database, storage, stopping
        self._after = ""
        """The job behind which the next pass goes on."""

    def clean(self) -> float:
        """Remove the files of jobs that are gone, their rows later, and files that no job has.

        Returns the seconds until the next pass.
        """
        retention_s = self._core.settings.limits.retention_s
        while self._database.expire(retention_s, _UNLISTED_AGE_S, _BATCH) == _BATCH and not self._stopping.is_set():
            pass
        self._remove_gone()
        self._database.forget(2 * retention_s)
        self._remove_unlisted()
        return min(_PAUSE_S, retention_s)

    def remove(self, job: str, *, is_last: bool = True) -> bool:
        """Remove the files of a job that is gone; return False where the storage fails, and a later pass repeats it.

        Without `is_last`, a later pass removes what a worker may still write.
        """
        try:
            self._storage.remove(job)
        except Exception as error:
            # Each kind of store has errors of its own.
            self._core.metrics.errors.labels("storage").inc()
            reason = " ".join(str(error).split()) or type(error).__name__
            logs.warning(f"the files of job {job} cannot be removed yet: {reason}", job=job)
            return False
        if is_last:
            self._database.note_files(job, exist=False)
        return True

    def _remove_gone(self) -> None:
        """Remove the files of jobs that are gone; where that fails, the next pass begins behind them."""
        failures = 0
        while True:
            batch = self._database.gone_with_files(self._after, _BATCH)
            for job in batch:
                self._after = job
                failures += not self.remove(job)
                if failures == _MOST_FAILURES or self._stopping.is_set():
                    return
            if len(batch) < _BATCH:
                self._after = ""
                return

    def _remove_unlisted(self) -> None:
        for name in self._storage.jobs(_UNLISTED_AGE_S):
            found = self._database.find(name)
            if found is None or found.state in (State.DELETED, State.EXPIRED):
                self.remove(name)
