"""Proxy variables and the real server: they never come between a client and a server on the same machine."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.integration import serving
from tests.integration.serving import ROOT, Running
from tests.unit.contract.test_proxies import VARIABLES

pytestmark = pytest.mark.integration
# Nothing listens there.
PROXY = "http://user:secret@127.0.0.1:9"
CLIENT = """\
import sys
from transcriber.connection import Connection
model = "ensemble_en_standard"
assert Connection(sys.argv[1], retry_timeout_s=3).first_ready((model,)) == model
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("proxies")
    serving.write_bundle(folder / "engines" / "embedded" / "cpu", "standard")
    with serving.started(folder / "engines", folder) as running:
        serving.wait_ready(running)
        yield running


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env=serving.environment(**variables), capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in VARIABLES if name.lower() != "no_proxy"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_server_on_this_machine(server: Running, host: str, name: str) -> None:
    done = run("-m", "runtime.probe", "--timeout=5", f"--url=http://{host}:{server.http}", **{name: PROXY})
    assert done.returncode == 0, done.stderr
    done = run("-c", CLIENT, f"{host}:{server.grpc}", **{name: PROXY})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_error_names_the_variable_of_grpc(server: Running, name: str) -> None:
    endpoint, sound = f"192.0.2.1:{server.grpc}", "demo/dialogue.flac"
    done = run("-m", "transcriber", sound, "--wait=1", f"--endpoint={endpoint}", **{name: PROXY})
    assert done.returncode == 51
    assert done.stderr.endswith(
        f"{name}=http://127.0.0.1:9 leads through a proxy: if the server is reached without it, "
        "add 192.0.2.1 to no_proxy.\n"
    )


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_error_names_the_variable_of_the_probe(server: Running, name: str) -> None:
    done = run("-m", "runtime.probe", "--timeout=0", f"--url=http://192.0.2.1:{server.http}", **{name: PROXY})
    assert done.returncode == 51
    assert done.stderr.endswith(
        f"{name}=http://127.0.0.1:9 leads through a proxy: if the server is reached without it, "
        "add 192.0.2.1 to no_proxy.\n"
    )
