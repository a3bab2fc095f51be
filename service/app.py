"""Assemble the application from its parts."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from service import errors, health, jobs, openai, page, realtime
from service.access import Access
from service.core import Core, MakePart, Part

# Every part of the service; each has its routes, and what runs beside them.
PARTS: tuple[MakePart, ...] = (health.part, jobs.part, openai.part, realtime.part, page.part)

_DESCRIPTION = "Speech to text with speakers: batch jobs, real time, and OpenAI's endpoint for transcriptions."


def assemble(core: Core, parts: Sequence[Part]) -> ASGIApp:
    """Return the ASGI application with the routes of all parts."""
    app = FastAPI(
        title="Voxwright",
        version="1",
        description=_DESCRIPTION,
        lifespan=lambda _: _running(core, parts),
        redirect_slashes=False,
        # FastAPI's pages load their scripts from another host, which a closed network does not reach: service/page has
        # its own.
        docs_url=None,
        redoc_url=None,
    )
    renders = {prefix: render for part in parts for prefix, render in part.renders.items()}
    errors.install(app, renders)
    for part in parts:
        app.include_router(part.router)
    if core.settings.keys is not None:
        _describe_key(app)
    served = Access(app, core, renders)
    origins = core.settings.allowed_origins
    # Outermost: a browser sends the request that checks the origin without the key.
    readable = ["Retry-After", "X-Request-Id", "X-Voxwright-Warnings"]
    if not origins:
        return served
    return CORSMiddleware(served, origins, allow_methods=["*"], allow_headers=["*"], expose_headers=readable)


def _describe_key(app: FastAPI) -> None:
    """Add the key to the description of the API, which the page of the API uses for its requests."""
    document = app.openapi()
    scheme = {"type": "http", "scheme": "bearer", "description": "A key of this service."}
    document.setdefault("components", {})["securitySchemes"] = {"key": scheme}
    document["security"] = [{"key": []}]


def make_parts(core: Core) -> list[Part]:
    """Return all parts of a service."""
    return [make(core) for make in PARTS]


@contextlib.asynccontextmanager
async def _running(core: Core, parts: Sequence[Part]) -> AsyncIterator[None]:
    """Watch the servers and run what the parts run, from the start to the stop of the application."""
    async with contextlib.AsyncExitStack() as stack:
        for part in parts:
            await stack.enter_async_context(part.running())
        # Ended before the parts are: a part waits at its stop for threads, and these wait for a server that is away.
        for server in core.servers():
            server.watch()
            stack.callback(server.close)
        yield
