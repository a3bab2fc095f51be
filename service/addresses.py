"""Decide which URLs the service may call: only listed hosts, and no address inside the network by accident."""

import fnmatch
import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
# RFC 4291, section 2.4, and RFC 6052.
_GLOBAL_UNICAST, _NAT64 = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("64:ff9b::/96")
Resolve = Callable[[str, int], list[str]]


class ForbiddenUrlError(Exception):
    """A URL that the service must not call; the text states why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Destination:
    """A host that may be called: its name, and the address that was checked, to which the connection goes."""

    scheme: str
    host: str
    port: int
    address: str


def check_name(url: str, allowed: Sequence[str], option: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL with a listed host; raise ForbiddenUrlError for any other."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise ForbiddenUrlError("it is not a URL") from None
    host = (parts.hostname or "").rstrip(".").lower()
    if parts.scheme not in _PORTS or not host:
        raise ForbiddenUrlError("it is not a URL that begins with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ForbiddenUrlError("it contains a user or a password; send them with auth_headers")
    if not any(fnmatch.fnmatchcase(host, pattern.lower()) for pattern in allowed):
        raise ForbiddenUrlError(f"this service may not call {host}; its operator lists hosts with {option}")
    return parts.scheme, host, port


def check(url: str, allowed: Sequence[str], option: str, resolve: Resolve | None = None) -> Destination:
    """Return where a URL leads; raise ForbiddenUrlError unless it may be called.

    A host that is listed by its whole name may lie inside the network, as the operator named it. One that only a
    pattern such as *.example.com matches may not: the owner of that domain could point a name of it anywhere.
    """
    scheme, host, port = check_name(url, allowed, option)
    addresses = (resolve or _resolve)(host, port)
    if host not in (name.lower() for name in allowed):
        for address in addresses:
            if not _is_public(address):
                raise ForbiddenUrlError(f"{host} is an address inside the network; {option} must name it as a whole")
    return Destination(scheme=scheme, host=host, port=port, address=addresses[0])


def place(url: str) -> str:
    """Return the host and port that a URL names, in one spelling; empty for what is not a URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return ""
    return f"{(parts.hostname or '').rstrip('.').lower()}:{port}"


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ForbiddenUrlError(f"{host} has no address") from error
    return [str(entry[4][0]) for entry in found]


def _is_public(address: str) -> bool:
    reached = _reached(ipaddress.ip_address(address.partition("%")[0]))
    # Site-local addresses, those of a network's own NAT64 (64:ff9b:1::/48) and other reserved ones lie outside.
    if isinstance(reached, ipaddress.IPv6Address) and reached not in _GLOBAL_UNICAST:
        return False
    return reached.is_global and not reached.is_multicast


def _reached(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address that the system or a gateway calls for an IPv6 address which contains one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address
