"""Define every error that Voxwright reports, each with its exit code and its remedy.

VoxwrightError                      1
├── SettingError                   10   an option or environment variable has an invalid value
├── CatalogueError                 11   a model.toml or platforms.toml does not match its schema
├── ManifestError                  12   a bundle's manifest or an export record does not match its schema
├── OutputError                    13   a result cannot be written
├── KeyFileError                   14   a key for signatures is absent, needs a passphrase or is not an Ed25519 key
├── SignatureError                 15   a signature is absent, of an unknown key or wrong
├── ExportError
│   ├── CheckpointError            20   weights are absent, damaged or of another network
│   └── ParityError                21   an exported graph differs from its torch network
├── BuildError
│   ├── GraphError                 30   an exported graph is absent or damaged
│   ├── CompilerUnavailableError   31   this machine cannot build the requested engine
│   ├── CompileError               32   a compiler rejected a graph
│   ├── GateError                  33   an engine differs from its graph
│   └── ReleaseError               34   bundles do not form a release
├── ServeError
│   ├── GpuError                   40   no GPU, several GPUs or an unsuitable GPU
│   ├── NoEngineError              41   no bundle holds an engine that may run here
│   ├── BundleError                42   a bundle's files are absent or do not match its manifest
│   ├── ServerUnavailableError     43   no tritonserver can be started here
│   ├── PortInUseError             44   a port is in use
│   ├── LicenceError               46   a licence is absent, invalid or does not cover this use
│   └── ProbeError                 47   a served model returns a wrong response, or none in time
└── TranscriptionError
    ├── AudioError                 50   a recording cannot be read
    ├── ServerUnreachableError     51   no server responds at the endpoint, or it is not ready
    ├── ServerContractError        52   the server's models are not those that this client supports
    ├── SegmentError               53   part of a recording could not be transcribed
    └── SearchUnavailableError     54   the search is not compiled and cannot be compiled here

Misuse of the command line, such as an unknown option, is exit code 2; an interrupt is 130.
"""

import errno
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import ClassVar, NoReturn

INTERRUPTED_EXIT_CODE = 130
_tracebacks: ContextVar[bool] = ContextVar("tracebacks", default=False)
# These errors of the system come from writing only.
_WRITE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
_FREE_SPACE = "Free some space and run the same command again"
_WRITE_REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.ENAMETOOLONG: "Choose a shorter name",
}
ACCESS_ERRNOS = _WRITE_ERRNOS | {
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EBUSY),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EIO),
}
"""Errors of the system that have their cause in a path, a disk or its permissions, not in the program."""


class VoxwrightError(Exception):
    """An error for the user: `subject` is the file or setting, `cause` what is wrong with it, `remedy` the fix."""

    exit_code: ClassVar[int] = 1

    def __init__(self, subject: object, cause: str, remedy: str) -> None:
        super().__init__(subject, cause, remedy)
        self.subject = str(subject)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.subject}: {self.cause}. {self.remedy}."


class SettingError(VoxwrightError):
    """An option or environment variable has an invalid value."""

    exit_code = 10


class CatalogueError(VoxwrightError):
    """A model.toml or platforms.toml does not match its schema."""

    exit_code = 11


class ManifestError(VoxwrightError):
    """A bundle's manifest or an export record does not match its schema."""

    exit_code = 12


class OutputError(VoxwrightError):
    """A result cannot be written."""

    exit_code = 13


class KeyFileError(VoxwrightError):
    """A key for signatures is absent, needs a passphrase or is not an Ed25519 key."""

    exit_code = 14


class SignatureError(VoxwrightError):
    """A signature is absent, of an unknown key or wrong."""

    exit_code = 15


class ExportError(VoxwrightError):
    """Base class of the errors of export."""


class CheckpointError(ExportError):
    """Weights are absent, damaged or of another network."""

    exit_code = 20


class ParityError(ExportError):
    """An exported graph differs from its torch network by more than the catalogue allows."""

    exit_code = 21


class BuildError(VoxwrightError):
    """Base class of the errors of build."""


class GraphError(BuildError):
    """An exported graph is absent or damaged."""

    exit_code = 30


class CompilerUnavailableError(BuildError):
    """This machine cannot build the requested engine."""

    exit_code = 31


class CompileError(BuildError):
    """A compiler rejected a graph."""

    exit_code = 32


