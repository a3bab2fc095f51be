"""`python -m runtime`: from a bundle to a running server, or to a refusal that says why."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from contract.arch import Arch
from contract.catalogue import catalogue
from contract.errors import GpuError, guard
from contract.platform import Platform, platforms
from runtime import bundles, embedded, gpu, launch, repository, settings, shared_memory
from runtime.selection import Selection, Target, explain, select
from runtime.server import Server
from runtime.settings import Settings

_PORT = click.IntRange(1, 65535)


def parse(arguments: Sequence[str]) -> Settings:
    """Read the command line and the environment; raise SettingError, or SystemExit for --help and misuse."""
    try:
        with command().make_context("voxwright-serve", list(arguments)) as context:
            return settings.read(**context.params)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as misuse:
        misuse.show()
        sys.exit(misuse.exit_code)


def command() -> click.Command:
    """Describe the command line."""
    return click.Command(
        "voxwright-serve",
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Choose the engines that fit this machine, assemble a Triton repository and become tritonserver. "
        "Flags after -- go to tritonserver unchanged.",
        params=[
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
            _option(
                "--threads", type=click.IntRange(min=1), help="CPU threads a model may use.  [default: every core]"
            ),
            click.Option(["--assemble-only"], is_flag=True, help="Stop before the server starts."),
            click.Option(["--verbose"], is_flag=True, expose_value=False, help="Add a traceback to a refusal."),
            click.Argument(["triton_flags"], nargs=-1, type=click.UNPROCESSED, metavar="[-- TRITON FLAGS]"),
        ],
    )


def run(chosen: Settings) -> None:
    """Select, verify, assemble and start; does not come back when the server starts."""
    target = aim(chosen)
    selection = select(bundles.find(chosen.engines), catalogue(), target)
    report(selection)
    if chosen.assemble_only:
        repository.assemble(selection, chosen.repository, chosen.threads)
        return
    # Ports first: a start that is refused must not touch the repository of the server that holds them.
    launch.check_ports(chosen.ports)
    server = find_server(target.platform, chosen.repository)
    repository.assemble(selection, chosen.repository, chosen.threads)
    launch.start(server, launch.arguments(server, chosen.repository, chosen.ports, chosen.triton_flags))


def aim(chosen: Settings) -> Target:
    """Settle platform and architecture: those of the visible GPU, or the CPU where there is none."""
    found = None if chosen.platform and chosen.platform.cuda is None else gpu.detect()
    if found is None and chosen.platform and chosen.platform.cuda:
        remedy = "Check `nvidia-smi` and, in a container, `--gpus`; or serve on the CPU with `--platform embedded`"
        raise GpuError(f"platform {chosen.platform.name}", "it needs a GPU, and none was found", remedy)
    if found is None:
        say("serving arch cpu, as asked" if chosen.platform else "no GPU found: serving arch cpu")
        arch = Arch.CPU
    else:
        arch = Arch.of(found.capability, found.name)
        say(f"GPU {found.name}: serving arch {arch.value}")
    served = chosen.platform or default_platform(arch)
    return Target(arch=arch, platform=served, mode=chosen.mode, operating_point=chosen.operating_point)


def default_platform(arch: Arch) -> Platform:
    """Give the first platform that serves an architecture."""
    on_gpu = arch is not Arch.CPU
    return next(found for found in platforms().values() if found.backend and (found.cuda is not None) == on_gpu)


def find_server(platform: Platform, assembled: Path) -> Server:
    """Find the server of a platform; the embedded one needs a backend folder, which lies beside the repository."""
    if platform.cuda is not None:
        return launch.installed(platform, os.environ)
    shared_memory.sweep()
    return embedded.prepare(embedded.locate(), assembled.with_name(f"{assembled.name}.backends"), os.environ)


def report(selection: Selection) -> None:
    """Say what will be served and what will not."""
    for point, missing in selection.left_out.items():
        say(f"operating point {point} is left out: no engine for {', '.join(missing)}")
    if selection.rejected:
        say(f"not used: {explain(selection.rejected)}")
    say(f"serving {' and '.join(selection.operating_points)}: {', '.join(selection.models())}")


def served() -> list[str]:
    """Name the platforms that have a server."""
    return [name for name, found in platforms().items() if found.backend]


def say(line: str) -> None:
    """Tell the operator something; stdout stays tritonserver's."""
    print(f"voxwright: {line}", file=sys.stderr, flush=True)


def _option(flag: str, *, envvar: str | None = None, **details: Any) -> click.Option:
    # Every option has an environment variable: a container is configured by those alone.
    variable = envvar or f"VOXWRIGHT_{flag.removeprefix('--').replace('-', '_').upper()}"
    return click.Option([flag], envvar=variable, show_envvar=True, show_default="default" in details, **details)


def main() -> NoReturn:
    """Run the command line."""
    guard(lambda: run(parse(sys.argv[1:])))


if __name__ == "__main__":
    main()
