"""Answer Kubernetes and Prometheus: /live, /ready and /metrics."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from service.core import Core, Part


def part(core: Core) -> Part:
    """Return the routes of operation. They need no API key and show no content of requests."""
    router = APIRouter(tags=["operation"])

    @router.get("/live", summary="Whether the process answers")
    async def live() -> dict[str, bool]:
        return {"alive": True, "live": True}

    @router.get(
        "/ready",
        summary="Whether requests can be served now",
        responses={503: {"description": "Not ready; `problems` names the reasons"}},
    )
    async def ready() -> JSONResponse:
        problems = core.problems()
        return JSONResponse({"ready": not problems, "problems": problems}, status_code=503 if problems else 200)

    @router.get("/metrics", summary="Metrics in Prometheus' text format", response_class=Response)
    def metrics() -> Response:
        core.metrics.ready.set(not core.problems())
        return Response(core.metrics.text(), media_type="text/plain; version=0.0.4")

    for path, endpoint in (("/live", live), ("/ready", ready)):
        # Some load balancers request the head only.
        router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    return Part(router=router)
