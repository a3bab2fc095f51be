"""Fixtures of the integration tests."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonclient import grpc as triton

from tests.integration import reference, serving
from tests.integration.serving import Running

_INSTALL_S = 120


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


@pytest.fixture(scope="module")
def server(reference_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a server of the reference networks in batch mode; modules with other networks have their own fixture."""
    with serving.started(reference_engines, tmp_path_factory.mktemp("server")) as running:
        serving.wait_ready(running)
        yield running


@pytest.fixture(scope="module")
def streams(reference_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a server of the reference networks in real-time mode."""
    with serving.started(reference_engines, tmp_path_factory.mktemp("streams"), SM_BATCH_MODE="false") as running:
        serving.wait_ready(running)
        yield running


@pytest.fixture(scope="session")
def npm_clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the npm clients of the lock; skip only where npm or its registry is absent."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    shutil.copytree(Path(__file__).parent / "npm", folder, dirs_exist_ok=True)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=_INSTALL_S)
    if any(code in done.stderr for code in ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN")):
        pytest.skip("the registry of npm cannot be reached")
    assert done.returncode == 0, done.stderr
    return folder
