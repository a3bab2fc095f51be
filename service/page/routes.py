"""Serve the page, the description of the API as a page, their files, and what the page must know of this service."""

from importlib import resources
from typing import Any

from fastapi import APIRouter, Request, Response

from service.core import Core, Part, client_name
from service.errors import ApiError

_SCRIPT = "text/javascript; charset=utf-8"
_MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": _SCRIPT,
    "microphone.js": _SCRIPT,
    "icon.svg": "image/svg+xml",
    "docs.html": "text/html; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "docs.js": _SCRIPT,
}
# Swagger UI, from a package that has it as files.
_VIEWER = "fastapi_offline"
_VIEWER_MEDIA_TYPES = {"swagger-ui.css": "text/css; charset=utf-8", "swagger-ui-bundle.js": _SCRIPT}
# The page loads nothing from elsewhere, and runs no script that is not its own.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; media-src blob:; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI sets styles of elements, and has pictures in its style sheet.
_VIEWER_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def part(core: Core) -> Part:
    """Return the part that serves the page."""
    router = APIRouter(include_in_schema=False)
    files = {
        name: (resources.files(package).joinpath("static", name).read_bytes(), media_type)
        for package, media_types in ((__package__, _MEDIA_TYPES), (_VIEWER, _VIEWER_MEDIA_TYPES))
        for name, media_type in media_types.items()
    }

    @router.api_route("/", methods=["GET", "HEAD"])
    def index() -> Response:
        return file("index.html")

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    def file(name: str) -> Response:
        if name not in files:
            raise ApiError(404, "Not Found", f"the page has no file {name}")
        content, media_type = files[name]
        return Response(content, media_type=media_type, headers=_HEADERS)

    @router.api_route("/docs", methods=["GET", "HEAD"])
    def docs() -> Response:
        found = file("docs.html")
        found.headers["Content-Security-Policy"] = _VIEWER_POLICY
        return found

    @router.get("/v2/page")
    def settings(request: Request) -> dict[str, Any]:
        """Return what the page offers; it needs a key where the service has keys."""
        catalogue = core.settings.catalogue
        return {
            "client": client_name(request),
            "languages": catalogue.languages(),
            "usual_language": catalogue.usual_language(),
            "operating_points": _points(core),
            "recordings": core.recordings is not None,
            "streams": core.streams is not None,
            "largest_upload_bytes": core.settings.limits.upload_bytes,
        }

    return Part(router=router)


def _points(core: Core) -> list[str]:
    """Return the operating points that every server serves now, the most accurate first.

    A server that is away counts as one that serves the whole catalogue.
    """
    points = list(core.settings.catalogue.preferred_points)
    for server in core.servers():
        served = server.served_points() if server.problem is None else []
        # An answer without points is an outage that the watch has not noticed yet.
        points = [point for point in points if point in served] or points
    return points
