"""Decide on which addresses the server listens, and bind each port once before a start."""

import errno
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from contract.errors import PortInUseError, SettingError

ALL_IPV4, ALL_IPV6 = "0.0.0.0", "::"  # noqa: S104 - the server is for other hosts
WILDCARDS = (ALL_IPV4, ALL_IPV6)
_IPV4_ROUTES, _IPV6_ADDRESSES = Path("/proc/net/route"), Path("/proc/net/if_inet6")
# Fields of a line of /proc/net/if_inet6.
_SCOPE, _INTERFACE, _GLOBAL, _LOOPBACK = 3, 5, "00", "lo"
_LOOPBACK_IPV4, _ANY_PORT = "127.0.0.1", 0
# An address that this kernel has not, and a family that it does not support.
_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


@dataclass(frozen=True, kw_only=True, slots=True)
class Families:
    """Whether a host has addresses of a family, apart from those of its loopback interface."""

    ipv4: bool
    ipv6: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Ports on which the server listens."""

    http: int
    grpc: int
    metrics: int

    def flags(self) -> dict[str, int]:
        """Return each port by the option that sets it."""
        return {"--http-port": self.http, "--grpc-port": self.grpc, "--metrics-port": self.metrics}


@dataclass(frozen=True, kw_only=True, slots=True)
class Addresses:
    """Addresses on which the server listens.

    Triton's HTTP server takes one address of one family. gRPC takes both families at 0.0.0.0 and at ::.
    """

    http: str = ALL_IPV4
    grpc: str = ALL_IPV4
    metrics: str = ALL_IPV4

    def flags(self) -> tuple[str, ...]:
        """Return the flags of tritonserver.

        It reads an IPv6 address of HTTP only behind `ipv6:`. Without it, it listens at 255.255.255.255, and nothing
        reports that.
        """
        return (
            f"--http-address={_with_prefix(self.http)}",
            f"--grpc-address={bracketed(self.grpc)}",
            f"--metrics-address={_with_prefix(self.metrics)}",
        )


def families(routes: Path = _IPV4_ROUTES, addresses: Path = _IPV6_ADDRESSES) -> Families:
    """Return the families of this host, by the kernel's lists of IPv4 routes and IPv6 addresses.

    A host without a network has the family of its loopback interface.
    """
    found = [line.split() for line in _lines(addresses)]
    ipv6 = any(each[_SCOPE] == _GLOBAL and each[_INTERFACE] != _LOOPBACK for each in found)
    # The first line is a heading.
    ipv4 = len(_lines(routes)) > 1
    return Families(ipv4=ipv4, ipv6=ipv6) if ipv4 or ipv6 else Families(ipv4=_can_bind(_LOOPBACK_IPV4), ipv6=True)


def choose(http: str | None, grpc: str | None, metrics: str | None, host: Families) -> Addresses:
    """Return the addresses of the options; without an option, HTTP and metrics take IPv6 where a host has no IPv4.

    Raises SettingError for what is not an address.
    """
    by_host = ALL_IPV6 if host.ipv6 and not host.ipv4 else ALL_IPV4
    http_address = _address("--http-address", http) or by_host
    return Addresses(
        http=http_address,
        grpc=_address("--grpc-address", grpc) or ALL_IPV4,
        metrics=_address("--metrics-address", metrics) or http_address,
    )


def remark(addresses: Addresses, host: Families) -> str | None:
    """Return a sentence where HTTP is not reached at every address of this host by the choice of a family alone."""
    if addresses.http not in WILDCARDS:
        return None
    if addresses.http == ALL_IPV6:
        return "HTTP and metrics listen on IPv6 only: Triton's HTTP server takes one family. gRPC takes both"
    if host.ipv6:
        rest = "--http-address :: selects IPv6. gRPC takes both"
        return f"HTTP and metrics listen on IPv4 only: Triton's HTTP server takes one family, and {rest}"
    return None


def bracketed(address: str) -> str:
    """Return an address as it is written before a colon and a port."""
    return f"[{address}]" if ":" in address else address


def check_ports(ports: Ports, addresses: Addresses) -> None:
    """Bind each port once; raise PortInUseError for a port in use, SettingError for one that needs more rights."""
    for name, (flag, port) in zip(("http", "grpc", "metrics"), ports.flags().items(), strict=True):
        chosen = getattr(addresses, name)
        # gRPC also listens on the other family.
        for address in WILDCARDS if name == "grpc" and chosen in WILDCARDS else (chosen,):
            _check_port(flag, port, address, optional=address != chosen)


def _check_port(flag: str, port: int, address: str, *, optional: bool) -> None:
    try:
        _bind(address, port)
    except PermissionError as error:
        raise SettingError(flag, f"this user may not open port {port}", "Choose one above 1023") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            remedy = f"Stop that process, or choose another port with {flag}"
            raise PortInUseError(f"port {port}", "another process listens on it", remedy) from error
        if not optional:
            setting = f"{flag.replace('-port', '-address')} {address}"
            absent = "this machine does not have this address"
            cause = absent if error.errno in _ABSENT else f"it cannot listen there ({error.strerror or error})"
            raise SettingError(setting, cause, "Name an address of this machine; `ip address` lists them") from error


def _bind(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        # tritonserver sets SO_REUSEADDR too: a port in TIME_WAIT is free.
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            attempt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        attempt.bind((address, port))


def _can_bind(address: str) -> bool:
    try:
        _bind(address, _ANY_PORT)
    except OSError:
        return False
    return True


def _address(flag: str, text: str | None) -> str | None:
    if not text:
        return None
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError as error:
        remedy = "Use an IPv4 or IPv6 address of this machine, 0.0.0.0 or ::"
        raise SettingError(flag, f"{text!r} is not an address", remedy) from error


def _with_prefix(address: str) -> str:
    return f"ipv6:{address}" if ":" in address else address


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
