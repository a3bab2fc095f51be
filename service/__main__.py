"""Serve applications: `python -m service`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click

from contract import command_line
from contract.access import from_environment
from contract.catalogue import Catalogue
from contract.errors import SettingError, guard
from service import keys, logs, settings
from service.settings import Limits, RealtimeLimits, Settings, Tls
from transcriber.endpoint import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, checked_endpoint
from transcriber.voice_detection import DETECTORS, OPTION_HELP, WEBRTC

_PREFIX = "VOXWRIGHT_SERVICE"
_MEGABYTE, _HOUR_S, _DAY_S = 10**6, 3600.0, 86_400.0


def _option(flag: str, *more: str, **details: Any) -> click.Option:
    # Every option has an environment variable, because a container is configured by variables alone.
    variable = f"{_PREFIX}_{flag.removeprefix('--').replace('-', '_').upper()}"
    shown = "default" in details
    return click.Option([flag], envvar=[variable, *more], show_envvar=True, show_default=shown, **details)


def command() -> click.Command:
    """Return the click command."""
    described = click.Command(
        "voxwright-service",
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Serve applications over HTTP and WebSocket, with the models of a running Triton server.",
        params=_options(),
    )
    return command_line.catalogue_option()(command_line.verbose_option()(described))


def _options() -> list[click.Parameter]:
    folder, limits, realtime = settings.DEFAULT_FOLDER, Limits(), RealtimeLimits()
    number, seconds = click.IntRange(min=1), click.FloatRange(min=0, min_open=True)
    return [
        _option("--endpoint", ENDPOINT_VARIABLE, metavar="HOST:PORT",
                help=f"gRPC port of a server in batch mode, for recordings.  [default: {DEFAULT_ENDPOINT}, unless "
                "--realtime-endpoint is given]"),
        _option("--realtime-endpoint", metavar="HOST:PORT", help="gRPC port of a server in real-time mode."),
        _option("--streams", default=realtime.streams, type=number,
                help="Real-time streams at a time; each channel of a session is one."),
        _option("--idle-session", default=realtime.idle_s, type=seconds, metavar="SECONDS",
                help="Longest time of a real-time session without audio."),
        _option("--longest-session", default=realtime.longest_s / _HOUR_S, type=seconds, metavar="HOURS",
                help="Longest real-time session."),
        _option("--host", default="127.0.0.1", help="Address to listen at. Others than loopback need --api-keys."),
        _option("--port", default=settings.DEFAULT_PORT, type=click.IntRange(1, 65_535), help="Port to listen at."),
        _option("--api-keys", type=click.Path(path_type=Path), help="File of clients: lines `name key`."),
        _option("--tls-certificate", type=click.Path(path_type=Path), help="Certificate chain, PEM; with --tls-key."),
        _option("--tls-key", type=click.Path(path_type=Path), help="Private key of the certificate, PEM."),
        _option("--database", default=f"sqlite:///{folder}/jobs.sqlite",
                help="URL of the database of jobs: sqlite:///FILE or postgresql://USER@HOST/NAME."),
        _option("--storage", default=f"{folder}/files", help="Folder of the files of jobs, or a URL for fsspec."),
        _option("--parallel", default=2, type=number, help="Recordings that are transcribed at a time."),
        _option("--in-flight", type=click.IntRange(1, 256),
                help="Segments of a recording on the server.  [default: 4 with two recordings at a time, or enough for "
                "the batches of a server that joins requests]"),
        _option("--voice-detection", default=WEBRTC, type=click.Choice(DETECTORS), help=OPTION_HELP),
        _option("--largest-upload", default=limits.upload_bytes // _MEGABYTE, type=number, metavar="MEGABYTES",
                help="Largest recording."),
        _option("--longest-recording", default=limits.recording_s / _HOUR_S, type=seconds, metavar="HOURS",
                help="Longest recording."),
        _option("--idle-upload", default=limits.idle_upload_s, type=seconds, metavar="SECONDS",
                help="Longest pause within an upload."),
        _option("--unfinished-jobs", default=limits.unfinished_jobs, type=number,
                help="Jobs of one API key that may wait or run."),
        _option("--retention", default=limits.retention_s / _DAY_S, type=seconds, metavar="DAYS",
                help="Age at which a job and its files are removed."),
        _option("--fetch-host", multiple=True, help="Host from which recordings may be fetched; *.example.com for a "
                "domain. In the variable with blanks between.  [default: none]"),
        _option("--notify-host", multiple=True, help="Host that may be notified when a job ends.  [default: none]"),
        _option("--allow-origin", multiple=True, metavar="URL", help="Page of another host whose scripts may call."),
        _option("--lease", default=30.0, type=seconds, metavar="SECONDS",
                help="Time after which the jobs of a dead service are taken over."),
        _option("--drain", default=30.0, type=click.FloatRange(min=0), metavar="SECONDS",
                help="Time that sessions and jobs have to end after SIGTERM."),
        _option("--log-format", default="text", type=click.Choice(logs.FORMATS), help="Format of the log."),
    ]  # fmt: skip


def parse(arguments: Sequence[str]) -> Settings:
    """Return the settings of a command line and the environment; raise SettingError, or SystemExit for --help."""
    try:
        with command().make_context("voxwright-service", list(arguments)) as context:
            return read(**context.params)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as misuse:
        misuse.show()
        sys.exit(misuse.exit_code)


def _origin(text: str) -> str:
    """Return an origin as browsers send it; raise SettingError for what is none."""
    parts = urlsplit(text.rstrip("/").lower())
    if (
        parts.scheme not in ("http", "https")
        or not parts.netloc
        or parts != parts._replace(path="", query="", fragment="")
    ):
        raise SettingError(f"--allow-origin {text}", "it is not a scheme and a host", "Use https://app.example")
    return parts.geturl()


def read(
    *,
    endpoint: str | None,
    realtime_endpoint: str | None,
    catalogue: Catalogue,
    api_keys: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    largest_upload: int,
    longest_recording: float,
    idle_upload: float,
    unfinished_jobs: int,
    retention: float,
    fetch_host: tuple[str, ...],
    notify_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    lease: float,
    drain: float,
    streams: int,
    idle_session: float,
    longest_session: float,
    **same: Any,
) -> Settings:
    """Return the parsed values as settings; raise SettingError for an unusable value."""
    if endpoint is None and realtime_endpoint is None:
        endpoint = DEFAULT_ENDPOINT
    chosen = Settings(
        endpoint=None if endpoint is None else checked_endpoint(endpoint),
        realtime_endpoint=None if realtime_endpoint is None else checked_endpoint(realtime_endpoint),
        catalogue=catalogue,
        keys=None if api_keys is None else keys.read(api_keys),
        tls=_tls(tls_certificate, tls_key),
        access=from_environment(),
        limits=Limits(
            upload_bytes=largest_upload * _MEGABYTE,
            recording_s=longest_recording * _HOUR_S,
            unfinished_jobs=unfinished_jobs,
            retention_s=retention * _DAY_S,
            idle_upload_s=idle_upload,
        ),
        realtime=RealtimeLimits(streams=streams, idle_s=idle_session, longest_s=longest_session * _HOUR_S),
        fetch_hosts=fetch_host,
        notify_hosts=notify_host,
        allowed_origins=tuple(map(_origin, allow_origin)),
        lease_s=lease,
        drain_s=drain,
        **same,
    )
    return settings.checked(chosen)


def run(chosen: Settings) -> None:
    """Serve until a signal ends the service."""
    # The connection reports outages itself, so gRPC's own log of reconnections is switched off.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logs.configure(chosen.log_format)
    # Imported here because `--help` needs no framework.
    from service import server  # noqa: PLC0415

    server.serve(chosen)


def _tls(certificate: Path | None, key: Path | None) -> Tls | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        absent = "--tls-certificate" if certificate is None else "--tls-key"
        raise SettingError(absent, "it is absent, and the other file of TLS is given", "Name both files")
    for option, path in (("--tls-certificate", certificate), ("--tls-key", key)):
        if not path.is_file() or not os.access(path, os.R_OK):
            raise SettingError(option, f"{path} is not a file that can be read", "Correct the path or its permissions")
    return Tls(certificate=certificate, key=key)


def main() -> NoReturn:
    """Run the command line and exit."""
    command_line.use_one_blas_thread()
    guard(lambda: run(parse(sys.argv[1:])))


if __name__ == "__main__":
    main()
