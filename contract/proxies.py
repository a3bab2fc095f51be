"""Decide where the proxy variables of the environment apply: never between a client and a server on this machine."""

import ipaddress
import os
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

# In this order, and in lower case only, by gRPC's own http_proxy_mapper.cc.
_GRPC_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_GRPC_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def is_local(host: str) -> bool:
    """Return whether a host is this machine; `host` is a name or an address without brackets."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    return any(_is_own(family, address) for family, _, _, _, address in found)


def of_grpc(host: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the variable by which gRPC connects to a host through a proxy, as NAME=URL; None without one."""
    name = next((each for each in _GRPC_VARIABLES if environment.get(each)), None)
    if name is None or is_local(host):
        return None
    exceptions = next((environment[each] for each in _GRPC_EXCEPTIONS if environment.get(each)), "")
    if any(_is_exception(host, each.strip()) for each in exceptions.split(",") if each.strip()):
        return None
    return f"{name}={_without_secret(environment[name])}"


def of_http(url: str) -> str | None:
    """Return the variable by which urllib reaches a URL through a proxy, as NAME=URL; None without one."""
    parts = urlsplit(url)
    host, scheme = parts.hostname or "", parts.scheme
    proxy = getproxies_environment().get(scheme)
    if proxy is None or is_local(host) or proxy_bypass(host):
        return None
    name = next((each for each in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY") if os.environ.get(each)), scheme)
    return f"{name}={_without_secret(proxy)}"


def remedy(variable: str, host: str) -> str:
    """Return the sentence that names the variable of a proxy, for an error that followed."""
    return f"{variable} leads through a proxy: if the server is reached without it, add {host} to no_proxy"


def _is_exception(host: str, exception: str) -> bool:
    """Compare as gRPC does: the end of a name, or the network of an address."""
    if host.lower().endswith(exception.lower()):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(exception, strict=False)
    except ValueError:
        return False


def _is_own(family: int, address: tuple[object, ...]) -> bool:
    # Only an address of this machine can be bound. No packet is sent.
    with socket.socket(family, socket.SOCK_DGRAM) as attempt:
        try:
            attempt.bind(address)
        except OSError:
            return False
    return True


def _without_secret(proxy: str) -> str:
    scheme, separator, rest = proxy.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
