"""Read the options and environment variables of a start into one frozen record."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from contract import files
from contract import platform as known
from contract.catalogue import Catalogue
from contract.errors import SettingError
from contract.platform import Platform
from runtime import flags, host, listening, tls
from runtime.licence import LICENCE_FILE, VENDOR_KEY
from runtime.listening import Addresses, Ports
from runtime.streams import with_places
from runtime.tls import GrpcTls

_PLAIN_PATH = re.compile(r"[\w./+=@:-]+", re.ASCII)
_SECRET_LENGTH = 16
_SECRET = re.compile(rf"[\w.~-]{{{_SECRET_LENGTH},}}", re.ASCII)
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All inputs of a start, except for the machine itself."""

    catalogue: Catalogue
    """With the places for streams that --streams sets."""
    engines: Path
    repository: Path
    platform: Platform | None
    """None selects a platform by the GPU."""
    operating_point: str | None
    """None serves every operating point that is complete."""
    mode: str
    ports: Ports
    threads: int
    """CPU threads that all instances of a model may use together."""
    addresses: Addresses = field(default_factory=Addresses)
    grpc_tls: GrpcTls | None = None
    """None serves gRPC without TLS. HTTP and metrics never have TLS: Triton has none for them."""
    trusted_keys: tuple[Path, ...] = ()
    """Public keys, one of which must have signed each bundle. Without keys signatures are not checked."""
    licence: Path = LICENCE_FILE
    vendor_key: Path = VENDOR_KEY
    admin_key: str | None = field(default=None, repr=False)
    """The secret that opens flags.ADMIN_APIS; with None they stay closed."""
    log_format: str = "text"
    assemble_only: bool = False
    triton_flags: tuple[str, ...] = ()


def read(
    *,
    catalogue: Catalogue,
    engines: str,
    repository: str,
    platform: str | None,
    operating_point: str | None,
    batch_mode: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    http_address: str | None,
    grpc_address: str | None,
    metrics_address: str | None,
    grpc_certificate: str | None,
    grpc_key: str | None,
    grpc_client_ca: str | None,
    threads: int | None,
    streams: int | None,
    trusted_key: tuple[str, ...],
    licence: str,
    vendor_key: str,
    admin_key: str | None,
    log_format: str,
    assemble_only: bool,
    triton_flags: tuple[str, ...],
) -> Settings:
    """Return the texts of a command line as settings; raise SettingError that names an unusable one."""
    point = operating_point.strip().lower() if operating_point else None
    mode = "batch" if boolean(batch_mode, "SM_BATCH_MODE") else "realtime"
    return Settings(
        catalogue=catalogue if streams is None else with_places(catalogue, mode, streams),
        engines=Path(engines),
        repository=_plain(repository),
        platform=served_platform(platform) if platform else None,
        operating_point=catalogue.check_operating_point(point, "SM_OPERATING_POINT") if point else None,
        mode=mode,
        ports=_distinct(Ports(http=http_port, grpc=grpc_port, metrics=metrics_port)),
        addresses=listening.choose(http_address, grpc_address, metrics_address, listening.families()),
        grpc_tls=tls.read(grpc_certificate, grpc_key, grpc_client_ca),
        threads=threads or host.available_cores(),
        trusted_keys=tuple(Path(key) for key in trusted_key),
        licence=Path(licence),
        vendor_key=Path(vendor_key),
        admin_key=secret(Path(admin_key), "--admin-key") if admin_key else None,
        log_format=log_format,
        assemble_only=assemble_only,
        triton_flags=flags.check(triton_flags),
    )


def served_platform(name: str) -> Platform:
    """Return a platform that has a server; raise SettingError for a platform that only compiles engines."""
    found = known.platform(name)
    if found.backend is None:
        raise SettingError(
            f"platform {name!r}", "no Triton server serves its engines", "Choose a platform that has a server"
        )
    return found


def boolean(text: str, setting: str) -> bool:
    """Return the value of true/1/yes/on or false/0/no/off in any case; raise SettingError for another text."""
    word = text.strip().lower()
    if word not in (*_TRUE, *_FALSE):
        raise SettingError(setting, f"{text!r} is neither true nor false", "Use true for batch, false for real time")
    return word in _TRUE


def secret(path: Path, setting: str) -> str:
    """Return the secret in a file; raise SettingError for one that is too short or cannot be sent in a header."""
    remedy = "Create one with `openssl rand -hex 32`, and mount it as a file"
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        cause = f"it cannot be read ({getattr(error, 'strerror', None) or 'it is not plain text'})"
        raise SettingError(f"{setting} {path}", cause, remedy) from error
    if not _SECRET.fullmatch(text):
        cause = f"it must hold a secret of {_SECRET_LENGTH} or more letters, digits and any of . _ ~ -"
        raise SettingError(f"{setting} {path}", cause, remedy)
    return text


def _plain(repository: str) -> Path:
    # Triton's python backend pastes this path into a shell command. A blank in it hangs the server forever.
    path = Path(repository)
    if not _PLAIN_PATH.fullmatch(repository) or not path.name:
        remedy = "Use a folder of letters, digits and any of . _ - + = @ : / in its path"
        raise SettingError(f"--repository {repository!r}", "Triton's python backend cannot use that path", remedy)
    # One folder has one lock, whatever links lead to it.
    found = files.real(path)
    return path if found == path else _plain(str(found))


def _distinct(ports: Ports) -> Ports:
    seen: dict[int, str] = {}
    for flag, port in ports.flags().items():
        if port in seen:
            raise SettingError(flag, f"port {port} is already used by {seen[port]}", "Set a different port for each")
        seen[port] = flag
    return ports
