"""Notify the URLs that clients named when their jobs end, until they answer with success."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO
from urllib.parse import urlencode, urlsplit, urlunsplit

from contract.errors import OutputError
from service import logs
from service.calls import Caller, CallError, StoppedError, headers_of
from service.core import Core
from service.jobs import documents
from service.jobs.database import Database
from service.jobs.outages import Outages
from service.jobs.records import Job, Notice, State
from service.jobs.storage import Storage
from service.metrics import DEFECT

_POLL_S = 1.0
_MOST_ATTEMPTS = 10
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0
_LONGEST_SEND_S = 1800.0
_DEFAULT_FIELD = "data_file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """A part of a notification: its name in a form, the name of its file, its type and its bytes, or an open file."""

    name: str
    file: str
    type: str
    body: bytes | BinaryIO


@dataclass(kw_only=True, slots=True, eq=False)
class Held:
    """A notification that a thread of this service sends.

    `cancelled` is set when its job is deleted or another service has it.
    """

    notice: Notice
    cancelled: threading.Event = field(default_factory=threading.Event)


class Notifier:
    """Send the notifications that are due."""

    def __init__(self, core: Core, database: Database, storage: Storage, outages: Outages) -> None:
        self._core, self._database, self._storage, self._outages = core, database, storage, outages
        self._held: dict[str, Held] = {}
        self._lock = threading.Lock()
        self._caller = Caller(hosts=core.settings.notify_hosts, option="--notify-host", longest_s=_LONGEST_SEND_S)

    def send_due(self) -> float:
        """Send one notification; return the seconds until the next look."""
        # A service that dies while it sends leaves the notification to others: it is sent at least once.
        notice = self._database.claim_notice(self._core.settings.lease_s)
        if notice is None:
            return _POLL_S
        if notice.attempts > _MOST_ATTEMPTS:
            # The last attempt has not ended: a notification that ends a service would end each of them.
            self._give_up(notice, f"{_MOST_ATTEMPTS} attempts did not succeed")
            return 0.0
        with self._holding(notice) as held:
            self._attempt(held)
        return 0.0

    def renew_all(self) -> None:
        """Renew the leases of what is sent at the moment."""
        for each in self._sending():
            if not self._database.renew_notice(each.notice, self._core.settings.lease_s):
                each.cancelled.set()

    def release_all(self) -> None:
        """Release what is still sent when the service stops."""
        for each in self._sending():
            self._database.release_notice(each.notice)

    def _sending(self) -> list[Held]:
        with self._lock:
            return list(self._held.values())

    @contextlib.contextmanager
    def _holding(self, notice: Notice) -> Iterator[Held]:
        held = Held(notice=notice)
        with self._lock:
            self._held[notice.token] = held
        try:
            yield held
        finally:
            with self._lock:
                del self._held[notice.token]

    def _attempt(self, held: Held) -> None:
        notice = held.notice
        try:
            self._send(held)
        except StoppedError:
            logs.warning(f"job {notice.job.id} was deleted, or another service notifies of it")
        except CallError as error:
            self._failed(notice, str(error), is_final=error.is_final)
        except (OutputError, OSError) as error:
            self._core.metrics.errors.labels("storage").inc()
            logs.warning(f"the content of a notification of job {notice.job.id} cannot be read: {error}")
            self._failed(notice, "its content cannot be read")
        except Exception:
            self._core.metrics.errors.labels(DEFECT).inc()
            logs.exception(f"a notification of job {notice.job.id} failed by a defect of the service")
            self._failed(notice, "a defect of the service")
        else:
            self._outages.repeated(lambda: self._database.end_notice(notice))

    def _send(self, held: Held) -> None:
        job = held.notice.job
        wanted = job.config["notification_config"][held.notice.number]
        url = address(wanted["url"], job)
        headers = headers_of(wanted.get("auth_headers", []))
        method = wanted.get("method", "post").upper()
        with contextlib.ExitStack() as files:
            found = self._contents(job, wanted.get("contents"), files)
            body: dict[str, Any] = {}
            if len(found) == 1 and found[0].name not in ("data", _DEFAULT_FIELD):
                headers["Content-Type"] = found[0].type
                body["content"] = found[0].body
            elif found:
                body["files"] = [(each.name, (each.file, each.body, each.type)) for each in found]
            self._caller.send(method, url, headers, is_cancelled=held.cancelled.is_set, **body)

    def _contents(self, job: Job, names: list[str] | None, files: contextlib.ExitStack) -> list[Content]:
        """Return the parts that exist: a job that was rejected has no transcript."""
        if names is None:
            found = self._content(job, "transcript", files)
            # Without a list, the transcript is a file of a form.
            return [] if found is None else [replace(found, name=_DEFAULT_FIELD)]
        return [found for name in names if (found := self._content(job, name, files)) is not None]

    def _content(self, job: Job, name: str, files: contextlib.ExitStack) -> Content | None:
        if name == "jobinfo":
            body = json.dumps({"job": documents.description(job, with_config=True)}).encode()
            return Content(name=name, file=f"{job.id}.jobinfo.json", type=documents.JSON, body=body)
        if name == "data":
            if job.data_key is None:
                return None
            # A recording can be larger than the memory, so it is sent from its file.
            path = files.enter_context(self._storage.as_file(job.data_key))
            recording = files.enter_context(path.open("rb"))
            return Content(name=name, file=job.data_name, type="application/octet-stream", body=recording)
        if job.transcript_key is None:
            return None
        format_name = name.partition(".")[2] or "json-v2"
        text = documents.written(format_name, job, self._storage.read_bytes(job.transcript_key))
        suffix = {"json-v2": "json"}.get(format_name, format_name)
        return Content(name=name, file=f"{job.id}.{suffix}", type=documents.media_type(format_name), body=text.encode())

    def _failed(self, notice: Notice, reason: str, *, is_final: bool = False) -> None:
        self._core.metrics.errors.labels("notification").inc()
        if is_final or notice.attempts >= _MOST_ATTEMPTS:
            self._give_up(notice, reason)
            return
        pause_s = min(_FIRST_PAUSE_S * 2 ** (notice.attempts - 1), _LONGEST_PAUSE_S)
        self._outages.repeated(lambda: self._database.delay_notice(notice, pause_s))

    def _give_up(self, notice: Notice, reason: str) -> None:
        logs.warning(f"job {notice.job.id} ended without notification: {reason}")
        error = f"notification {notice.number + 1} was not sent: {reason}"
        self._outages.repeated(lambda: self._database.give_up_notice(notice, error))


def address(url: str, job: Job) -> str:
    """Return the URL of a notification, with the id and the outcome of the job in its query."""
    status = "success" if job.state == State.DONE else "error" if job.data_key is not None else "fetch_error"
    parts = urlsplit(url)
    query = "&".join(part for part in (parts.query, urlencode({"id": job.id, "status": status})) if part)
    return urlunsplit(parts._replace(query=query))
