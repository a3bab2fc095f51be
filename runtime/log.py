"""Log to stderr, one line per fact: as text, or as JSON for a log collector."""

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NoReturn

from contract import errors
from contract.errors import VoxwrightError

FORMATS = ("text", "json")
_NAME = "voxwright"
_REFUSAL = ("subject", "cause", "remedy", "exit_code")


def configure(form: str) -> None:
    """Set the format of every later line: one of FORMATS."""
    handler = _Stderr()
    handler.setFormatter(_Json() if form == "json" else _Text())
    logger = logging.getLogger(_NAME)
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)


def info(line: str) -> None:
    """Log a fact."""
    _logger().info(line)


def warning(line: str) -> None:
    """Log a problem that does not stop a start."""
    _logger().warning(line)


def guard(command: Callable[[], object]) -> NoReturn:
    """Run a command line to its end as contract.errors.guard does; an error is logged in the configured format."""
    errors.guard(lambda: _run(command))


def _run(command: Callable[[], object]) -> None:
    try:
        command()
    except VoxwrightError as error:
        if not _is_json():
            raise
        details = {name: getattr(error, name) for name in _REFUSAL}
        _logger().error(str(error), extra={"refusal": details}, exc_info=errors.shows_tracebacks())
        sys.exit(error.exit_code)


def _logger() -> logging.Logger:
    logger = logging.getLogger(_NAME)
    # Checked by type: another library or a test runner may have added its own handler.
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        configure("text")
    return logger


def _is_json() -> bool:
    return any(isinstance(handler.formatter, _Json) for handler in logging.getLogger(_NAME).handlers)


class _Stderr(logging.Handler):
    # stdout belongs to tritonserver. Each line is flushed at once, because tritonserver replaces this process.
    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = "warning: " if record.levelno == logging.WARNING else ""
        return f"{_NAME}: {level}{record.getMessage()}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "refusal", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
