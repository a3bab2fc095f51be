"""Serve the page, its files, and what it must know of this service."""

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
}
# The page loads nothing from elsewhere, and runs no script that is not its own.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; media-src blob:; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
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
    contents = {name: resources.files(__package__).joinpath("static", name).read_bytes() for name in _MEDIA_TYPES}

    @router.api_route("/", methods=["GET", "HEAD"])
    def index() -> Response:
        return file("index.html")

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    def file(name: str) -> Response:
        if name not in contents:
            raise ApiError(404, "Not Found", f"the page has no file {name}")
        return Response(contents[name], media_type=_MEDIA_TYPES[name], headers=_HEADERS)

    @router.get("/v2/page")
    def settings(request: Request) -> dict[str, Any]:
        """Return what the page offers; it needs a key where the service has keys."""
        catalogue = core.settings.catalogue
        return {
            "client": client_name(request),
            "languages": catalogue.languages(),
            "operating_points": catalogue.preferred_points,
            "recordings": core.recordings is not None,
            "streams": core.streams is not None,
            "largest_upload_bytes": core.settings.limits.upload_bytes,
        }

    return Part(router=router)
