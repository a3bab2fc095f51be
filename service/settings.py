"""Define the settings of the service as one frozen record, and check them together."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from contract.access import PLAIN, Access
from contract.catalogue import Catalogue
from contract.errors import SettingError
from service.keys import ApiKeys
from transcriber import voice_detection
from transcriber.voice_detection import WEBRTC

DEFAULT_PORT = 8080
DEFAULT_FOLDER = Path("dist/service")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """The files of a certificate chain and of its private key, both PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the service accepts; each limit has an option of its own."""

    upload_bytes: int = 4 * 2**30
    recording_s: float = 4 * 3600.0
    unfinished_jobs: int = 1000
    """The jobs of one API key that are not done."""
    retention_s: float = 7 * 86_400.0
    """The age at which a job expires and its files are removed."""
    idle_upload_s: float = 60.0
    """The longest pause within an upload."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RealtimeLimits:
    """What real-time sessions may use."""

    streams: int = 64
    """Streams at a time, where each channel of a session is one: as many as the server keeps states of."""
    idle_s: float = 600.0
    """The longest time without audio."""
    longest_s: float = 48 * 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings of a service. `endpoint` serves recordings, `realtime_endpoint` streams; one may be None."""

    endpoint: str | None
    realtime_endpoint: str | None
    catalogue: Catalogue
    database: str
    storage: str
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    keys: ApiKeys | None = None
    tls: Tls | None = None
    access: Access = PLAIN
    """How the service reaches the servers."""
    parallel: int = 2
    """The number of recordings that this service transcribes at a time."""
    in_flight: int | None = None
    """The number of segments of a recording that are recognised at a time; None for a share of what keeps a server
    busy."""
    voice_detection: str = WEBRTC
    """What finds speech: one of transcriber.voice_detection.DETECTORS."""
    limits: Limits = Limits()
    realtime: RealtimeLimits = RealtimeLimits()
    fetch_hosts: tuple[str, ...] = ()
    """The hosts from which recordings may be fetched."""
    notify_hosts: tuple[str, ...] = ()
    """The hosts that may be notified of jobs that end."""
    allowed_origins: tuple[str, ...] = ()
    """Pages of other hosts whose scripts may call the service."""
    lease_s: float = 30.0
    """After this time without a sign of life, another service takes over a job."""
    drain_s: float = 30.0
    """How long sessions and jobs may continue after SIGTERM."""
    log_format: str = "text"


def checked(settings: Settings) -> Settings:
    """Return the settings; raise SettingError for those that do not fit each other."""
    if settings.keys is None and not is_loopback(settings.host):
        cause = f"other machines can reach {settings.host}, and there are no API keys"
        raise SettingError("--host", cause, "Name a file of keys with --api-keys, or use --host 127.0.0.1")
    if settings.endpoint is None and settings.realtime_endpoint is None:
        raise SettingError("--endpoint", "no server is named", "Name one with --endpoint or --realtime-endpoint")
    voice_detection.require(settings.voice_detection)
    return settings


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
