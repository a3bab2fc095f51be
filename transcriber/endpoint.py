"""Define where the server is and how long it may be away, without imports that slow `--help` down."""

import ipaddress

from contract.errors import SettingError

DEFAULT_ENDPOINT = "localhost:8001"
ENDPOINT_VARIABLE = "SM_INFERENCE_ENDPOINT"
RETRY_TIMEOUT_S = 60.0
_LARGEST_PORT = 65_535


def checked_endpoint(text: str) -> str:
    """Return `host:port` or `[IPv6 address]:port` unchanged; raise SettingError for anything else, such as a URL.

    gRPC's list of several servers, `ipv4:address:port,address:port`, is an endpoint as well.
    """
    if all(map(_is_endpoint, _listed(text))):
        return text
    host = text.rpartition(":")[0]
    remedy = f"Use for example {DEFAULT_ENDPOINT}"
    if ":" in host and "/" not in host:
        remedy = "Write an IPv6 address in brackets, such as [::1]:8001"
    raise SettingError("--endpoint", f"{text!r} is not of the form host:port", remedy)


def split(endpoint: str) -> tuple[str, int]:
    """Return the host, without brackets, and the port of a checked endpoint; those of the first server of a list."""
    host, _, port = _listed(endpoint)[0].rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _listed(text: str) -> list[str]:
    scheme, _, servers = text.partition(":")
    return servers.split(",") if scheme in ("ipv4", "ipv6") and ":" in servers else [text]


def _is_endpoint(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return _is_host(host) and port.isascii() and port.isdecimal() and 0 < int(port) <= _LARGEST_PORT


def _is_host(host: str) -> bool:
    if host.startswith("[") and host.endswith("]"):
        return _is_ipv6(host[1:-1])
    return bool(host) and not any(each in host for each in "/[]: ")


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