class GateError(BuildError):
    """An engine differs from its graph by more than the catalogue allows."""

    exit_code = 33


class ReleaseError(BuildError):
    """Bundles do not form a release."""

    exit_code = 34


class ServeError(VoxwrightError):
    """Base class of the errors of runtime."""


class GpuError(ServeError):
    """No GPU, several GPUs, or one of an unsuitable capability, memory or driver."""

    exit_code = 40


class NoEngineError(ServeError):
    """No bundle holds an engine that may run here."""

    exit_code = 41


class BundleError(ServeError):
    """A bundle's files are absent or do not match its manifest."""

    exit_code = 42


class ServerUnavailableError(ServeError):
    """No tritonserver can be started here."""

    exit_code = 43


class PortInUseError(ServeError):
    """A port is in use."""

    exit_code = 44


class LicenceError(ServeError):
    """A licence is absent, invalid or does not cover this use."""

    exit_code = 46


class ProbeError(ServeError):
    """A served model returns a wrong response, or none in time."""

    exit_code = 47


class TranscriptionError(VoxwrightError):
    """Base class of the errors of the transcriber."""


class AudioError(TranscriptionError):
    """A recording cannot be read."""

    exit_code = 50


class ServerUnreachableError(TranscriptionError):
    """No server responds at the endpoint, or it is not ready."""

    exit_code = 51


class ServerContractError(TranscriptionError):
    """The server's models are not those that this client supports."""

    exit_code = 52


class SegmentError(TranscriptionError):
    """Part of a recording could not be transcribed."""

    exit_code = 53


class SearchUnavailableError(TranscriptionError):
    """The search is not compiled and cannot be compiled here."""

    exit_code = 54


def show_tracebacks(enabled: bool) -> None:  # noqa: FBT001 - a setter of one flag
    """Choose whether guard prints the traceback of an error before its sentence; it does not unless this is called."""
    _tracebacks.set(enabled)


def shows_tracebacks() -> bool:
    """Return whether the traceback of an error is printed."""
    return _tracebacks.get()


def guard(command: Callable[[], object]) -> NoReturn:
    """Run a command and exit the process: with 0, or with an error's sentence on stderr and its exit code.

    The option --verbose (contract.command_line.verbose_option) adds the traceback. Errors of any other kind are defects
    of the program and keep their traceback.
    """
    try:
        command()
    except VoxwrightError as error:
        _exit_with(error)
    except OSError as error:
        if not _is_explained_by_its_path(error):
            raise
        _exit_with(_as_access_error(error))
    except ModuleNotFoundError as error:
        if _is_own(error.name):
            raise
        _exit_with(_as_missing_package(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED_EXIT_CODE)
    sys.exit(0)


def as_output_error(error: OSError, target: object = None) -> OutputError:
    """Return the OutputError for a failure to write; it names `target`, or else the file that `error` names."""
    subject = target or error.filename2 or error.filename or "output"
    remedy = _WRITE_REMEDIES.get(error.errno, "Choose a folder that you may write to")
    return OutputError(subject, f"cannot be written ({error.strerror or error})", remedy)


def _is_own(module: str | None) -> bool:
    # Next to this package lie the other packages of the project, in a checkout as in an environment.
    return module is None or (Path(__file__).parents[1] / module.partition(".")[0] / "__init__.py").is_file()


def _as_missing_package(error: ModuleNotFoundError) -> SettingError:
    cause = f"this Python lacks the package that contains {error.name}"
    remedy = (
        "Run the command with `.venv/bin/python` in place of `python`, after `make env`; or install the extra of "
        "voxwright that contains this command"
    )
    return SettingError(sys.executable, cause, remedy)


def _is_explained_by_its_path(error: OSError) -> bool:
    if error.filename is None:
        return error.errno in _WRITE_ERRNOS | {errno.EIO}
    return error.errno in ACCESS_ERRNOS


def _as_access_error(error: OSError) -> OutputError:
    # What writes an output raises OutputError itself (contract.files): most of the rest are failures to read.
    if error.errno in _WRITE_ERRNOS:
        return as_output_error(error)
    subject = error.filename2 or error.filename or "input or output"
    return OutputError(
        subject, f"cannot be read or written ({error.strerror})", "Correct the path, or the permissions of this user"
    )


def _exit_with(error: VoxwrightError) -> NoReturn:
    if shows_tracebacks():
        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
