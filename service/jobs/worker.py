"""Transcribe the jobs of the database, notify, and remove what is too old, in threads."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO, cast

from contract.errors import OutputError, ServerUnreachableError, VoxwrightError
from service import logs
from service.calls import Caller, CallError, StoppedError, headers_of
from service.core import Core
from service.errors import DATABASE_AWAY
from service.jobs import config, documents, notifications
from service.jobs.cleaner import Cleaner
from service.jobs.database import Database
from service.jobs.outages import Outages
from service.jobs.records import Claim, Job, State
from service.jobs.storage import Storage
from service.metrics import ATTEMPTS, DEFECT
from service.recognition import CancelledError
from transcriber.pipeline import TranscriptionResult

_POLL_S = 1.0
_MOST_ATTEMPTS = 5
_SERVER_PAUSE_S, _DISK_PAUSE_S = 5.0, 10.0
_FETCH_ATTEMPTS, _FETCH_PAUSE_S, _LONGEST_FETCH_S = 3, 1.0, 3600.0
_STOP_S = 5.0
"""How long a stop waits for all threads together."""
_NOTIFIERS = 8
"""Threads that send notifications, each to another host."""
_PROGRESS_S = 1.0
"""The least time between two notes of the progress of a job."""


class FetchError(VoxwrightError):
    """A recording cannot be fetched."""


@dataclass(kw_only=True, slots=True, eq=False)
class Held:
    """A job that a thread of this service works on.

    `cancelled` is set when the job is deleted, another service has it, or this service stops.
    """

    claim: Claim
    cancelled: threading.Event = field(default_factory=threading.Event)


class Progress:
    """Stores how much of a recording is transcribed, from time to time."""

    def __init__(self, database: Database, claim: Claim) -> None:
        self._database, self._claim = database, claim
        self._next_s = time.monotonic()

    def __call__(self, done_s: float, declared_s: float | None) -> None:
        """Note the seconds that are done, if the duration is known and the last note is old enough."""
        now_s = time.monotonic()
        if not declared_s or now_s < self._next_s:
            return
        self._next_s = now_s + _PROGRESS_S
        # Without a database the job goes on; its end needs one.
        with contextlib.suppress(*DATABASE_AWAY):
            self._database.note_progress(self._claim, min(1.0, done_s / declared_s))


class Worker:
    """The threads of a service that work on jobs."""

    def __init__(self, core: Core, database: Database, storage: Storage) -> None:
        self._core, self._database, self._storage = core, database, storage
        self._caller = Caller(hosts=core.settings.fetch_hosts, option="--fetch-host", longest_s=_LONGEST_FETCH_S)
        self._held: dict[str, Held] = {}
        self._unreleased: list[Claim] = []
        self._lock = threading.Lock()
        self._work, self._stopping = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._outages = Outages(core, self._stopping)
        self.cleaner = Cleaner(core, database, storage, self._stopping)
        self._notifier = notifications.Notifier(core, database, storage, self._outages)

    def start(self) -> None:
        """Start all threads."""
        loops: list[tuple[str, Callable[[], float], threading.Event]] = [
            *([("job", self._work_once, self._work)] * self._core.settings.parallel),
            ("renew", self._renew_all, self._stopping),
            *([("notify", self._notifier.send_due, self._stopping)] * _NOTIFIERS),
            ("clean", self.cleaner.clean, self._stopping),
        ]
        for name, step, wake in loops:
            thread = threading.Thread(target=self._loop, args=(step, wake), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def wake(self) -> None:
        """Begin a job that was submitted here at once, instead of at the next look into the database."""
        self._work.set()

    def is_busy(self) -> bool:
        """Return whether this service works on a job."""
        with self._lock:
            return bool(self._held)

    def stop(self) -> None:
        """Stop all threads; what they work on is given back, for another service or the next start."""
        with self._lock:
            self._stopping.set()
            for held in self._held.values():
                held.cancelled.set()
        self._work.set()
        # Before a lease ends, which nothing renews from now on.
        end_s = time.monotonic() + min(_STOP_S, self._core.settings.lease_s / 2)
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        self._release_all()

    def _release_all(self) -> None:
        """Release the jobs of threads that did not end in time, such as one that waits for a name server."""
        with self._lock:
            left = [*(held.claim for held in self._held.values()), *self._unreleased]
        try:
            for claim in left:
                self._database.release(claim, 0.0)
            self._notifier.release_all()
        except DATABASE_AWAY as error:
            self._outages.report(error)

    def _loop(self, step: Callable[[], float], wake: threading.Event) -> None:
        """Repeat a step, which returns the seconds until the next; a defect or a database that is away is reported."""
        while not self._stopping.is_set():
            try:
                pause_s = step()
            except DATABASE_AWAY as error:
                self._outages.report(error)
                pause_s = self._outages.pause_s
            except Exception as error:
                self._core.metrics.errors.labels(type(error).__name__).inc()
                logs.exception("a step of the jobs failed, and is repeated")
                pause_s = _SERVER_PAUSE_S
            if pause_s:
                wake.wait(pause_s)
                if wake is self._work and not self._stopping.is_set():
                    wake.clear()

    def _give_back(self, claim: Claim, pause_s: float) -> None:
        """Return a job to the queue after a pause, or at once where this service stops and others can do it."""
        is_ending = self._stopping.is_set() or self._core.draining.is_set()
        self._outages.repeated(lambda: self._database.release(claim, 0.0 if is_ending else pause_s))

    def _work_once(self) -> float:
        recordings = self._core.recordings
        if recordings is None or recordings.recognisers.problem is not None or self._core.draining.is_set():
            return _POLL_S
        claim = self._database.claim(self._core.settings.lease_s)
        if claim is None:
            return _POLL_S
        token = logs.request_id.set(claim.job.id)
        try:
            with self._holding(claim) as held:
                self._process(held)
        finally:
            logs.request_id.reset(token)
        return 0.0

    @contextlib.contextmanager
    def _holding(self, claim: Claim) -> Iterator[Held]:
        held = Held(claim=claim)
        with self._lock:
            self._held[claim.token] = held
            if self._stopping.is_set():
                held.cancelled.set()
        try:
            yield held
        except DATABASE_AWAY:
            # The service stops within an outage. If that ends in time, the job is released at the end of the stop.
            with self._lock:
                self._unreleased.append(claim)
            raise
        finally:
            with self._lock:
                del self._held[claim.token]

    def _process(self, held: Held) -> None:
        """Transcribe a job and end it, or give it back where the cause is not the job."""
        claim = held.claim
        try:
            self._transcribe(held)
        except CancelledError:
            if self._stopping.is_set():
                self._give_back(claim, 0.0)
        except DATABASE_AWAY:
            # No defect: the service stops within an outage.
            raise
        except ServerUnreachableError as error:
            logs.warning(f"the job waits for the server: {error.cause}")
            self._give_back(claim, _SERVER_PAUSE_S)
        except (OutputError, OSError) as error:
            self._core.metrics.errors.labels("storage").inc()
            logs.warning(f"the job waits for the storage: {error}")
            self._give_back(claim, _DISK_PAUSE_S)
        except VoxwrightError as error:
            self._reject(claim, error.cause, type(error).__name__)
        except Exception:
            logs.exception("a job failed by a defect of the service")
            self._reject(claim, "it could not be transcribed, by a defect of the service", DEFECT)

    def _transcribe(self, held: Held) -> None:
        claim, recordings = held.claim, self._core.recordings
        if recordings is None:
            raise CancelledError
        if claim.job.attempts >= _MOST_ATTEMPTS:
            cause = f"the service stopped {claim.job.attempts} times while it transcribed this recording"
            self._reject(claim, cause, ATTEMPTS)
            return
        started = time.monotonic()
        key = claim.job.data_key or self._fetch(held)
        with self._storage.as_file(key) as path:
            found = recordings.transcribe(
                path,
                config.wanted(claim.job.config),
                on_progress=Progress(self._database, claim),
                is_cancelled=held.cancelled.is_set,
            )
        gone = next((error for error in found.errors if isinstance(error, ServerUnreachableError)), None)
        if gone is not None:
            raise gone
        self._finish(claim, found, time.monotonic() - started)

    def _finish(self, claim: Claim, found: TranscriptionResult, wall_s: float) -> None:
        """Store the transcript under a name of its own, so that a worker that is late overwrites nothing."""
        job = claim.job
        transcript = replace(found.transcript, source=job.data_name)
        key = f"{job.id}/transcript-{claim.token}"
        self._storage.write_bytes(key, documents.stored(transcript, self._outages.repeated(self._database.now_us)))
        is_held = self._outages.repeated(
            lambda: self._database.finish(
                claim,
                State.DONE,
                transcript_key=key,
                duration_s=transcript.duration_s,
                errors=[error.cause for error in found.errors],
            )
        )
        if not is_held and not self._is_finished_with(job, key):
            self._discard(job, key)
            logs.warning("the job was deleted, or another service took it over; its result is not used")
            return
        self._core.metrics.transcribed("job", transcript.duration_s, wall_s)
        for error in found.errors:
            self._core.metrics.errors.labels(type(error).__name__).inc()
        logs.info("job done", audio_s=round(transcript.duration_s, 3), seconds=round(wall_s, 3))

    def _is_finished_with(self, job: Job, key: str) -> bool:
        """Whether a job has ended with this transcript: the answer to a commit can be lost with its connection."""
        found = self._outages.repeated(lambda: self._database.find(job.id))
        return found is not None and found.transcript_key == key

    def _reject(self, claim: Claim, cause: str, kind: str) -> None:
        self._core.metrics.errors.labels(kind).inc()
        if self._outages.repeated(lambda: self._database.finish(claim, State.REJECTED, errors=[cause])):
            logs.info(f"job rejected: {cause}")

    def _fetch(self, held: Held) -> str:
        """Fetch the recording of a job and store it; return its key."""
        job = held.claim.job
        wanted = job.config["fetch_data"]
        headers = headers_of(wanted.get("auth_headers", []))
        for attempt in range(1, _FETCH_ATTEMPTS + 1):
            try:
                return self._fetch_once(held, wanted["url"], headers)
            except StoppedError:
                raise CancelledError from None
            except CallError as error:
                if error.is_final or attempt == _FETCH_ATTEMPTS:
                    raise FetchError(job.id, f"the recording cannot be fetched: {error}", "Check the URL") from error
            if held.cancelled.wait(_FETCH_PAUSE_S * attempt):
                raise CancelledError
        raise CancelledError

    def _fetch_once(self, held: Held, url: str, headers: Mapping[str, str]) -> str:
        with tempfile.TemporaryFile() as file:
            # The type of a temporary file is not that of a binary file for the type checker.
            target = cast("BinaryIO", file)
            most_bytes = self._core.settings.limits.upload_bytes
            self._caller.fetch(url, headers, target, most_bytes, held.cancelled.is_set)
            file.seek(0)
            return self._keep(held.claim, target)

    def _keep(self, claim: Claim, source: BinaryIO) -> str:
        key = f"{claim.job.id}/recording-{claim.token}"
        self._storage.write(key, source)
        if not self._outages.repeated(lambda: self._database.fetched(claim, key)):
            self._discard(claim.job, key)
            raise CancelledError
        return key

    def _discard(self, job: Job, key: str) -> None:
        """Remove a file of a job that is lost; where the storage fails, the cleaner does it after the job is gone."""
        self._outages.repeated(lambda: self._database.note_files(job.id, exist=True))
        self._storage.discard(key)

    def _renew_all(self) -> float:
        with self._lock:
            held = list(self._held.values())
        for each in held:
            if not self._database.renew(each.claim, self._core.settings.lease_s):
                each.cancelled.set()
        self._notifier.renew_all()
        return self._core.settings.lease_s / 4
