"""Read the certificate with which the server serves gRPC, and the flags of tritonserver that use it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from contract import certificates
from contract.errors import SettingError

_CERTIFICATE, _KEY, _CLIENT_CA = "--grpc-certificate", "--grpc-key", "--grpc-client-ca"
_RENEW = "Renew it; the server reads the new one when it starts again"


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpcTls:
    """Files of TLS for gRPC. With `client_ca` only clients with a certificate of this authority are served."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def flags(self) -> tuple[str, ...]:
        """Return the flags of tritonserver."""
        files = (f"--grpc-server-cert={self.certificate}", f"--grpc-server-key={self.key}")
        if self.client_ca is None:
            return ("--grpc-use-ssl=true", *files)
        return ("--grpc-use-ssl-mutual=true", *files, f"--grpc-root-cert={self.client_ca}")


def read(certificate: str | None, key: str | None, client_ca: str | None) -> GrpcTls | None:
    """Return the files of the options, None without any; raise SettingError for files that no client would accept."""
    if certificate and key:
        found = GrpcTls(certificate=Path(certificate), key=Path(key), client_ca=Path(client_ca) if client_ca else None)
        check(found, datetime.now(UTC))
        return found
    if certificate or key or client_ca:
        missing = _KEY if certificate else _CERTIFICATE
        given = next(name for name, text in ((_CERTIFICATE, certificate), (_KEY, key), (_CLIENT_CA, client_ca)) if text)
        raise SettingError(
            given, f"TLS also needs {missing}", f"Name the certificate with {_CERTIFICATE} and its key with {_KEY}"
        )
    return None


def check(files: GrpcTls, now: datetime) -> None:
    """Raise SettingError for a file that cannot be used, and for a certificate that is not valid at a time.

    tritonserver itself starts with them, and every client then fails.
    """
    certificates.check_pair(_CERTIFICATE, files.certificate, _KEY, files.key)
    if files.client_ca is not None:
        certificates.check_authorities(_CLIENT_CA, files.client_ca)
    from cryptography import x509  # noqa: PLC0415 - a start without TLS does not need it

    leaf = x509.load_pem_x509_certificates(files.certificate.read_bytes())[0]
    subject = f"{_CERTIFICATE} {files.certificate}"
    if now > leaf.not_valid_after_utc:
        raise SettingError(subject, f"it expired on {leaf.not_valid_after_utc:%Y-%m-%d}", _RENEW)
    if now < leaf.not_valid_before_utc:
        cause = f"it is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise SettingError(subject, cause, "Check the clock of this machine, or wait")
