"""Define what all click commands share: the option --verbose, and how a command ends."""

import sys
from collections.abc import Callable
from typing import TypeVar

import click

from contract import errors

_Described = TypeVar("_Described", bound=Callable[..., object] | click.Command)


def verbose_option(
    text: str = "Add the traceback to an error.", *, expose_value: bool = False
) -> Callable[[_Described], _Described]:
    """Return a decorator that adds --verbose to a command: guard then prints the traceback of an error as well.

    The command function has a parameter `verbose` only where `expose_value` is set.
    """
    # Eager: the setting holds already while click reads the other options.
    return click.option(
        "--verbose", is_flag=True, is_eager=True, expose_value=expose_value, callback=_set_tracebacks, help=text
    )


def run(command: click.Command) -> None:
    """Run a command and exit the process: misuse as click prints it, errors and interrupts as errors.guard does."""
    errors.guard(lambda: _parse_and_run(command))


def _set_tracebacks(_context: click.Context, _option: click.Parameter, value: bool) -> bool:  # noqa: FBT001 - click's own
    errors.show_tracebacks(value)
    return value


def _parse_and_run(command: click.Command) -> None:
    try:
        command.main(standalone_mode=False)
    except click.ClickException as misuse:
        misuse.show()
        sys.exit(misuse.exit_code)
    except click.Abort as interrupt:
        # click itself would exit with code 1.
        raise KeyboardInterrupt from interrupt
