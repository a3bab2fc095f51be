"""Repeat what a service stores of its work while the database is away."""

import threading
import time
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
        self._next_report_s = time.monotonic()

    def report(self, error: Exception) -> None:
        """Count one of DATABASE_AWAY, and log it unless another thread did so a moment ago."""
        self._core.metrics.errors.labels("database").inc()
        if (now_s := time.monotonic()) < self._next_report_s:
            return
        self._next_report_s = now_s + self.pause_s
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
