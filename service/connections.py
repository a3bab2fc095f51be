"""Limit what a connection costs before it has sent a request: the time it is waited for, and how many there are.

Every host that reaches the port can open connections, also without a key.
"""

import asyncio
import resource
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from service import logs

WAIT_S = 30.0
"""How long a connection may be open without a request that is complete to the end of its header."""
BACKLOG = 128
"""Connections that are accepted in one turn of the loop, and that the system keeps until then."""
_SPARE_FILES = 512
"""What the rest of the service opens: files of jobs, connections to servers and to the database."""
_REPORT_PAUSE_S = 10.0


def raise_limit() -> int:
    """Let the process open as many files as it may; return how many connections fit.

    Where a process has no file left, asyncio accepts no connection and logs it thousands of times a second.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return 2**20 if soft == resource.RLIM_INFINITY else max(soft - _SPARE_FILES, soft // 4)


class Http(H11Protocol):
    """A connection that is closed when no request comes in time, and at once when there are too many."""

    most = 2**20
    """The most connections of a process; see `raise_limit`."""
    _next_report_s = 0.0

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._report()
            transport.abort()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the wait."""
        super().connection_lost(exc)
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request; the wait ends with its header."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, which may have come already."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        is_served = self.cycle is not None and not self.cycle.response_complete
        # A WebSocket has a protocol of its own.
        if is_served or self.transport.get_protocol() is not self or self.transport.is_closing():
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(WAIT_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _report(self) -> None:
        if (now_s := time.monotonic()) >= Http._next_report_s:
            Http._next_report_s = now_s + _REPORT_PAUSE_S
            logs.warning(f"more than {self.most} connections are open; new ones are closed")
