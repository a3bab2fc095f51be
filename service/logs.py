"""Log to the standard error, one line per fact, as text or JSON, with the id of the request that is served."""

import json
import logging
import sys
import textwrap
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

FORMATS = ("text", "json")
NAME = "voxwright.service"
_PAUSE_S, _LONGEST_KEY, _MOST_KEYS = 10.0, 200, 100
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request, session or job that the current task serves."""


def configure(form: str) -> None:
    """Send the lines of the service and of uvicorn to the standard error, in one of FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    for name in (NAME, "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    logging.getLogger("asyncio").addFilter(_Rarely())
    # uvicorn writes the query of a WebSocket, in which browsers and npm clients send their key.
    logging.getLogger("uvicorn.error").addFilter(_is_without_query)


def path_of(scope: Mapping[str, Any]) -> str:
    """Return the path of a request for the log, encoded as in a URL: it has no blanks and no ends of lines."""
    return quote(scope["path"], safe="/:@!$&'()*+,;=~", errors="replace")


def info(line: str, **fields: Any) -> None:
    """Log a fact; `fields` are added to a line of JSON."""
    logging.getLogger(NAME).info(line, extra={"fields": fields})


def warning(line: str, **fields: Any) -> None:
    """Log a problem that does not end the service."""
    logging.getLogger(NAME).warning(line, extra={"fields": fields})


def exception(line: str, **fields: Any) -> None:
    """Log a defect of the program with the traceback of the current exception."""
    logging.getLogger(NAME).exception(line, extra={"fields": fields})


class _Rarely(logging.Filter):
    """Passes a message once in a while: the loop repeats some of them thousands of times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._next_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message = str(record.msg)[:_LONGEST_KEY]
        if record.created < self._next_s.get(message, 0.0):
            return False
        if len(self._next_s) >= _MOST_KEYS:
            self._next_s.clear()
        self._next_s[message] = record.created + _PAUSE_S
        return True


def _is_without_query(record: logging.LogRecord) -> bool:
    return "WebSocket %s" not in str(record.msg)


class _Text(logging.Formatter):
    """One line per fact, whatever a client has sent; the lines of a traceback are indented."""

    def format(self, record: logging.LogRecord) -> str:
        current = request_id.get()
        line = f"{record.levelname}: {_printable(record.getMessage())}"
        line = line if current is None else f"{line} [{current}]"
        if not record.exc_info:
            return line
        return f"{line}\n{textwrap.indent(self.formatException(record.exc_info), '  ', lambda _: True)}"


def _printable(text: str) -> str:
    """Return a text with escapes in place of ends of lines and of what controls a terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "request_id": request_id.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps({key: value for key, value in line.items() if value is not None}, ensure_ascii=False)
