"""Run a command line of this checkout inside the test process: its real `main`, without the start of an interpreter."""

import contextlib
import importlib
import io
import sys
from dataclasses import dataclass
from unittest import mock


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """Exit code and output of a command, with the names of subprocess.CompletedProcess."""

    returncode: int
    stdout: str
    stderr: str


def run(module: str, *arguments: object) -> Finished:
    """Run `python -m <module> <arguments>` in this process, in its working folder."""
    output, errors = io.StringIO(), io.StringIO()
    main = importlib.import_module(module).main
    code: object = 0
    with (
        mock.patch.object(sys, "argv", [module, *map(str, arguments)]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code
    assert isinstance(code, int)
    return Finished(returncode=code, stdout=output.getvalue(), stderr=errors.getvalue())
