"""Read the files of TLS, and find out why a TLS connection to a server fails."""

import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection

from contract.errors import SettingError

_HANDSHAKE_S, _ALERT_S = 3.0, 1.0
_BYTES = 4096
# The beginning of every HTTP/2 connection: the preface and empty settings. A server answers it at once.
_HTTP2_BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_HTTP2 = "h2"
_PEM = "Name a file in PEM format"
# Codes of OpenSSL's verification (X509_V_ERR_...), see its manual page of X509_STORE_CTX_get_error.
_NOT_YET_VALID, _EXPIRED = 9, 10
_NAME_MISMATCHES = frozenset({62, 64})
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})
# Alerts with which a server rejects a client without a certificate, or with a wrong one.
_ALERTS_WITHOUT_CERTIFICATE = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Why a server cannot be used over a connection, and what cures it."""

    cause: str
    remedy: str


NO_TLS = Problem(cause="it does not speak TLS on this port", remedy="Connect without TLS, or name a port with TLS")
_ONLY_HTTP = Problem(
    cause="it speaks HTTP on this port, and not gRPC", remedy="Name the gRPC port of the server, which is usually 8001"
)


_NEEDS_CERTIFICATE = Problem(
    cause="it requires a certificate of the client",
    remedy="Name one with --client-certificate and its key with --client-key",
)
_REFUSES_CERTIFICATE = Problem(
    cause="it refuses the certificate of this client",
    remedy="Check the dates of --client-certificate, and whether the server trusts its authority",
)


def client_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return what a client verifies a server with: a CA file in PEM, or else the authorities of this system.

    `certificate` and `key` identify the client. Raises ssl.SSLError and OSError for files that were not checked.
    """
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    if certificate is not None and key is not None:
        _load_pair(context, certificate, key)
    return context


def check_authorities(setting: str, path: Path) -> None:
    """Raise SettingError for a file that cannot be read or holds no certificate in PEM."""
    _read(setting, path)
    try:
        ssl.create_default_context(cafile=str(path))
    except (ssl.SSLError, ValueError) as error:
        raise SettingError(f"{setting} {path}", "it holds no certificate", _PEM) from error


def check_pair(certificate_setting: str, certificate: Path, key_setting: str, key: Path) -> None:
    """Raise SettingError for a certificate and its private key that cannot be read, or do not belong together."""
    if "-----BEGIN CERTIFICATE-----" not in _read(certificate_setting, certificate):
        raise SettingError(f"{certificate_setting} {certificate}", "it holds no certificate", _PEM)
    text = _read(key_setting, key)
    if "PRIVATE KEY-----" not in text:
        raise SettingError(f"{key_setting} {key}", "it holds no private key", _PEM)
    if "ENCRYPTED" in text:
        remedy = "Decrypt it with `openssl pkey -in KEY -out PLAIN`, and let only this user read it"
        raise SettingError(f"{key_setting} {key}", "it needs a passphrase", remedy)
    try:
        _load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            cause = f"it is not the private key of {certificate_setting} {certificate}"
            raise SettingError(
                f"{key_setting} {key}", cause, "Name the key that the certificate was made for"
            ) from error
        cause = f"it cannot be used with {certificate_setting} {certificate} ({error.reason or error})"
        raise SettingError(
            f"{key_setting} {key}", cause, "Check both files with `openssl x509` and `openssl pkey`"
        ) from error


def find_problem(
    host: str, port: int, context: ssl.SSLContext | None, *, has_certificate: bool = False
) -> Problem | None:
    """Connect once, with TLS where a context is given, and return why a gRPC client cannot use the server.

    `has_certificate` states whether the context identifies the client. None where nothing is wrong, and where nothing
    listens: a server may still come up.
    """
    if context is None:
        return plain_problem(host, port) or (_ONLY_HTTP if answers_http(host, port) else None)
    try:
        _exchange(host, port, context)
    except ssl.SSLError as error:
        return explain(error, host) or (NO_TLS if answers_http(host, port) else None)
    except _NoHttp2Error:
        cause = "it serves TLS, but not for HTTP/2, which gRPC needs"
        return Problem(
            cause=cause, remedy="Name the port of gRPC, or let the balancer in front of it accept HTTP/2 (ALPN h2)"
        )
    except _EndedError:
        return _REFUSES_CERTIFICATE if has_certificate else _NEEDS_CERTIFICATE
    except OSError:
        return None
    return None


