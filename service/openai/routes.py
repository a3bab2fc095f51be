"""Answer /v1/audio/transcriptions and /v1/models."""

import asyncio
import contextlib
import contextvars
import functools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from contract.errors import AudioError, ServerContractError, SettingError, VoxwrightError
from service import errors, logs, uploads
from service.core import Core, Part
from service.errors import ApiError
from service.openai import answers, form, stream
from service.openai.form import INVALID, TranscriptionRequest
from service.recognition import CancelledError, Transcriber
from transcriber.pipeline import SegmentResult, TranscriptionResult

PREFIX = "/v1"
_OWNER, _CREATED = "voxwright", 1
_POLL_S = 0.5
Result = TypeVar("Result")
# Requests that may wait for each one that is transcribed; more are refused at once.
_WAITING = 16
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_FORM = {
    "type": "object",
    "required": ["file", "model"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "model": {"type": "string", "description": "An operating point, such as enhanced; whisper-1 is the best one."},
        "language": {"type": "string"},
        "response_format": {"type": "string", "enum": [each.value for each in form.ResponseFormat]},
        "timestamp_granularities[]": {"type": "array", "items": {"enum": [each.value for each in form.Granularity]}},
        "stream": {"type": "boolean"},
        "keywords[]": {"type": "array", "items": {"type": "string"}, "description": "Names and terms to prefer."},
    },
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "object", "required": ["message"]}}}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": HTTPStatus(status).phrase, "content": {"application/json": {"schema": _ERROR}}}
    for status in (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 507)
}


def part(core: Core) -> Part:
    """Return the part that serves OpenAI's clients."""
    router = APIRouter(prefix=PREFIX, tags=["OpenAI"], responses=_ERRORS)
    transcriptions = Transcriptions(core)

    @router.get("/models", summary="The operating points that are served")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name) for name in transcriptions.served()]}

    @router.get("/models/{model}", summary="One operating point")
    def model(model: str) -> dict[str, Any]:
        known = transcriptions.served()
        if model not in known:
            raise form.no_such_model(model, known)
        return _model(model)

    @router.post(
        "/audio/transcriptions",
        summary="Transcribe a recording",
        response_model=None,
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
    )
    async def transcribe(request: Request) -> Response:
        return await transcriptions.answer(request)

    return Part(
        router=router, running=transcriptions.running, renders={PREFIX: render}, is_busy=lambda: transcriptions.open > 0
    )


def render(error: ApiError) -> dict[str, Any]:
    """Return the body of an error as OpenAI's clients parse it."""
    kind = "rate_limit_error" if error.status == 429 else INVALID if error.status < 500 else "server_error"  # noqa: PLR2004
    code = error.error if error.error == "model_not_found" else _CODES.get(error.status)
    return {"error": {"message": error.detail, "type": kind, "param": error.field, "code": code}}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": _OWNER}


