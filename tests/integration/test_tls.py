"""TLS, certificates and headers between the clients and the real server, and what each mistake reports."""

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from contract import access
from contract.access import Access
from contract.catalogue import read_catalogue
from contract.errors import ServerUnreachableError
from runtime import probe
from tests.certificates import DAY, Authority, Pair
from tests.integration import serving
from tests.integration.serving import ROOT, Running
from tests.terminator import terminating
from transcriber.connection import Connection

pytestmark = pytest.mark.integration
MODEL = "ensemble_en_standard"
HOSTS = ("localhost", "127.0.0.1", "::1")
SECRET = "a-secret-of-this-test"  # noqa: S105
# Every API that the clients use needs the header.
GRPC = "health,metadata,model-config,inference"
HTTP = "health,metadata,statistics,model-config,inference"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "authority")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("server", *HOSTS)


@pytest.fixture(scope="module")
def client_pair(authority: Authority) -> Pair:
    return authority.issue("client")


@pytest.fixture(scope="module")
def engines(folder: Path) -> Path:
    serving.write_bundle(folder / "engines" / "embedded" / "cpu", "standard")
    return folder / "engines"


@pytest.fixture(scope="module")
def server(folder: Path, engines: Path, authority: Authority, pair: Pair) -> Iterator[Running]:
    """A server whose gRPC needs TLS and a certificate of the client, and whose HTTP needs a header."""
    options = (
        f"--grpc-certificate={pair.certificate}", f"--grpc-key={pair.key}", f"--grpc-client-ca={authority.file}",
        "--", f"--http-restricted-api={HTTP}:token={SECRET}",
    )  # fmt: skip
    with serving.started(engines, folder, options) as running:
        problem = probe.wait(running.url, serving.READY_S, probe.LIVE, access=with_token())
        assert problem is None, running.log.read_text()
        yield running


@pytest.fixture(scope="module")
def plain(folder: Path, engines: Path) -> Iterator[Running]:
    """A server without TLS whose gRPC needs a header."""
    (folder / "plain").mkdir()
    options = ("--", f"--grpc-restricted-protocol={GRPC}:token={SECRET}")
    with serving.started(engines, folder / "plain", options) as running:
        serving.wait_ready(running)
        yield running


def with_token(**files: Path) -> Access:
    names: dict[str, Path | None] = {"ca": None, "client_certificate": None, "client_key": None, **files}
    return access.read(tls=False, header=[f"Token: {SECRET}"], **names)


def over_grpc(port: int, chosen: Access, host: str = "localhost") -> None:
    connection = Connection(f"{host}:{port}", access=chosen, retry_timeout_s=5)
    assert connection.first_ready((MODEL,)) == MODEL
    connection.check(MODEL, read_catalogue().families["ensemble_en"])
    assert "client" in connection.parameters(MODEL)


def refusal(port: int, chosen: Access) -> str:
    with pytest.raises(ServerUnreachableError) as caught:
        over_grpc(port, chosen)
    return str(caught.value).removeprefix(f"localhost:{port}: ")


def files(authority: Authority, pair: Pair | None = None) -> Access:
    return Access(
        tls=True, ca=authority.file, certificate=pair.certificate if pair else None, key=pair.key if pair else None
    )


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_client_with_a_certificate(server: Running, authority: Authority, client_pair: Pair, host: str) -> None:
    over_grpc(server.grpc, files(authority, client_pair), host)


def test_client_without_a_certificate(server: Running, authority: Authority) -> None:
    assert refusal(server.grpc, files(authority)) == (
        "it requires a certificate of the client. Name one with --client-certificate and its key with --client-key."
    )


def test_client_with_a_certificate_of_another_authority(server: Running, authority: Authority, folder: Path) -> None:
    other = Authority(folder, "other")
    assert refusal(server.grpc, files(authority, other.issue("unknown"))) == (
        "it refuses the certificate of this client. "
        "Check the dates of --client-certificate, and whether the server trusts its authority."
    )


def test_client_without_tls(server: Running) -> None:
    assert refusal(server.grpc, Access()) == (
        "it speaks TLS on this port. Use TLS (--tls, or https:// in a URL), and name its authority with --ca."
    )


def test_server_without_tls(plain: Running, authority: Authority) -> None:
    assert refusal(plain.grpc, files(authority)) == (
        "it does not speak TLS on this port. Connect without TLS, or name a port with TLS."
    )


def test_port_of_http(plain: Running, authority: Authority) -> None:
    assert refusal(plain.http, Access()) == (
        "it speaks HTTP on this port, and not gRPC. Name the gRPC port of the server, which is usually 8001."
    )
    assert refusal(plain.http, files(authority)) == (
        "it does not speak TLS on this port. Connect without TLS, or name a port with TLS."
    )


def test_authority_that_is_not_the_servers(server: Running, folder: Path) -> None:
    # OpenSSL's own text depends on whether the server sends the certificate of its authority.
    assert re.fullmatch(
        r"its certificate is not signed by a trusted authority \([a-z -]+\)\. "
        r"Name the file of the authority that signed it with --ca\.",
        refusal(server.grpc, files(Authority(folder, "wrong"))),
    )


