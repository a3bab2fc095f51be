"""Define the options of `python -m runtime` and of the doctor, each with its environment variable."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from contract import command_line
from contract.platform import platforms
from runtime import log, settings, streams
from runtime.licence import LICENCE_FILE, VENDOR_KEY
from runtime.settings import Settings

_PORT = click.IntRange(1, 65535)


def command(name: str, about: str, *extra: click.Parameter) -> click.Command:
    """Return a click command with every setting of a start, and with `extra` options."""
    described = click.Command(
        name,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=f"{about} Flags after -- go to tritonserver unchanged.",
        params=[*_settings(), *extra],
    )
    return command_line.catalogue_option("engines")(command_line.verbose_option()(described))


def parse(described: click.Command, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of a command line and the environment; raise SystemExit for --help and misuse.

    Raise CatalogueError for a --catalogue that is not one.
    """
    try:
        with described.make_context(described.name, list(arguments)) as context:
            return dict(context.params)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as misuse:
        misuse.show()
        sys.exit(misuse.exit_code)


def read(values: Mapping[str, Any]) -> Settings:
    """Return the parsed values as settings; raise SettingError for an unusable value."""
    return settings.read(**values)


def served() -> list[str]:
    """Return the names of the platforms that have a server."""
    return [name for name, found in platforms().items() if found.backend]


def _settings() -> list[click.Parameter]:
    return [
        _option(
            "--engines",
            default="dist/engines",
            help="Folder of bundles, which lie at <platform>/<arch>; or one bundle.",
        ),
        _option(
            "--repository",
            default="dist/repository",
            help="Folder of the Triton repository. It is replaced as a whole.",
        ),
        _option("--platform", help=f"One of {', '.join(served())}.  [default: by the GPU]"),
        _option(
            "--operating-point",
            envvar="SM_OPERATING_POINT",
            help="One of the catalogue, such as standard.  [default: all that are complete]",
        ),
        _option("--batch-mode", envvar="SM_BATCH_MODE", default="true", help="false serves real time."),
        _option("--http-port", type=_PORT, default=8000),
        _option("--grpc-port", type=_PORT, default=8001),
        _option("--metrics-port", type=_PORT, default=8002),
        _option(
            "--http-address",
            metavar="ADDRESS",
            help="Address of HTTP, of one family: 0.0.0.0, :: or one of this machine.  "
            "[default: 0.0.0.0, or :: without IPv4]",
        ),
        _option(
            "--grpc-address", metavar="ADDRESS", help="Address of gRPC.  [default: 0.0.0.0, which is every address]"
        ),
        _option("--metrics-address", metavar="ADDRESS", help="Address of the metrics.  [default: that of HTTP]"),
        _option(
            "--grpc-certificate", type=click.Path(), help="Certificate for gRPC, PEM.  [default: gRPC without TLS]"
        ),
        _option("--grpc-key", type=click.Path(), help="Private key of the certificate for gRPC, PEM."),
        _option(
            "--grpc-client-ca",
            type=click.Path(),
            help="Authorities of clients, PEM: gRPC requests need a certificate of one.  [default: none needed]",
        ),
        _option(
            "--threads",
            type=click.IntRange(min=1),
            help="CPU threads a model may use, divided among its instances.  [default: every core]",
        ),
        _option(
            "--streams",
            type=click.IntRange(1, streams.MOST),
            help="Streams in real time of which a model keeps the states at a time.  [default: as in the catalogue]",
        ),
        _option(
            "--trusted-key",
            type=click.Path(),
            multiple=True,
            help="An Ed25519 public key, PEM; repeatable, in the variable with a colon between.  "
            "[default: signatures are not checked]",
        ),
        _option(
            "--licence", type=click.Path(), default=str(LICENCE_FILE), help="Licence file that came with the product."
        ),
        _option(
            "--vendor-key",
            type=click.Path(),
            default=str(VENDOR_KEY),
            help="The vendor's Ed25519 public key, PEM. Without the default file no licence is needed.",
        ),
        _option(
            "--admin-key",
            type=click.Path(),
            help="File with the secret that opens Triton's administration APIs.  [default: they stay closed]",
        ),
        # Eager: the errors of other options are already logged in this format.
        _option(
            "--log-format",
            type=click.Choice(log.FORMATS),
            default="text",
            help="Format of the log lines of a start.",
            is_eager=True,
            callback=_configure_log,
        ),
        click.Option(["--assemble-only"], is_flag=True, help="Stop before the server starts."),
        click.Argument(["triton_flags"], nargs=-1, type=click.UNPROCESSED, metavar="[-- TRITON FLAGS]"),
    ]


def _configure_log(_context: click.Context, _option: click.Parameter, value: str) -> str:
    log.configure(value)
    return value


def _option(flag: str, *, envvar: str | None = None, **details: Any) -> click.Option:
    # Every option has an environment variable, because a container is configured by variables alone.
    variable = envvar or f"VOXWRIGHT_{flag.removeprefix('--').replace('-', '_').upper()}"
    return click.Option([flag], envvar=variable, show_envvar=True, show_default="default" in details, **details)
