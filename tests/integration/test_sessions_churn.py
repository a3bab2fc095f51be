"""Two hundred sessions that start, stop, vanish and stall, for five minutes."""

from pathlib import Path

import pytest

from benchmarks import sessions
from contract.catalogue import read_catalogue
from tests.integration import services, serving
from transcriber.connection import Connection
from transcriber.triton_recogniser import connect_streams

pytestmark = [pytest.mark.integration, pytest.mark.slow]
SESSIONS, SECONDS = 200, 300.0
# Freed memory that the C library keeps. A session that is not freed takes more each time.
LARGEST_GROWTH_MB = 60.0


def test_many_sessions_leave_nothing(reference_engines: Path, tmp_path: Path) -> None:
    """No transcript differs from the one alone, memory stays flat, and every place of the server is free again."""
    with serving.started(reference_engines, tmp_path, SM_BATCH_MODE="false") as triton:
        serving.wait_ready(triton)
        endpoint = f"127.0.0.1:{triton.grpc}"
        recogniser = connect_streams(Connection(endpoint, one_server=True), read_catalogue(), "en", "standard")
        with services.started(
            tmp_path / "service", f"--realtime-endpoint={endpoint}", f"--streams={sessions.streams_for(SESSIONS)}"
        ) as service:
            found = sessions.churn(
                f"127.0.0.1:{service.port}", service.process.pid, recogniser, sessions=SESSIONS, seconds=SECONDS
            )
    assert found.wrong == []
    assert set(found.endings) == set(sessions.ENDINGS)
    assert sum(found.endings.values()) > SESSIONS
    assert found.growth_mb < LARGEST_GROWTH_MB
    assert found.open_sessions == 0
    assert found.descriptors < 10
    assert found.places_s < 20
