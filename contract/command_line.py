"""Define what all click commands share: the option --verbose, and how a command ends."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from contract import errors
from contract.catalogue import (
    CATALOGUE_FILE,
    CATALOGUE_FOLDER,
    CATALOGUE_SUBFOLDER,
    CATALOGUE_VARIABLE,
    Catalogue,
    read_catalogue,
)

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


def catalogue_option(beside: str = "") -> Callable[[_Described], _Described]:
    """Return a decorator that adds --catalogue to a command; its parameter `catalogue` is a Catalogue.

    `beside` is the parameter of the folder that a catalogue may lie in, next to graphs or bundles. It is the default
    then. Raises CatalogueError, from the command itself, for a folder that is not a catalogue.
    """
    own = f"the one in --{beside}, if there is one, or " if beside else ""

    def chosen(context: click.Context, _option: click.Parameter, folder: Path | None) -> Catalogue:
        if folder is None and beside:
            # click reads options that are not given after the others, and this one is declared last.
            near = Path(context.params[beside]) / CATALOGUE_SUBFOLDER
            folder = near if (near / CATALOGUE_FILE).is_file() else None
        return read_catalogue(folder or CATALOGUE_FOLDER)

    return _catalogue_option(own, chosen)


def catalogue_folder_option() -> Callable[[_Described], _Described]:
    """Return a decorator as catalogue_option, for a command that may not need a catalogue.

    Its parameter `catalogue` is a folder, which is not read, or None.
    """
    return _catalogue_option("", None)


def _catalogue_option(own: str, callback: Callable[..., Catalogue] | None) -> Callable[[_Described], _Described]:
    return click.option(
        "--catalogue",
        envvar=CATALOGUE_VARIABLE,
        type=click.Path(path_type=Path),
        show_envvar=True,
        callback=callback,
        help=f"Folder of the catalogue of models.  [default: {own}the reference networks]",
    )


def run(command: click.Command) -> None:
    """Run a command and exit the process: misuse as click prints it, errors and interrupts as errors.guard does."""
    errors.guard(lambda: _parse_and_run(command))


def use_one_blas_thread() -> None:
    """Let NumPy multiply matrices in the calling thread, unless the environment states otherwise.

    It has no effect after the import of NumPy. The threads of OpenBLAS wait for the next product in a loop. A client
    multiplies small matrices, so they took two thirds of the processor time of a stream and saved none.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


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
        # click makes the same of an interrupt and of an EOFError, which is a defect of the program.
        if isinstance(interrupt.__cause__, EOFError):
            raise interrupt.__cause__ from None
        # click itself would exit with code 1.
        raise KeyboardInterrupt from interrupt
