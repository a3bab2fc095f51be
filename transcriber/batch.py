"""Work on several recordings at a time; what each reports appears in the order of the recordings."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
# Results that wait for an earlier one are held in memory: at most this number for each of several jobs. With one job, a
# recording begins when the one before it has been shown, so that its progress bar is alone on the terminal.
_AHEAD = 16
_POLL_S = 0.1
_LAST_WRITES_S = 2.0


class StoppedError(Exception):
    """A signal stopped the work on a recording before its end."""


class Stop:
    """Whether the work is to end, and the signal that ended it; for several threads."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._is_abandoned = False
        self.signal: int | None = None

    def set(self, signal_number: int | None = None) -> None:
        """End the work; `signal_number` is the signal that came, if any."""
        self.signal = self.signal or signal_number
        self._event.set()

    def abandon(self) -> None:
        """End the work, and that on recordings which began as well: their results would go nowhere."""
        self._is_abandoned = True
        self._event.set()

    def is_set(self) -> bool:
        """Return whether the work is to end."""
        return self._event.is_set()

    def check(self, _: object = None) -> None:
        """Raise StoppedError when a signal came, or when the work was abandoned."""
        if self.signal is not None or self._is_abandoned:
            raise StoppedError


def run(
    work: Callable[[Item], Outcome], items: Iterable[Item], jobs: int, stop: Stop, show: Callable[[Outcome], object]
) -> None:
    """Apply `work` to `jobs` items at a time in threads, and `show` in this thread to each outcome, in order.

    Once `stop` is set no further item begins. After a signal the outcomes that are there are shown, also those behind
    one that is not; without a signal all items that began are finished. An exception of `show` ends the work.
    """
    ahead = 1 if jobs == 1 else _AHEAD * jobs
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="recording")
    pending: deque[Future[Outcome]] = deque()
    try:
        for item in items:
            if stop.is_set():
                break
            pending.append(pool.submit(_begin, work, item, stop))
            while pending and (len(pending) >= ahead or pending[0].done()) and _is_done(pending[0], stop):
                _show(pending.popleft(), show)
        while pending and _is_done(pending[0], stop):
            _show(pending.popleft(), show)
        wait(pending, _LAST_WRITES_S)
        for future in pending:
            _show(future, show)
    except BaseException:
        stop.abandon()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(work: Callable[[Item], Outcome], item: Item, stop: Stop) -> Outcome:
    if stop.is_set():
        raise StoppedError
    return work(item)


def _is_done(future: Future[Outcome], stop: Stop) -> bool:
    """Wait for an outcome; return False when a signal comes first."""
    # A signal handler does not end a wait without a timeout.
    while stop.signal is None and not wait([future], _POLL_S).done:
        pass
    return stop.signal is None


def _show(future: Future[Outcome], show: Callable[[Outcome], object]) -> None:
    if not future.done():
        return
    try:
        outcome = future.result()
    except StoppedError:
        return
    show(outcome)
