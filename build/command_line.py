"""How a command ends: misuse as click says it, refusals and interrupts as everywhere else."""

import sys

import click

from contract.errors import guard


def run(command: click.Command) -> None:
    """Run a command, and end with the exit code that fits."""
    guard(lambda: _parse_and_run(command))


def _parse_and_run(command: click.Command) -> None:
    try:
        command.main(standalone_mode=False)
    except click.ClickException as misuse:
        misuse.show()
        sys.exit(misuse.exit_code)
    except click.Abort as interrupt:
        # click's own ending would be exit code 1.
        raise KeyboardInterrupt from interrupt
