"""What every module with a `server` of its own asks it through."""

from collections.abc import Iterator

import pytest
from tritonclient import grpc as triton

from tests.integration.serving import Running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    """Give a client of the module's server."""
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        yield client
