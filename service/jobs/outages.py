"""Repeat what a service stores of its work while the database is away."""

import threading
from collections.abc import Callable
from typing import TypeVar

from service import logs
from service.core import Core
from service.errors import DATABASE_AWAY, database_problem

_LONGEST_PAUSE_S = 5.0
Value = TypeVar("Value")


class Outages:
    """What the threads of a service do while the database is away, until `stopping` is set."""

    def __init__(self, core: Core, stopping: threading.Event) -> None:
        self._core, self._stopping = core, stopping
        # A short lease must be renewed soon after an outage.
        self.pause_s = min(_LONGEST_PAUSE_S, core.settings.lease_s / 4)

    def report(self, error: Exception) -> None:
        """Count and log one of DATABASE_AWAY."""
        self._core.metrics.errors.labels("database").inc()
        logs.warning(f"the database does not answer: {database_problem(error)}")

    def repeated(self, change: Callable[[], Value]) -> Value:
        """Return what a change of the database returns; repeat it while the database is away, until the service stops.

        A change of what another service took over meanwhile has no effect.
        """
        while True:
            try:
                return change()
            except DATABASE_AWAY as error:
                if self._stopping.is_set():
                    raise
                self.report(error)
                self._stopping.wait(self.pause_s)
