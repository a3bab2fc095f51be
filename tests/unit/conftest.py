"""Fixtures that tests of several rooms share."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.export.graphs import TracedGraphs


@pytest.fixture(scope="session")
def traced_graphs(tmp_path_factory: pytest.TempPathFactory) -> "TracedGraphs":
    """Trace each small network at most once in a session; a worker of pytest-xdist has a session of its own.

    Modules that use it have the mark `xdist_group("export")`, so that one worker runs them all.
    """
    # Imports torch, which the slim environment does not have.
    from tests.unit.export.graphs import TracedGraphs

    return TracedGraphs(tmp_path_factory.mktemp("graphs"))
