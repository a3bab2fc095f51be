"""Receive multipart forms: parts in any order, limited in size and in time, large ones in temporary files."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service import logs
from service.errors import ApiError, no_space
from service.settings import Limits

_MOST_PARTS = 50
_LARGEST_FIELD_BYTES = 2**20
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


@contextlib.asynccontextmanager
async def received(request: Request, limits: Limits, most_parts: int = _MOST_PARTS) -> AsyncIterator[Form]:
    """Yield the form of a request, and remove its temporary files at the end.

    Raises ApiError 400, 408, 413, 415 or 507.
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
    parser = MultiPartParser(
        request.headers, stream, max_files=most_parts, max_fields=most_parts, max_part_size=_LARGEST_FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError, LookupError) as error:
        reason = getattr(error, "message", "") or "its parts cannot be separated"
        raise ApiError(400, "Malformed request", f"the form is damaged: {reason.rstrip('.')}") from error
    except ClientDisconnect as error:
        raise ApiError(400, "Malformed request", "the client closed the connection within the upload") from error
    except OSError as error:
        full = no_space(error)
        if full is None:
            raise
        logs.warning(f"an upload cannot be kept in the temporary folder: {error}")
        await _drain(request)
        raise full from error
    try:
        yield Form(parts=form)
    finally:
        await form.close()


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
