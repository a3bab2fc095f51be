"""Answer /v2/jobs as the published clients expect it."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, BinaryIO, NoReturn

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from service import addresses, logs, uploads
from service.core import Core, client_name
from service.errors import DATABASE_AWAY, ApiError
from service.jobs import config, descriptions, documents
from service.jobs.config import MALFORMED, JobConfig
from service.jobs.database import Database
from service.jobs.records import Job, State, new_id
from service.jobs.storage import Storage
from service.jobs.worker import Worker

_HELD_S, _LONGEST_HELD_S = 2.0, 120.0
"""How long a request waits for the end of a job: without `wait`, and at most."""
_FIRST_LOOK_S, _LATER_LOOK_S = 0.05, 0.25
_LONGEST_NAME = 500
_NO_NAME = "recording"

JobId = Annotated[str, Path(description="The id of a job.", min_length=1, max_length=64)]
Wait = Annotated[
    float | None, Query(ge=0, description="Seconds to wait for the end of the job; 2 unless given, at most 120.")
]
_FORMATS = {"enum": ["json-v2", "txt", "srt", "vtt", "json"]}
Format = Annotated[str, Query(alias="format", json_schema_extra=_FORMATS)]
Time = Annotated[datetime | None, Query()]


def router(core: Core, database: Database, storage: Storage, worker: Worker) -> APIRouter:
    """Return the routes of batch jobs; the worker begins those that are submitted, and cleans after deleted ones."""
    api = Jobs(core, database, storage, worker)
    routes = APIRouter(prefix="/v2/jobs", tags=["jobs"], responses=descriptions.ERRORS)
    routes.add_api_route(
        "", api.submit, methods=["POST"], status_code=201, openapi_extra=descriptions.SUBMISSION,
        responses={**descriptions.CREATED, **descriptions.UPLOAD_ERRORS}, summary="Submit a recording",
    )  # fmt: skip
    routes.add_api_route("", api.list, methods=["GET"], responses=descriptions.LIST, summary="List jobs")
    routes.add_api_route("/{job_id}", api.status, methods=["GET"], responses=descriptions.JOB, summary="Show a job")
    routes.add_api_route(
        "/{job_id}", api.delete, methods=["DELETE"], responses={**descriptions.JOB, **descriptions.LOCKED},
        summary="Delete a job",
    )  # fmt: skip
    routes.add_api_route(
        "/{job_id}/transcript", api.transcript, methods=["GET"], responses=descriptions.TRANSCRIPT,
        response_class=Response, summary="Get a transcript",
    )  # fmt: skip
    routes.add_api_route(
        "/{job_id}/data", api.data, methods=["GET"], responses=descriptions.DATA, response_class=Response,
        summary="Get the recording of a job",
    )  # fmt: skip
    # Clients of the appliance write a slash at the end, and do not follow redirects.
    for method, endpoint, status in (("POST", api.submit, 201), ("GET", api.list, 200)):
        routes.add_api_route("/", endpoint, methods=[method], status_code=status, include_in_schema=False)
    return routes


class Jobs:
    """The endpoints of batch jobs."""

    def __init__(self, core: Core, database: Database, storage: Storage, worker: Worker) -> None:
        self._core, self._database, self._storage, self._worker = core, database, storage, worker

    async def submit(
        self, request: Request, wait: Annotated[float, Query(ge=0)] = 0.0, format_name: Format = "json-v2"
    ) -> JSONResponse:
        """Store a recording, or the URL to fetch it from, and transcribe it later."""
        written_as = _format(format_name)
        async with uploads.received(request, self._core.settings.limits) as form:
            text = await form.text("config")
            if text is None:
                raise ApiError(400, MALFORMED, "config: the part is absent", field="config")
            chosen = config.with_language(config.read(text), self._core.settings.catalogue)
            await run_in_threadpool(self._check, chosen)
            upload = form.file("data_file")
            if (upload is None) == (chosen.fetch_data is None):
                _refuse_source(is_absent=upload is None)
            name, source = (None, None) if upload is None else (upload.filename, upload.file)
            job = await run_in_threadpool(self._store, client_name(request), chosen, name, source)
        self._worker.wake()
        logs.info(f"job {job.id} submitted", job=job.id)
        return JSONResponse(await self._created(job, wait, written_as), status_code=201)

    async def list(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
        created_before: Time = None,
        created_after: Time = None,
        include_deleted: bool = False,  # noqa: FBT001, FBT002 - a parameter of the query
    ) -> JSONResponse:
        """Return the jobs of the client, the newest first."""
        states = [State.RUNNING, State.DONE, State.REJECTED, *([State.DELETED] if include_deleted else [])]
        jobs = await run_in_threadpool(
            self._database.newest,
            client_name(request),
            limit=limit,
            before_us=_microseconds(created_before),
            after_us=_microseconds(created_after),
            states=states,
        )
        return JSONResponse({"jobs": [documents.description(job, with_config=False) for job in jobs]})

    async def status(self, request: Request, job_id: JobId, wait: Wait = None) -> JSONResponse:
        """Return a job; the answer is held back for a while until the job ends."""
        job = await self._ended(request, job_id, wait)
        return JSONResponse({"job": documents.description(job, with_config=True)})

    async def transcript(
        self, request: Request, job_id: JobId, format_name: Format = "json-v2", wait: Wait = None
    ) -> Response:
        """Return the transcript of a job that is done."""
        written_as = _format(format_name)
        job = await self._ended(request, job_id, wait)
        if job.state == State.RUNNING:
            raise ApiError(404, "Transcription not ready", f"job {job.id} is still running")
        if job.state == State.REJECTED:
            raise ApiError(404, "Job rejected", "; ".join(error.message for error in job.errors))
        text = await run_in_threadpool(self._written, job, written_as)
        return Response(text, media_type=documents.media_type(written_as))

    async def delete(
        self,
        request: Request,
        job_id: JobId,
        force: bool = False,  # noqa: FBT001, FBT002 - a parameter of the query
    ) -> JSONResponse:
        """Delete a job, its recording and its transcript; a running one only with force=true."""
        job, is_deleted = await run_in_threadpool(self._database.delete, job_id, client_name(request), force=force)
        if job is None or job.state in (State.DELETED, State.EXPIRED):
            _refuse_absent(job_id, job)
        if not is_deleted:
            raise ApiError(423, "Resource Locked", f"job {job.id} is still running; delete it with force=true")
        await run_in_threadpool(self._remove_files, job)
        shown = documents.description(job, with_config=True)
        return JSONResponse({"job": {**shown, "status": State.DELETED}})

    async def data(self, request: Request, job_id: JobId) -> Response:
        """Return the recording of a job as it was sent."""
        job = await self._found(request, job_id)
        if job.data_key is None:
            raise ApiError(404, "Not Found", f"the recording of job {job.id} was not fetched yet")
        size = await run_in_threadpool(self._size, job)
        blocks = self._storage.blocks(job.data_key)
        return StreamingResponse(blocks, media_type="application/octet-stream", headers={"Content-Length": str(size)})

    def _check(self, chosen: JobConfig) -> None:
        """Refuse at once what would be rejected later: other languages, points and hosts than are served."""
        recordings = self._core.recordings
        if recordings is None:
            raise ApiError(501, "Not Implemented", "this service transcribes streams only, and no recordings")
        wanted = config.wanted(chosen.document())
        recordings.check(wanted)
        settings = self._core.settings
        named = [(each.url, settings.notify_hosts, "--notify-host") for each in chosen.notification_config or ()]
        if chosen.fetch_data is not None:
            named.append((chosen.fetch_data.url, settings.fetch_hosts, "--fetch-host"))
        for url, hosts, option in named:
            try:
                addresses.check_name(url, hosts, option)
            except addresses.ForbiddenUrlError as error:
                field = "fetch_data.url" if option == "--fetch-host" else "notification_config.url"
                raise ApiError(400, MALFORMED, f"{field}: {error}", field=field) from error

    def _store(self, client: str, chosen: JobConfig, name: str | None, source: BinaryIO | None) -> Job:
        """Store a recording and then the job: a job is never without its recording."""
        job_id = new_id()
        key = None if source is None else f"{job_id}/recording"
        fetched = chosen.fetch_data.url if chosen.fetch_data is not None else ""
        job = Job(
            id=job_id,
            client=client,
            state=State.RUNNING,
            created_us=self._database.now_us(),
            config=chosen.document(),
            data_name=_data_name(name or fetched.partition("?")[0]),
            data_key=key,
        )
        most = self._core.settings.limits.unfinished_jobs
        if key is None or source is None:
            is_stored = self._database.add(job, most_unfinished=most)
        else:
            is_stored = self._store_with(source, key, job, most)
        if not is_stored:
            detail = f"{most} jobs of this client are not done, the limit of this service"
            raise ApiError(429, "Max concurrent running jobs exceeded", detail, headers={"Retry-After": "10"})
        return job

    def _store_with(self, source: BinaryIO, key: str, job: Job, most: int) -> bool:
        if not self._database.reserve(job, most_unfinished=most):
            return False
        is_stored = False
        try:
            self._storage.write(key, source)
            is_stored = self._database.add(job, most_unfinished=most)
        finally:
            if not is_stored:
                self._withdraw(job)
        return is_stored

    def _withdraw(self, job: Job) -> None:
        """Remove the recording of a job that could not be added; while the database is away, the cleaner does it later.

        A job whose addition was not confirmed keeps its recording: it runs.
        """
        with contextlib.suppress(*DATABASE_AWAY):
            if self._database.withdraw(job.id):
                self._worker.cleaner.remove(job.id)

    def _remove_files(self, job: Job) -> None:
        """Remove the files of a deleted job now if possible; else the cleaner does it."""
        with contextlib.suppress(*DATABASE_AWAY):
            # A worker may write a file until it notices the deletion.
            self._worker.cleaner.remove(job.id, is_last=job.state != State.RUNNING)

    async def _created(self, job: Job, wait_s: float, written_as: str) -> dict[str, Any]:
        if not wait_s:
            return {"id": job.id}
        ended = await self._wait(job, wait_s)
        body = {"id": job.id, "status": ended.state}
        if ended.state != State.DONE:
            return body
        text = await run_in_threadpool(self._written, ended, written_as)
        return {**body, written_as: documents.loaded(written_as, text)}

    async def _ended(self, request: Request, job_id: str, wait_s: float | None) -> Job:
        """Return a job, after a while if it runs; raise ApiError 404 or 410 where there is none any more."""
        job = await self._found(request, job_id)
        ended = await self._wait(job, _HELD_S if wait_s is None else wait_s)
        if ended.state in (State.DELETED, State.EXPIRED):
            _refuse_absent(job_id, ended)
        return ended

    async def _wait(self, job: Job, wait_s: float) -> Job:
        """Return a job when it ends, or as it is after a while."""
        end_s, look_s = time.monotonic() + min(wait_s, _LONGEST_HELD_S), _FIRST_LOOK_S
        while job.state == State.RUNNING and (left_s := end_s - time.monotonic()) > 0:
            if self._core.draining.is_set():
                break
            await asyncio.sleep(min(look_s, left_s))
            look_s = min(look_s * 1.5, _LATER_LOOK_S)
            found = await run_in_threadpool(self._database.find, job.id)
            if found is None:
                break
            job = found
        return job

    async def _found(self, request: Request, job_id: str) -> Job:
        job = await run_in_threadpool(self._database.find, job_id, client_name(request))
        if job is None or job.state in (State.DELETED, State.EXPIRED):
            _refuse_absent(job_id, job)
        return job

    @contextlib.contextmanager
    def _existing(self, job: Job) -> Iterator[None]:
        """Refuse a job whose file is absent: it was deleted a moment ago, or the storage lost it."""
        try:
            yield
        except FileNotFoundError:
            _refuse_absent(job.id, self._database.find(job.id))

    def _size(self, job: Job) -> int:
        with self._existing(job):
            return self._storage.size(job.data_key or "")

    def _written(self, job: Job, written_as: str) -> str:
        with self._existing(job):
            content = self._storage.read_bytes(job.transcript_key or "")
        return documents.written(written_as, job, content)


def _refuse_source(*, is_absent: bool) -> NoReturn:
    if is_absent:
        detail = "send the recording as data_file, or its URL in fetch_data of config"
        raise ApiError(400, "Missing data_file", detail, field="data_file")
    raise ApiError(400, MALFORMED, "data_file and fetch_data were both sent; send one of them", field="data_file")


def _refuse_absent(job_id: str, job: Job | None) -> NoReturn:
    if job is not None and job.state == State.EXPIRED:
        raise ApiError(410, "Job Expired", f"job {job_id} is older than this service keeps jobs")
    raise ApiError(404, "Job not found", f"there is no job {job_id}")


def _format(name: str) -> str:
    known = documents.format_name(name)
    if known is None:
        detail = f"format: {name!r} is not one; use json-v2, txt, srt or vtt"
        raise ApiError(400, "Format Not Supported", detail, field="format")
    return known


def _microseconds(time_of: datetime | None) -> int | None:
    if time_of is None:
        return None
    aware = time_of if time_of.tzinfo is not None else time_of.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1e6)


def _data_name(name: str) -> str:
    """Return the last part of a name or path, without characters that are not for names."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "".join(each for each in last if each.isprintable())[:_LONGEST_NAME] or _NO_NAME
