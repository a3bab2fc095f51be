"""Fixtures of the integration tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonclient import grpc as triton

from tests.integration import reference
from tests.integration.serving import Running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    """Yield a gRPC client of the module's server."""
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        yield client


@pytest.fixture(scope="session")
def reference_graphs() -> Path:
    """Return the folder of the exported reference networks."""
    with reference.lock():
        reference.run("export", "--out", reference.OUT / "onnx")
    return reference.OUT / "onnx"


@pytest.fixture(scope="session")
def reference_engines(reference_graphs: Path) -> Path:
    """Return the folder of the bundles that were built of the reference networks for the CPU."""
    out = reference.OUT / "engines"
    with reference.lock():
        reference.run("build.engines", "--arch", "cpu", "--onnx", reference_graphs, "--out", out)
    return out
