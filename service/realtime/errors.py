"""Define what ends a session with a message `Error`, and the code with which the socket is closed.

SessionError        type and reason of the message, code and reason of the close
DefectError         a session that ends by a defect of the service
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from service.metrics import DEFECT


class ErrorType(StrEnum):
    """The types of errors that clients know."""

    INVALID_MESSAGE = "invalid_message"
    INVALID_MODEL = "invalid_model"
    INVALID_LANGUAGE = "invalid_language"
    INVALID_CONFIG = "invalid_config"
    INVALID_AUDIO_TYPE = "invalid_audio_type"
    NOT_ALLOWED = "not_allowed"
    JOB_ERROR = "job_error"
    PROTOCOL_ERROR = "protocol_error"
    QUOTA_EXCEEDED = "quota_exceeded"
    IDLE_TIMEOUT = "idle_timeout"
    SESSION_TIMEOUT = "session_timeout"
    UNKNOWN_ERROR = "unknown_error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Close:
    """The code and the reason with which a socket is closed."""

    code: int
    reason: str


NORMAL = Close(code=1000, reason="")
_PROTOCOL, _POLICY = Close(code=1003, reason="protocol_error"), Close(code=1008, reason="policy_violation")
_INTERNAL = Close(code=1011, reason="internal_error")
# Clients try again after 1011, 4005 and 4013.
_CLOSES = MappingProxyType(
    {
        ErrorType.INVALID_MODEL: Close(code=4004, reason="invalid_model"),
        ErrorType.NOT_ALLOWED: Close(code=4003, reason="not_allowed"),
        ErrorType.JOB_ERROR: Close(code=4013, reason="job_error"),
        ErrorType.QUOTA_EXCEEDED: Close(code=4005, reason="quota_exceeded"),
        ErrorType.IDLE_TIMEOUT: _POLICY,
        ErrorType.SESSION_TIMEOUT: _POLICY,
        ErrorType.UNKNOWN_ERROR: _INTERNAL,
    }
)


class SessionError(Exception):
    """A session that ends with a message `Error`; `reason` is the sentence for a user."""

    def __init__(self, kind: ErrorType, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason

    @property
    def counted_as(self) -> str:
        """Return the kind by which the service counts it."""
        return self.kind.value

    @property
    def close(self) -> Close:
        """Return how the socket is closed after the message."""
        return _CLOSES.get(self.kind, _PROTOCOL)


class DefectError(SessionError):
    """A session that ends by a defect of the service. Its message is that of a service that stops, its count is not."""

    def __init__(self) -> None:
        super().__init__(ErrorType.UNKNOWN_ERROR, "a defect of the service, which is in its log")

    @property
    def counted_as(self) -> str:
        """Return the kind by which the service counts it."""
        return DEFECT
