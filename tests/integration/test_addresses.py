"""The real server and its clients on hosts with IPv4 only, IPv6 only and both: a network namespace is such a host."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration import serving
from tests.integration.serving import ROOT

pytestmark = pytest.mark.integration
UP = "ip link add v0 type veth peer name v1 && ip link set v1 up && ip link set v0 up && ip link set lo up"
IPV4 = f"{UP} && ip -6 addr flush dev lo && ip -6 addr flush dev v0 && ip addr add 192.0.2.1/24 dev v0"
IPV6 = f"{UP} && ip addr del 127.0.0.1/8 dev lo && ip addr add fd00:5::1/64 dev v0 nodad"
BOTH = f"{UP} && ip addr add 192.0.2.1/24 dev v0 && ip addr add fd00:5::1/64 dev v0 nodad"
# A namespace has ports of its own.
HTTP, GRPC, METRICS = 8000, 8001, 8002
CLIENT = """\
import sys
from transcriber.connection import Connection
model = "ensemble_en_standard"
assert Connection(sys.argv[1], retry_timeout_s=3).first_ready((model,)) == model
"""


WAIT_S = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """A server in a network namespace."""

    process: subprocess.Popen[bytes]
    log: Path
    environment: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this host."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        enter = ["nsenter", "--target", str(self.process.pid), *user, "--net"]
        return subprocess.run(
            [*enter, *command], cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )

    def answers(self, url: str, within_s: float = 0.0) -> bool:
        """Return whether HTTP answers at a URL, after a while if the machine is loaded."""
        program = f"from urllib.request import urlopen; urlopen({url!r}, timeout=3).read()"
        end_s = time.monotonic() + within_s
        while self.run(sys.executable, "-c", program).returncode:
            if time.monotonic() >= end_s:
                return False
        return True

    def serves(self, endpoint: str) -> bool:
        """Return whether gRPC answers at an endpoint."""
        return self.run(sys.executable, "-c", CLIENT, endpoint).returncode == 0


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("addresses")
    serving.write_bundle(folder / "embedded" / "cpu", "standard")
    return folder


@contextmanager
def host(network: str, engines: Path, folder: Path, **variables: str) -> Iterator[Host]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command, environment = serving.command(engines, folder / "repository"), serving.environment(**variables)
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["unshare", *user, "--net", "sh", "-c", f'{network} && exec "$@"', "sh", *command],
            cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        found = Host(process=process, log=log, environment=environment)
        wait_ready(found)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(serving.EXIT_S)
        except subprocess.TimeoutExpired:
            serving.kill(process)


def wait_ready(found: Host) -> None:
    """Wait with the probe's own default URL, as the health check of an image does."""
    for _ in range(serving.READY_S):
        if found.process.poll() is not None and "Operation not permitted" in found.log.read_text():
            pytest.skip("this user may not create network namespaces")
        assert found.process.poll() is None, found.log.read_text()
        if found.run(sys.executable, "-m", "runtime.probe", "--timeout", "1").returncode == 0:
            return
        time.sleep(0.1)
    pytest.fail(found.log.read_text())


@pytest.mark.parametrize(
    ("network", "variables", "family", "reached", "not_reached"),
    [
        (IPV4, {}, None, ["127.0.0.1", "192.0.2.1"], []),
        (IPV6, {}, "IPv6", ["[::1]", "[fd00:5::1]"], []),
        (BOTH, {}, "IPv4", ["127.0.0.1", "192.0.2.1"], ["[::1]", "[fd00:5::1]"]),
        (BOTH, {"VOXWRIGHT_HTTP_ADDRESS": "::"}, "IPv6", ["[::1]", "[fd00:5::1]"], ["127.0.0.1", "192.0.2.1"]),
    ],
    ids=["IPv4 only", "IPv6 only", "both", "both, HTTP on IPv6"],
)
def test_families_of_a_host(
    engines: Path,
    tmp_path: Path,
    network: str,
    variables: dict[str, str],
    family: str | None,
    reached: list[str],
    not_reached: list[str],
) -> None:
    """HTTP and metrics listen on one family, which the log states. gRPC listens on all."""
    with host(network, engines, tmp_path, **variables) as found:
        for address in reached:
            assert found.answers(f"http://{address}:{HTTP}/v2/health/ready", WAIT_S), address
            assert found.answers(f"http://{address}:{METRICS}/metrics", WAIT_S), address
        for address in not_reached:
            assert not found.answers(f"http://{address}:{HTTP}/v2/health/ready"), address
        for address in (*reached, *not_reached, "localhost"):
            assert found.serves(f"{address}:{GRPC}"), address
        stated = re.findall(r"HTTP and metrics listen on (IPv[46]) only", found.log.read_text())
    assert stated == ([family] if family else [])


def test_every_address_has_an_option(engines: Path, tmp_path: Path) -> None:
    """The probe finds the address by the same variable."""
    chosen = {"HTTP": "fd00:5::1", "GRPC": "::1", "METRICS": "192.0.2.1"}
    with host(BOTH, engines, tmp_path, **{f"VOXWRIGHT_{name}_ADDRESS": text for name, text in chosen.items()}) as found:
        assert found.answers(f"http://[fd00:5::1]:{HTTP}/v2/health/ready")
        assert not found.answers(f"http://[::1]:{HTTP}/v2/health/ready")
        assert found.answers(f"http://192.0.2.1:{METRICS}/metrics")
        assert found.serves(f"[::1]:{GRPC}")
        assert not found.serves(f"127.0.0.1:{GRPC}")
