"""The options of `python -m runtime`, which the doctor reads as well, each with its environment variable."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from contract.platform import platforms
from runtime import settings
from runtime.settings import Settings

_PORT = click.IntRange(1, 65535)


def command(name: str, about: str, *extra: click.Parameter) -> click.Command:
    """Describe a command line that takes every setting of a start, and some options of its own."""
    return click.Command(
        name,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=f"{about} Flags after -- go to tritonserver unchanged.",
        params=[*_settings(), *extra],
    )


def parse(described: click.Command, arguments: Sequence[str]) -> dict[str, Any]:
    """Read a command line and the environment; raise SystemExit for --help and misuse."""
    try:
        with described.make_context(described.name, list(arguments)) as context:
            return dict(context.params)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as misuse:
        misuse.show()
        sys.exit(misuse.exit_code)


def read(values: Mapping[str, Any]) -> Settings:
    """Turn what was read into settings; raise SettingError for what is unusable."""
    return settings.read(**values)


def served() -> list[str]:
    """Name the platforms that have a server."""
    return [name for name, found in platforms().items() if found.backend]


def _settings() -> list[click.Parameter]:
    return [
        _option("--engines", default="dist/engines", help="Folder of bundles, or one bundle."),
        _option("--repository", default="dist/repository", help="Where the Triton repository is assembled anew."),
        _option("--platform", help=f"One of {', '.join(served())}.  [default: by the GPU]"),
        _option(
            "--operating-point",
            envvar="SM_OPERATING_POINT",
            help="standard or enhanced.  [default: all that are complete]",
        ),
        _option("--batch-mode", envvar="SM_BATCH_MODE", default="true", help="false serves real time."),
        _option("--http-port", type=_PORT, default=8000),
        _option("--grpc-port", type=_PORT, default=8001),
        _option("--metrics-port", type=_PORT, default=8002),
        _option("--threads", type=click.IntRange(min=1), help="CPU threads a model may use.  [default: every core]"),
        _option(
            "--trusted-key",
            type=click.Path(),
            multiple=True,
            help="An Ed25519 public key, PEM; repeatable, in the variable with a colon between.  "
            "[default: no signature is asked for]",
        ),
        click.Option(["--assemble-only"], is_flag=True, help="Stop before the server starts."),
        click.Option(["--verbose"], is_flag=True, expose_value=False, help="Add a traceback to a refusal."),
        click.Argument(["triton_flags"], nargs=-1, type=click.UNPROCESSED, metavar="[-- TRITON FLAGS]"),
    ]


def _option(flag: str, *, envvar: str | None = None, **details: Any) -> click.Option:
    # Every option has an environment variable: a container is configured by those alone.
    variable = envvar or f"VOXWRIGHT_{flag.removeprefix('--').replace('-', '_').upper()}"
    return click.Option([flag], envvar=variable, show_envvar=True, show_default="default" in details, **details)
