"""Test on which addresses the server listens, by the options and by the host, and the check of its ports."""

import errno
import re
import socket
from pathlib import Path

import pytest

from contract.errors import PortInUseError, SettingError
from runtime import listening
from runtime.listening import Addresses, Families, Ports
from tests.ports import free_ports

BOTH, IPV4, IPV6 = Families(ipv4=True, ipv6=True), Families(ipv4=True, ipv6=False), Families(ipv4=False, ipv6=True)
ROUTES = "Iface Destination Gateway Flags\neth0 000200C0 00000000 0001\n"
LOOPBACK = "00000000000000000000000000000001 01 80 10 80       lo\n"
LINK_LOCAL = "fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n"
GLOBAL = "fd000000000000000000000000000002 04 40 00 82     eth0\n"


@pytest.mark.parametrize(
    ("routes", "addresses", "expected"),
    [
        (ROUTES, LOOPBACK + LINK_LOCAL + GLOBAL, BOTH),
        (ROUTES, LOOPBACK + LINK_LOCAL, IPV4),
        (ROUTES, None, IPV4),
        (ROUTES.splitlines()[0], LOOPBACK + GLOBAL, IPV6),
        (None, LOOPBACK, BOTH),
    ],
)
def test_families_of_a_host(tmp_path: Path, routes: str | None, addresses: str | None, expected: Families) -> None:
    files = tmp_path / "route", tmp_path / "if_inet6"
    for path, text in zip(files, (routes, addresses), strict=True):
        if text is not None:
            path.write_text(text)
    assert listening.families(*files) == expected


@pytest.mark.parametrize(
    ("host", "http"),
    [(BOTH, "0.0.0.0"), (IPV4, "0.0.0.0"), (IPV6, "::")],  # noqa: S104
)
def test_http_takes_the_family_of_the_host(host: Families, http: str) -> None:
    assert listening.choose(None, None, None, host) == Addresses(http=http, metrics=http)


def test_flags_of_both_families() -> None:
    """Triton reads an IPv6 address behind `ipv6:` for HTTP, and in brackets for gRPC."""
    chosen = listening.choose("[::1]", "fd00::5", "127.0.0.1", BOTH)
    assert chosen.flags() == ("--http-address=ipv6:::1", "--grpc-address=[fd00::5]", "--metrics-address=127.0.0.1")


@pytest.mark.parametrize("text", ["localhost", "127.0.0.1:8000", "ipv6:::1", "300.0.0.1", "*"])
def test_rejects_what_is_not_an_address(text: str) -> None:
    with pytest.raises(SettingError) as refusal:
        listening.choose(text, None, None, BOTH)
    remedy = "Use an IPv4 or IPv6 address of this machine, 0.0.0.0 or ::"
    assert str(refusal.value) == f"--http-address: {text!r} is not an address. {remedy}."


@pytest.mark.parametrize(
    ("http", "host", "expected"),
    [
        (None, IPV4, None),
        (None, BOTH, "HTTP and metrics listen on IPv4 only: Triton's HTTP server takes one family, and "
                     "--http-address :: selects IPv6. gRPC takes both"),
        (None, IPV6, "HTTP and metrics listen on IPv6 only: Triton's HTTP server takes one family. gRPC takes both"),
        ("127.0.0.1", BOTH, None),
    ],
)  # fmt: skip
def test_remark_where_one_family_is_left_out(http: str | None, host: Families, expected: str | None) -> None:
    assert listening.remark(listening.choose(http, None, None, host), host) == expected


@pytest.mark.parametrize("port_of", ["http", "grpc", "metrics"])
def test_rejects_port_in_use_at_ipv6(port_of: str) -> None:
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::", 0))
        other.listen()
        ports = dict(zip(("http", "grpc", "metrics"), free_ports(3), strict=True))
        taken = Ports(**{**ports, port_of: other.getsockname()[1]})
        # gRPC takes both families, and HTTP only its own.
        with pytest.raises(PortInUseError, match=f"choose another port with --{port_of}-port"):
            listening.check_ports(taken, Addresses(http="::", metrics="::"))
        if port_of != "grpc":
            listening.check_ports(taken, Addresses())


def test_rejects_address_of_another_machine() -> None:
    http, grpc, metrics = free_ports(3)
    with pytest.raises(SettingError) as refusal:
        listening.check_ports(Ports(http=http, grpc=grpc, metrics=metrics), Addresses(metrics="192.0.2.1"))
    assert str(refusal.value) == (
        "--metrics-address 192.0.2.1: this machine does not have this address. "
        "Name an address of this machine; `ip address` lists them."
    )


@pytest.mark.parametrize("address", ["fe80::1", "fe80::1%nosuch"])
def test_rejects_address_that_cannot_be_used(address: str) -> None:
    """Its scope is missing or unknown: no other process is the reason."""
    (port,) = free_ports(1)
    with pytest.raises(SettingError, match=rf"^--http-address {re.escape(address)}: "):
        listening.check_ports(Ports(http=port, grpc=port, metrics=port), Addresses(http=address))


def test_host_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = listening._bind

    def without_ipv6(address: str, port: int) -> None:
        if ":" in address:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        bind(address, port)

    monkeypatch.setattr(listening, "_bind", without_ipv6)
    http, grpc, metrics = free_ports(3)
    listening.check_ports(Ports(http=http, grpc=grpc, metrics=metrics), Addresses())


def test_rejects_port_in_use() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        http, metrics = free_ports(2)
        with pytest.raises(PortInUseError) as refusal:
            listening.check_ports(Ports(http=http, grpc=port, metrics=metrics), Addresses())
    assert str(refusal.value) == (
        f"port {port}: another process listens on it. Stop that process, or choose another port with --grpc-port."
    )
    listening.check_ports(Ports(http=http, grpc=port, metrics=metrics), Addresses())


def test_rejects_port_that_needs_more_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(SettingError, match=r"^--http-port: this user may not open port 80\. Choose one above 1023\.$"):
        listening.check_ports(Ports(http=80, grpc=8001, metrics=8002), Addresses())
