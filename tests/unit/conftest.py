"""Fixtures that the tests of several parts share."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.export.graphs import TracedGraphs


@pytest.fixture(scope="session")
def traced_graphs(tmp_path_factory: pytest.TempPathFactory) -> "TracedGraphs":
    """Trace each small network at most once in a session; a worker of pytest-xdist has a session of its own."""
    # Imports torch, which the slim environment does not have.
    from tests.unit.export.graphs import TracedGraphs

    return TracedGraphs(tmp_path_factory.mktemp("graphs"))
