"""`python -m runtime`: from a bundle to a running server, or to a refusal that says why."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from contract.errors import guard
from contract.platform import Platform
from runtime import checks, embedded, launch, options, repository, shared_memory
from runtime.decision import NOT_LOOKED_FOR, Decision, observe
from runtime.selection import Selection, explain
from runtime.server import Server
from runtime.settings import Settings


def parse(arguments: Sequence[str]) -> Settings:
    """Read the command line and the environment; raise SettingError, or SystemExit for --help and misuse."""
    return options.read(options.parse(command(), arguments))


def command() -> click.Command:
    """Describe the command line."""
    about = "Choose the engines that fit this machine, assemble a Triton repository and become tritonserver."
    return options.command("voxwright-serve", about)


def run(chosen: Settings) -> None:
    """Decide, verify, assemble and start; does not come back when the server starts."""
    decision = observe(chosen, os.environ)
    announce(decision)
    selection = decision.agreed()
    report(selection)
    # All before the repository is touched: a start that is refused must not disturb the server that reads it.
    for check in checks.before_assembly(chosen, selection):
        check.run()
    repository.assemble(selection, chosen.repository, chosen.threads)
    if not chosen.assemble_only:
        server = find_server(selection.target.platform, chosen.repository)
        launch.start(server, launch.arguments(server, chosen.repository, chosen.ports, chosen.triton_flags))


def find_server(platform: Platform, assembled: Path) -> Server:
    """Find the server of a platform; the embedded one needs a backend folder, which lies beside the repository."""
    if platform.cuda is not None:
        return launch.installed(platform, os.environ)
    shared_memory.sweep()
    return embedded.prepare(embedded.locate(), assembled.with_name(f"{assembled.name}.backends"), os.environ)


def announce(decision: Decision) -> None:
    """Say for what engines are looked for, and what is amiss without stopping a start."""
    if decision.target is not None:
        arch = decision.target.arch.value
        for gpu in decision.sighting.gpus:
            say(f"GPU {gpu.name}: serving arch {arch}")
        absence = decision.sighting.absence
        if absence:
            say(
                f"serving arch {arch}, as asked"
                if absence == NOT_LOOKED_FOR
                else f"no GPU ({absence}): serving arch {arch}"
            )
    for warning in decision.warnings:
        say(f"warning: {warning}")


def report(selection: Selection) -> None:
    """Say what will be served and what will not."""
    for point, missing in selection.left_out.items():
        say(f"operating point {point} is left out: no engine for {', '.join(missing)}")
    if selection.rejected:
        say(f"not used: {explain(selection.rejected)}")
    say(f"serving {' and '.join(selection.operating_points)}: {', '.join(selection.models())}")


def say(line: str) -> None:
    """Tell the operator something; stdout stays tritonserver's."""
    print(f"voxwright: {line}", file=sys.stderr, flush=True)


def main() -> NoReturn:
    """Run the command line."""
    guard(lambda: run(parse(sys.argv[1:])))


if __name__ == "__main__":
    main()
