"""Define how a client reaches a server: TLS, certificates and headers, with the options that all clients share."""

import functools
import os
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from contract import certificates
from contract.errors import SettingError

_NAME = re.compile(r"[a-z0-9_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_CA, _CERTIFICATE, _KEY, _HEADER = "--ca", "--client-certificate", "--client-key", "--header"
_TLS_VARIABLE, _CA_VARIABLE, _HEADERS_VARIABLE = "VOXWRIGHT_TLS", "VOXWRIGHT_CA", "VOXWRIGHT_HEADERS"
_CERTIFICATE_VARIABLE, _KEY_VARIABLE = "VOXWRIGHT_CLIENT_CERTIFICATE", "VOXWRIGHT_CLIENT_KEY"

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """TLS or not, the files of TLS, and the headers of every request. Use `read` for values that are not checked."""

    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def context(self) -> ssl.SSLContext:
        """Return what a client verifies a server with and identifies itself by."""
        return certificates.client_context(self.ca, self.certificate, self.key)


PLAIN = Access()


def read(
    *, tls: bool, ca: Path | None, client_certificate: Path | None, client_key: Path | None, header: Iterable[str]
) -> Access:
    """Return the values of the options as an Access; raise SettingError for a file or a header that cannot be used.

    A file of TLS selects TLS.
    """
    if ca is not None:
        certificates.check_authorities(_CA, ca)
    if client_certificate is not None and client_key is not None:
        certificates.check_pair(_CERTIFICATE, client_certificate, _KEY, client_key)
    elif client_certificate is not None or client_key is not None:
        given, missing = (_CERTIFICATE, _KEY) if client_certificate is not None else (_KEY, _CERTIFICATE)
        raise SettingError(f"{given} {client_certificate or client_key}", f"{missing} is missing", "Name both files")
    has_files = ca is not None or client_certificate is not None
    headers = dict(map(_header, header))
    return Access(tls=tls or has_files, ca=ca, certificate=client_certificate, key=client_key, headers=headers)


def from_environment(environment: Mapping[str, str] = os.environ) -> Access:
    """Return the Access of the variables alone, for programs without these options; raise SettingError like `read`."""
    ca, certificate, key = (environment.get(each) for each in (_CA_VARIABLE, _CERTIFICATE_VARIABLE, _KEY_VARIABLE))
    return read(
        tls=click.BOOL.convert(environment.get(_TLS_VARIABLE) or "false", None, None),
        ca=Path(ca) if ca else None,
        client_certificate=Path(certificate) if certificate else None,
        client_key=Path(key) if key else None,
        header=_lines(environment.get(_HEADERS_VARIABLE, "")),
    )


def options(command: _Command) -> _Command:
    """Add the options of an Access to the function of a click command, which gets the parameter `access`."""
    return _with_options(command, _OPTIONS)


def url_options(command: _Command) -> _Command:
    """Add the same options to a command with a URL, whose scheme selects TLS."""
    return _with_options(command, _OPTIONS[1:])


def _with_options(command: _Command, described: Iterable[Callable[[Any], Any]]) -> _Command:
    @functools.wraps(command)
    def with_access(
        *arguments: Any,
        ca: Path | None,
        client_certificate: Path | None,
        client_key: Path | None,
        header: tuple[str, ...],
        tls: bool = False,
        **values: Any,
    ) -> Any:
        access = read(tls=tls, ca=ca, client_certificate=client_certificate, client_key=client_key, header=header)
        return command(*arguments, access=access, **values)

    found: Any = with_access
    for option in reversed(tuple(described)):
        found = option(found)
    decorated: _Command = found
    return decorated


class _HeaderType(click.ParamType[str]):
    """NAME: VALUE. In the variable, one a line, because values contain blanks."""

    name = "header"

    def split_envvar_value(self, rv: str) -> list[str]:
        return _lines(rv)


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _header(text: str) -> tuple[str, str]:
    # The text may hold a secret, so no error repeats the value.
    name, colon, value = text.partition(":")
    name, value = name.strip().lower(), value.strip()
    example = f"Use for example {_HEADER} 'authorization: Bearer TOKEN'"
    if not colon:
        raise SettingError(_HEADER, "it is not of the form NAME: VALUE", example)
    if not _NAME.fullmatch(name) or name.startswith("grpc-") or name.endswith("-bin"):
        raise SettingError(f"{_HEADER} {name!r}", "this name cannot be used for a header of gRPC and HTTP", example)
    if not _VALUE.fullmatch(value):
        raise SettingError(f"{_HEADER} {name}", "its value has characters other than printable ASCII", example)
    return name, value


def _file(flag: str, variable: str, text: str) -> Callable[[_Command], _Command]:
    return click.option(flag, type=click.Path(path_type=Path), envvar=variable, show_envvar=True, help=text)


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--tls", is_flag=True, envvar=_TLS_VARIABLE, show_envvar=True, help="Connect by TLS."),
    _file(_CA, _CA_VARIABLE, "Certificates of the trusted authorities, PEM; selects TLS.  [default: the system's]"),
    _file(_CERTIFICATE, _CERTIFICATE_VARIABLE, "Certificate by which the server knows this client, PEM."),
    _file(_KEY, _KEY_VARIABLE, "Private key of the client's certificate, PEM."),
    click.option(
        _HEADER, multiple=True, type=_HeaderType(), envvar=_HEADERS_VARIABLE, show_envvar=True, metavar="NAME:VALUE",
        help="Header of every request, such as 'authorization: Bearer TOKEN'; repeatable, in the variable one a line.",
    ),
)  # fmt: skip
