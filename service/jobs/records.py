"""Define a job as the database keeps it."""

import secrets
import string
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

_ID_CHARACTERS, _ID_LENGTH = string.ascii_lowercase + string.digits, 10


class State(StrEnum):
    """The states of a job. A job that waits is `running` for clients, too; they never see `receiving` or `expired`."""

    RECEIVING = "receiving"
    RUNNING = "running"
    DONE = "done"
    REJECTED = "rejected"
    DELETED = "deleted"
    EXPIRED = "expired"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobError:
    """What went wrong in a job, for the user: no path and no address of this machine is in it."""

    message: str
    at_us: int

    def document(self) -> dict[str, str]:
        """Return the error as the API shows it."""
        return {"timestamp": timestamp(self.at_us), "message": self.message}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job. Times are microseconds since 1970; keys name objects of the storage."""

    id: str
    client: str
    state: State
    created_us: int
    config: dict[str, Any]
    """What the client sent, checked and without nulls."""
    data_name: str
    data_key: str | None = None
    transcript_key: str | None = None
    duration_s: float = 0.0
    progress: float | None = None
    """The share of the recording that is transcribed; None where it is not known."""
    errors: tuple[JobError, ...] = field(default=())
    attempts: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A job that this worker holds until its lease ends; the token proves it."""

    job: Job
    token: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """A notification that is due: the place of its entry in the job's configuration, and the token of the claim."""

    id: int
    job: Job
    number: int
    attempts: int
    token: str


def new_id() -> str:
    """Return a random id of a job; its 50 bits make it hard to find, and it is no secret."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


def timestamp(at_us: int) -> str:
    """Return a time as the API writes it: 2026-11-27T10:00:00.123Z."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