class Transcriptions:
    """The transcriptions of this endpoint: a few at a time, the next ones wait, and more are refused."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._places = asyncio.Semaphore(core.settings.parallel)
        # The loop's own threads are few, and others use them.
        self._threads = ThreadPoolExecutor(core.settings.parallel, thread_name_prefix="openai")
        self.open = 0
        """The requests that are transcribed or wait."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """End the threads with the service."""
        yield
        self._threads.shutdown(wait=False, cancel_futures=True)

    def served(self) -> list[str]:
        """Return the operating points that the server serves now; raise ApiError while it is away."""
        transcriber = self._transcriber()
        self._check_server(transcriber)
        return transcriber.recognisers.served_points()

    async def answer(self, request: Request) -> Response:
        """Transcribe the recording of a request; the work ends when its client goes away."""
        transcriber = self._transcriber()
        if self.open >= self._core.settings.parallel * (1 + _WAITING):
            detail = "too many transcriptions wait; try again later"
            raise ApiError(429, "rate_limit_exceeded", detail, headers={"Retry-After": "5"})
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._counted())
            settings = self._core.settings
            query = await stack.enter_async_context(form.read(request, settings.catalogue, settings.limits))
            await self._check(transcriber, query)
            path = await stack.enter_async_context(_stored(query))
            work = Work(self._core, transcriber, query, path, self._threads)
            if query.is_streamed:
                # The file and the place are kept until the stream ends.
                kept = stack.pop_all()
                events = self._streamed(request, work, kept)
                return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
            async with self._place(request, work):
                return await work.whole()
        raise AssertionError  # the stack suppresses no exception

    async def _check(self, transcriber: Transcriber, query: TranscriptionRequest) -> None:
        """Refuse a model that is not served; raise ApiError 503 while the server is away."""
        self._check_server(transcriber)
        try:
            await asyncio.to_thread(transcriber.check, query.wanted)
        except (SettingError, ServerContractError):
            point, served = query.wanted.operating_point, await asyncio.to_thread(self.served)
            if point is None or point in served:
                raise
            raise form.no_such_model(point, served[::-1]) from None

    @contextlib.asynccontextmanager
    async def _place(self, request: Request, work: "Work") -> AsyncIterator[None]:
        """Wait for a place and hold it; the wait and the work end when the client goes away."""
        async with _watched(request, work) as gone:
            waiting = asyncio.create_task(self._places.acquire())
            try:
                await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    raise _client_left()
                yield
            finally:
                # A cancelled wait has no place, unless it got one in the same moment.
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await waiting
                    self._places.release()

    async def _streamed(self, request: Request, work: "Work", kept: contextlib.AsyncExitStack) -> AsyncIterator[bytes]:
        async with kept:
            try:
                async with self._place(request, work):
                    async for event in work.events():
                        yield event
            except Exception as error:
                work.cancelled.set()
                if not isinstance(error, VoxwrightError | ApiError):
                    logs.exception("a transcription failed by a defect of the service")
                yield stream.event(render(errors.as_api_error(error)))
            finally:
                # Starlette closes the generator when the client goes away.
                work.cancelled.set()

    @staticmethod
    def _check_server(transcriber: Transcriber) -> None:
        if transcriber.recognisers.problem is not None:
            detail = "the inference server cannot be used now; /ready names the reason"
            raise ApiError(503, "server_error", detail, headers={"Retry-After": "5"})

    def _transcriber(self) -> Transcriber:
        if self._core.recordings is None:
            raise ApiError(404, INVALID, "this service serves streams only", headers={"x-should-retry": "false"})
        if self._core.draining.is_set():
            raise ApiError(503, "server_error", "the service is about to stop", headers={"Retry-After": "5"})
        return self._core.recordings

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


class Work:
    """One transcription in a thread."""

    def __init__(
        self, core: Core, transcriber: Transcriber, query: TranscriptionRequest, path: Path, threads: ThreadPoolExecutor
    ) -> None:
        self._core, self._transcriber, self._query, self._path = core, transcriber, query, path
        self._threads = threads
        self.cancelled = threading.Event()

    async def whole(self) -> Response:
        """Return the answer with the whole transcript."""

        def run() -> Response:
            found = self._run(lambda _: None)
            return answers.answer(found.transcript, self._query.format, self._query.granularities, _warnings(found))

        return await self._in_thread(run)

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the events of a stream: the text of each segment when it is known, then the whole."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[SegmentResult | None]()

        def put(result: SegmentResult | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed when the service stops
                loop.call_soon_threadsafe(queue.put_nowait, result)

        def run() -> TranscriptionResult:
            try:
                return self._run(put)
            finally:
                put(None)

        wanted = self._query.wanted
        get = functools.partial(self._transcriber.recognisers.get, wanted.language, wanted.operating_point)
        recogniser = await self._in_thread(get)
        work, deltas = asyncio.create_task(self._in_thread(run)), stream.Deltas(recogniser.tokens)
        while (result := await queue.get()) is not None:
            for event in deltas.of(result):
                yield event
        found = await work
        for event in stream.ending(found.transcript, deltas.text, self._query.format, _warnings(found)):
            yield event

    def _run(self, on_result: Callable[[SegmentResult], object]) -> TranscriptionResult:
        started = time.monotonic()
        try:
            found = self._transcriber.transcribe(
                self._path, self._query.wanted, on_result=on_result, is_cancelled=self.cancelled.is_set
            )
        except CancelledError:
            raise _client_left() from None
        self._core.metrics.transcribed("request", found.transcript.duration_s, time.monotonic() - started)
        for error in found.errors:
            if not isinstance(error, AudioError | SettingError):
                raise error
        return found

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        # As asyncio.to_thread does: the lines of the log have the id of the request.
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, call)


def _client_left() -> ApiError:
    return ApiError(499, INVALID, "the client went away")


def _warnings(found: TranscriptionResult) -> list[str]:
    """Return what is missing because the recording is damaged, and the keywords that are not used."""
    return [error.cause for error in found.errors]


@contextlib.asynccontextmanager
async def _stored(query: TranscriptionRequest) -> AsyncIterator[Path]:
    """Yield the path of the recording; the file is removed at the end. Raises ApiError where the disk is full."""
    handle, name = tempfile.mkstemp(prefix="voxwright-")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as target:
            await asyncio.to_thread(_copy, query, target)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _copy(query: TranscriptionRequest, target: BinaryIO) -> None:
    try:
        shutil.copyfileobj(query.file.file, target, 2**20)
        target.flush()
    except OSError as error:
        raise uploads.as_api_error(error) from None


@contextlib.asynccontextmanager
async def _watched(request: Request, work: Work) -> AsyncIterator[asyncio.Task[None]]:
    """Cancel the work when the client goes away; yield the task that ends then."""

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(_POLL_S)
        work.cancelled.set()

    task = asyncio.create_task(watch())
    try:
        yield task
    finally:
        task.cancel()
        work.cancelled.set()
