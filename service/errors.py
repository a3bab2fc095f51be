"""Define what an API request can fail with, and the body of the answer in each protocol."""

import errno
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from contract.errors import (
    AudioError,
    ServerContractError,
    ServerUnreachableError,
    SettingError,
    VoxwrightError,
)
from service import logs

DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeoutError)
"""What SQLAlchemy raises while a database does not answer, is locked or full, or only reads."""
_NO_BODY = {HTTPStatus.UNPROCESSABLE_ENTITY: "Unprocessable Entity"}


class StorageError(OSError):
    """What the storage of jobs failed with; `errno` is known where the system gave one."""


class ApiError(Exception):
    """A request that is answered with an error.

    `error` is the short name that clients compare, `detail` the sentence for a user, `field` the wrong part of the
    request.
    """

    def __init__(
        self,
        status: int,
        error: str,
        detail: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, error, detail)
        self.status, self.error, self.detail, self.field = status, error, detail, field
        self.headers = dict(headers or {})


Render = Callable[[ApiError], dict[str, Any]]


def speechmatics(error: ApiError) -> dict[str, Any]:
    """Return the body that the clients of Speechmatics parse: {"code", "error", "detail"}."""
    return {"code": error.status, "error": error.error, "detail": error.detail}


def install(app: FastAPI, renders: Mapping[str, Render]) -> None:
    """Answer every exception with JSON; `renders` has the body of each protocol by the prefix of its paths."""

    def respond(request: Request, error: ApiError) -> JSONResponse:
        path = request.scope["path"]
        render = next((each for prefix, each in renders.items() if path.startswith(prefix)), speechmatics)
        return JSONResponse(render(error), status_code=error.status, headers=error.headers)

    async def on_api_error(request: Request, error: Exception) -> JSONResponse:
        return respond(request, as_api_error(error))

    known = (ApiError, HTTPException, RequestValidationError, VoxwrightError, StorageError, *DATABASE_AWAY)
    for kind in (*known, Exception):
        app.add_exception_handler(kind, on_api_error)


def as_api_error(error: Exception) -> ApiError:
    """Return the answer for an exception. Messages name no path of this machine; an unknown exception is a defect."""
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            problem = error.errors()[0]
            field = ".".join(str(part) for part in problem["loc"][1:])
            return ApiError(400, "Malformed request", f"{field}: {problem['msg']}", field=field)
        case HTTPException():
            name = HTTPStatus(error.status_code).phrase
            detail = error.detail if error.detail != name else f"{name}: see /docs for what this service answers"
            return ApiError(error.status_code, name, detail, headers=error.headers)
        case VoxwrightError():
            return _as_api_error(error)
        case _ if isinstance(error, (StorageError, *DATABASE_AWAY)):
            return _as_outage(error)
        case _:
            return ApiError(500, "Internal Server Error", "a defect of the service, which is in its log")


def no_space(error: OSError) -> ApiError | None:
    """Return the answer where a disk or a quota is full, else None."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    detail = "the service has no space left for the recording"
    return ApiError(507, "Insufficient Storage", detail, headers={"Retry-After": "60"})


def database_problem(error: Exception) -> str:
    """Return what the driver of a database reports, in one line and without the statement."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def _as_outage(error: Exception) -> ApiError:
    if isinstance(error, StorageError):
        logs.warning(f"the storage fails: {error}")
        return no_space(error) or _unavailable("the storage fails")
    logs.warning(f"the database does not answer: {database_problem(error)}")
    return _unavailable("the database does not answer")


def _unavailable(detail: str) -> ApiError:
    return ApiError(503, "Service Unavailable", detail, headers={"Retry-After": "5"})


def _as_api_error(error: VoxwrightError) -> ApiError:
    match error:
        case ServerUnreachableError():
            return _unavailable("the inference server does not answer")
        case AudioError():
            return ApiError(400, "Job rejected due to invalid audio", error.cause)
        case SettingError() | ServerContractError():
            return ApiError(400, "Requested product not available", error.cause)
        case _:
            logs.warning(f"{error}")
            return ApiError(500, "Internal Server Error", error.cause)
