"""Receive multipart forms: parts in any order, limited in size and in time, large ones in temporary files."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Container
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service import logs
from service.errors import ApiError, no_space
from service.settings import Limits

_MOST_FILES, _MOST_FIELDS = 3, 50
_LARGEST_FIELD_BYTES = 2**20
_MOST_FIELD_BYTES = 2 * _LARGEST_FIELD_BYTES
"""What all plain fields of a form may have together: they are kept in memory."""
_FRAME_BYTES = 2**20
"""What the form may have beside the recording."""
_DRAINED_BYTES, _DRAINING_S = 64 * 2**20, 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The parts of a form."""

    parts: FormData

    def file(self, name: str) -> UploadFile | None:
        """Return a part that was sent as a file; None where there is none. Raises ApiError for a plain field."""
        found = self.parts.get(name)
        if isinstance(found, str):
            detail = f"{name}: it was sent as a plain field; send it as a file, with a filename"
            raise ApiError(400, "Malformed request", detail, field=name)
        return found

    async def text(self, name: str) -> bytes | None:
        """Return a part that is a plain field or a small file; None where there is none."""
        found = self.parts.get(name)
        if found is None or isinstance(found, str):
            return None if found is None else found.encode(errors="surrogateescape")
        return await found.read(_LARGEST_FIELD_BYTES + 1)

    def fields(self, name: str) -> list[str]:
        """Return all plain fields with a name."""
        return [value for value in self.parts.getlist(name) if isinstance(value, str)]


class _Parser(MultiPartParser):
    """A parser that limits the plain fields as a whole, and drops those without effect."""

    def __init__(self, *values: Any, fields: Container[str] | None, **named: Any) -> None:
        super().__init__(*values, **named)
        self._fields, self._field_bytes = fields, 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Keep a piece of a part."""
        part = self._current_part
        if part.file is None:
            if self._fields is not None and part.field_name not in self._fields:
                return
            self._field_bytes += end - start
            if self._field_bytes > _MOST_FIELD_BYTES:
                raise MultiPartException(f"its plain fields have more than {_MOST_FIELD_BYTES >> 20} MiB")
        super().on_part_data(data, start, end)


@contextlib.asynccontextmanager
async def received(
    request: Request, limits: Limits, most_fields: int = _MOST_FIELDS, fields: Container[str] | None = None
) -> AsyncIterator[Form]:
    """Yield the form of a request, and remove its temporary files at the end.

    With `fields`, the content of other plain fields is dropped. Raises ApiError 400, 408, 413, 415 or 507.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        detail = f"the content type is {kind or 'absent'}; send multipart/form-data"
        raise ApiError(415, "Malformed request", detail)
    most_bytes = limits.upload_bytes + _FRAME_BYTES
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most_bytes:
        # A client that is still sending would not read an answer that closes the connection.
        await _drain(request)
        raise _too_large(limits)
    stream = _limited(request, limits, most_bytes)
    parser = _Parser(
        request.headers, stream, fields=fields, max_files=_MOST_FILES, max_fields=most_fields,
        max_part_size=_LARGEST_FIELD_BYTES,
    )  # fmt: skip
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError, LookupError) as error:
        reason = getattr(error, "message", "") or "its parts cannot be separated"
        raise ApiError(400, "Malformed request", f"the form is damaged: {reason.rstrip('.')}") from error
    except ClientDisconnect as error:
        raise ApiError(400, "Malformed request", "the client closed the connection within the upload") from error
    except OSError as error:
        await _drain(request)
        raise as_api_error(error) from None
    try:
        yield Form(parts=form)
    finally:
        await form.close()


def as_api_error(error: OSError) -> Exception:
    """Return the answer where the temporary folder is full, and any other error as it is."""
    full = no_space(error)
    if full is None:
        return error
    logs.warning(f"an upload cannot be kept in the temporary folder: {error}")
    return full


async def _limited(request: Request, limits: Limits, most_bytes: int) -> AsyncGenerator[bytes, None]:
    received_bytes = 0
    stream = request.stream()
    while True:
        try:
            block = await asyncio.wait_for(anext(stream), limits.idle_upload_s)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            detail = f"nothing was received for {limits.idle_upload_s:g} seconds"
            # OpenAI's client would send the whole upload twice more.
            headers = {"Connection": "close", "x-should-retry": "false"}
            raise ApiError(408, "Request Timeout", detail, headers=headers) from error
        received_bytes += len(block)
        if received_bytes > most_bytes:
            await _drain(request)
            raise _too_large(limits)
        yield block


async def _drain(request: Request) -> None:
    """Read on for a few seconds, so that the client can finish and read the answer."""
    drained = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_DRAINING_S):
            async for block in request.stream():
                drained += len(block)
                if drained > _DRAINED_BYTES:
                    return


def _too_large(limits: Limits) -> ApiError:
    detail = f"the recording has more than {limits.upload_bytes / 10**6:g} MB, the limit of this service"
    return ApiError(413, "Request Entity Too Large", detail, headers={"Connection": "close"})
