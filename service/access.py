"""Wrap every request: request id, API key, origin of a page, metrics and the line in the log."""

import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import keys, logs
from service.core import Core
from service.errors import ApiError, Render, speechmatics
from service.settings import is_loopback

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_OPEN = frozenset({"/live", "/ready", "/metrics", "/openapi.json", "/docs", "/", "/favicon.ico"})
_OPEN_FOLDER = "/page/"


class Access:
    """The outermost ASGI application; it hands on what is allowed."""

    def __init__(self, app: ASGIApp, core: Core, renders: Mapping[str, Render]) -> None:
        self._app, self._core, self._renders = app, core, renders

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or a WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid4())
        token = logs.request_id.set(request_id)
        try:
            await self._serve(scope, receive, send, headers, request_id)
        finally:
            logs.request_id.reset(token)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, headers: Headers, request_id: str) -> None:
        started, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            if refusal is None:
                await self._app(scope, receive, sending)
            else:
                await self._refuse(refusal, scope, receive, sending)
        except Exception:
            status = 500
            logs.exception("a request failed by a defect of the service")
            raise
        finally:
            # A WebSocket has a status only where it is refused.
            if scope["type"] == "http" or status:
                self._count(scope, status, time.monotonic() - started)

    def _refusal(self, scope: Scope, headers: Headers) -> ApiError | None:
        """Return why a request is refused; note the name of its client where it is not."""
        if _split(f"//{headers.get('host', '')}") is None:
            # RFC 9112, section 3.2. Whatever parses the URL of the request would raise.
            return ApiError(400, "Malformed request", "the header Host is not the name of a host", field="Host")
        if self._core.settings.keys is None:
            return self._refusal_without_keys(headers)
        if is_open(scope):
            return None
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        key = keys.bearer(headers.get("authorization")) or next(iter(query.get("jwt", [])), "")
        name = self._core.settings.keys.client(key)
        if name is None:
            detail = "send a key of this service as `Authorization: Bearer KEY`"
            return ApiError(401, "Permission Denied", detail, headers={"WWW-Authenticate": "Bearer"})
        scope["voxwright.client"] = name
        return None

    def _refusal_without_keys(self, headers: Headers) -> ApiError | None:
        """Return why a request to a service without keys is refused.

        Every program of this machine may call it, but not every page in a browser of this machine: a page must be of
        this service. A name that another host made resolve to this machine is not this service.
        """
        origin, host = headers.get("origin"), headers.get("host", "")
        if not _is_this_machine(host):
            detail = f"the service has no API keys and answers only to localhost and 127.0.0.1, not to {host!r}"
            return ApiError(403, "Forbidden", detail)
        if origin is None or origin in self._core.settings.allowed_origins:
            return None
        page = _split(origin)
        if page is not None and page.netloc == host:
            return None
        detail = "the page that sent this request belongs to another host; --allow-origin names such pages"
        return ApiError(403, "Forbidden", detail)

    async def _refuse(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        render = next((each for prefix, each in self._renders.items() if path.startswith(prefix)), speechmatics)
        response = JSONResponse(render(error), status_code=error.status, headers=error.headers)
        await response(scope, receive, send)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._core.metrics.requests.labels(route, str(status)).inc()
        self._core.metrics.request_s.labels(route).observe(seconds)
        if route not in _OPEN:
            logs.info(
                f"{scope.get('method', 'WebSocket')} {logs.path_of(scope)} {status}",
                status=status,
                seconds=round(seconds, 3),
                client=scope.get("voxwright.client"),
            )


def is_open(scope: Mapping[str, Any]) -> bool:
    """Return whether a path is served without a key: operation, the description of the API, and the page itself."""
    return scope["path"] in _OPEN or scope["path"].startswith(_OPEN_FOLDER)


def _split(url: str) -> SplitResult | None:
    """Return the parts of a URL; None for a text that is no URL."""
    try:
        parts = urlsplit(url)
        # It is a number only where this does not raise.
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_this_machine(host: str) -> bool:
    # Not by the beginning of a name: any domain may have names such as 127.example.org.
    parts = _split(f"//{host}")
    return parts is not None and is_loopback(parts.hostname or "")