@pytest.mark.parametrize(
    ("name", "hosts", "begins", "ends", "sentence"),
    [
        ("expired", HOSTS, -3 * DAY, -DAY, "its certificate has expired. Renew the certificate of the server."),
        ("future", HOSTS, DAY, 2 * DAY, "its certificate is not valid yet. "
         "Check the clock of this machine, or the certificate of the server."),
        ("named", ("example.org",), -DAY, DAY, "its certificate is not valid for the name localhost. "
         "Use a name that the certificate lists, or issue a certificate for this name."),
    ],
)  # fmt: skip
def test_certificate_of_a_terminator(
    plain: Running,
    authority: Authority,
    name: str,
    hosts: tuple[str, ...],
    begins: timedelta,
    ends: timedelta,
    sentence: str,
) -> None:
    """The sentence is the same for gRPC and for the probe."""
    pair = authority.issue(name, *hosts, begins=begins, ends=ends)
    with terminating(plain.grpc, pair) as grpc, terminating(plain.http, pair) as http:
        assert refusal(grpc, files(authority)) == sentence
        with pytest.raises(ServerUnreachableError) as caught:
            probe.check(f"https://localhost:{http}", access=files(authority))
        assert str(caught.value) == f"https://localhost:{http}: {sentence}"


def test_terminator_without_http2(plain: Running, authority: Authority, pair: Pair) -> None:
    with terminating(plain.grpc, pair, protocols=("http/1.1",)) as port:
        assert refusal(port, files(authority)) == (
            "it serves TLS, but not for HTTP/2, which gRPC needs. "
            "Name the port of gRPC, or let the balancer in front of it accept HTTP/2 (ALPN h2)."
        )


def test_header_over_grpc(plain: Running, authority: Authority, pair: Pair) -> None:
    over_grpc(plain.grpc, header_of_grpc())
    with terminating(plain.grpc, pair) as port:
        over_grpc(port, access.read(tls=True, ca=authority.file, client_certificate=None, client_key=None,
                                    header=[f"triton-grpc-protocol-token: {SECRET}"]))  # fmt: skip


def header_of_grpc() -> Access:
    # Triton puts its own prefix before the name of a header that a gRPC request needs.
    return Access(headers={"triton-grpc-protocol-token": SECRET})


def test_missing_header_over_grpc(plain: Running) -> None:
    assert refusal(plain.grpc, Access()) == (
        "it refuses the requests of this client (This protocol is restricted, expecting header "
        "'triton-grpc-protocol-token'). Name the header that it expects with --header."
    )


def run_probe(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.probe", "--timeout", "5", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=serving.environment(**variables), check=False
    )


def test_probe_by_tls_with_a_header(server: Running, authority: Authority, pair: Pair, client_pair: Pair) -> None:
    with terminating(server.http, pair, client_ca=authority.file) as port:
        done = run_probe(
            f"--url=https://localhost:{port}", f"--ca={authority.file}", f"--client-key={client_pair.key}",
            f"--client-certificate={client_pair.certificate}", f"--header=token: {SECRET}", "--inference",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "answered correctly" in done.stdout
        variables = {
            "VOXWRIGHT_CA": str(authority.file),
            "VOXWRIGHT_CLIENT_KEY": str(client_pair.key),
            "VOXWRIGHT_CLIENT_CERTIFICATE": str(client_pair.certificate),
            "VOXWRIGHT_HEADERS": f"x-request-id: of this test\ntoken: {SECRET}",
        }
        assert run_probe(f"--url=https://localhost:{port}", **variables).returncode == 0
        variables.pop("VOXWRIGHT_CLIENT_CERTIFICATE")
        variables.pop("VOXWRIGHT_CLIENT_KEY")
        done = run_probe(f"--url=https://localhost:{port}", **variables)
    assert done.returncode == 51
    assert "it requires a certificate of the client. Name one with --client-certificate" in done.stderr


def test_probe_without_its_header(server: Running) -> None:
    done = run_probe(f"--url={server.url}")
    assert done.returncode == 51
    assert done.stderr == (
        f"error: {server.url}: it refuses the requests of this client (HTTP 403, Forbidden). "
        "Name the header that it expects with --header.\n"
    )


def test_probe_of_another_protocol(server: Running, plain: Running, authority: Authority, pair: Pair) -> None:
    done = run_probe(f"--url=https://localhost:{plain.http}", f"--ca={authority.file}")
    assert (done.returncode, "it does not speak TLS on this port" in done.stderr) == (51, True), done.stderr
    with terminating(server.http, pair) as port:
        done = run_probe(f"--url=http://localhost:{port}")
    assert (done.returncode, "it speaks TLS on this port. Use TLS" in done.stderr) == (51, True), done.stderr


def test_start_rejects_an_expired_certificate(folder: Path, engines: Path, authority: Authority) -> None:
    pair = authority.issue("old", *HOSTS, begins=-3 * DAY, ends=-DAY)
    command = serving.command(engines, folder / "repository-of-no-start")
    done = subprocess.run(
        [*command, f"--grpc-certificate={pair.certificate}", f"--grpc-key={pair.key}"],
        capture_output=True, text=True, cwd=ROOT, env=serving.environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 10
    assert f"error: --grpc-certificate {pair.certificate}: it expired on " in done.stderr