def explain(error: ssl.SSLError, host: str) -> Problem | None:
    """Return the cause and the remedy of a failed handshake with a host; None for one that may succeed later."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _unverified(error, host)
    reason = (error.reason or "").upper()
    if reason in _NO_TLS:
        return Problem(
            cause="it does not speak TLS on this port", remedy="Connect without TLS, or name a port with TLS"
        )
    if "ALERT" not in reason and "ALERT" not in str(error).upper():
        return None
    if any(name in reason for name in _ALERTS_WITHOUT_CERTIFICATE):
        return _NEEDS_CERTIFICATE
    return _REFUSES_CERTIFICATE


def _unverified(error: ssl.SSLCertVerificationError, host: str) -> Problem:
    if error.verify_code == _EXPIRED:
        return Problem(cause="its certificate has expired", remedy="Renew the certificate of the server")
    if error.verify_code == _NOT_YET_VALID:
        cause = "its certificate is not valid yet"
        return Problem(cause=cause, remedy="Check the clock of this machine, or the certificate of the server")
    if error.verify_code in _NAME_MISMATCHES:
        cause = f"its certificate is not valid for the name {host}"
        return Problem(
            cause=cause, remedy="Use a name that the certificate lists, or issue a certificate for this name"
        )
    cause = f"its certificate is not signed by a trusted authority ({error.verify_message})"
    return Problem(cause=cause, remedy="Name the file of the authority that signed it with --ca")


class _EndedError(Exception):
    """A server that ends the connection after the handshake."""


class _NoHttp2Error(Exception):
    """A TLS server that does not agree to HTTP/2."""


def _exchange(host: str, port: int, context: ssl.SSLContext) -> None:
    """Do a handshake and the beginning of HTTP/2: in TLS 1.3 a server rejects a client only after the handshake."""
    context.set_alpn_protocols([_HTTP2])
    with (
        create_connection((host, port), _HANDSHAKE_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as link,
    ):
        if link.selected_alpn_protocol() != _HTTP2:
            raise _NoHttp2Error
        link.settimeout(_ALERT_S)
        link.sendall(_HTTP2_BEGIN)
        # gRPC's server rejects the certificate of a client, or its absence, without an alert.
        if not link.recv(_BYTES):
            raise _EndedError


def answers_http(host: str, port: int) -> bool:
    """Return whether an HTTP server without TLS answers at a port. A gRPC server does not answer this request."""
    with contextlib.suppress(OSError), create_connection((host, port), _HANDSHAKE_S) as link:
        link.sendall(f"HEAD / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        return link.recv(_BYTES).startswith(b"HTTP/")
    return False


def plain_problem(host: str, port: int) -> Problem | None:
    """Return a problem where a server that was called without TLS speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent over this connection: it only shows whether the server answers a handshake.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError, ssl.SSLError):
        with create_connection((host, port), _HANDSHAKE_S) as plain, context.wrap_socket(plain, server_hostname=host):
            pass
        return Problem(
            cause="it speaks TLS on this port",
            remedy="Use TLS (--tls, or https:// in a URL), and name its authority with --ca",
        )
    return None


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    # Without `password`, OpenSSL would request the passphrase from a terminal of an encrypted key.
    context.load_cert_chain(certificate, key, password="")


def _read(setting: str, path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise SettingError(f"{setting} {path}", f"it cannot be read ({error.strerror})", _PEM) from error
