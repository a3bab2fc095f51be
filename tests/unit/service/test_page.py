"""What the page gets from the service: the operating points that its servers really serve."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service import app, core, page
from tests.unit.service.make import settings

BOTH = {"standard", "enhanced"}


@pytest.mark.parametrize(
    ("recordings", "streams", "offered"),
    [
        (BOTH, BOTH, ["enhanced", "standard"]),
        ({"standard"}, BOTH, ["standard"]),
        ({"standard"}, {"standard"}, ["standard"]),
        ({"standard"}, None, ["standard"]),
        (None, {"standard"}, ["standard"]),
        (None, None, ["enhanced", "standard"]),
        # The server went away a moment ago, and no check has noticed it.
        (set(), {"standard"}, ["standard"]),
        (set(), set(), ["enhanced", "standard"]),
        # Servers that share no point: those of recordings are offered.
        ({"standard"}, {"enhanced"}, ["standard"]),
    ],
)
def test_offers_the_points_that_are_served(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recordings: set[str] | None,
    streams: set[str] | None,
    offered: list[str],
) -> None:
    """None is a server that is away."""
    shared = core.make(settings(tmp_path, realtime_endpoint="127.0.0.1:9"))
    for server, points in zip(shared.servers(), (recordings, streams), strict=True):
        monkeypatch.setattr(server, "problem", "no server is ready there" if points is None else None)
        monkeypatch.setattr(server, "served_points", lambda points=points: list(points or ()))
    client = TestClient(app.assemble(shared, [page.part(shared)]), base_url="http://localhost:8080")
    assert client.get("/v2/page").json()["operating_points"] == offered


def test_offers_the_catalogue_while_every_server_is_away(tmp_path: Path) -> None:
    shared = core.make(settings(tmp_path))
    client = TestClient(app.assemble(shared, [page.part(shared)]), base_url="http://localhost:8080")
    assert client.get("/v2/page").json()["operating_points"] == ["enhanced", "standard"]
