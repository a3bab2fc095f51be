"""Every way Voxwright refuses, each with its exit code and its remedy.

VoxwrightError                      1
├── SettingError                   10   an option or environment variable has an unusable value
├── CatalogueError                 11   a model.toml or platforms.toml breaks its schema
├── ManifestError                  12   a bundle's manifest or an export record breaks its schema
├── OutputError                    13   a result cannot be written
├── KeyFileError                   14   a key for signatures is absent, locked or of another kind
├── SignatureError                 15   a signature is absent, of an unknown key or wrong
├── ExportError
│   ├── CheckpointError            20   weights are absent, damaged or of another network
│   └── ParityError                21   an exported graph differs from its torch network
├── BuildError
│   ├── GraphError                 30   an exported graph is absent or damaged
│   ├── CompilerUnavailableError   31   this machine cannot make the engine that was asked for
│   ├── CompileError               32   a compiler refused a graph
│   ├── GateError                  33   an engine differs from its graph
│   └── ReleaseError               34   bundles do not make a release together
├── ServeError
│   ├── GpuError                   40   no, several or an unsuitable GPU
│   ├── NoEngineError              41   no bundle holds an engine that may run here
│   ├── BundleError                42   a bundle's files are absent or not what the manifest says
│   ├── ServerUnavailableError     43   no tritonserver can be started here
│   └── PortInUseError             44   a port is taken
└── TranscriptionError
    ├── AudioError                 50   a recording cannot be read
    ├── ServerUnreachableError     51   nothing answers at the endpoint, or it is not ready
    ├── ServerContractError        52   the server's models are not the ones this client speaks to
    └── SegmentError               53   part of a recording could not be transcribed

A command line's own misuse (an unknown option) is exit code 2, as everywhere; an interrupt is 130.
"""

import errno
import sys
import traceback
from collections.abc import Callable
from typing import ClassVar, NoReturn

INTERRUPTED_EXIT_CODE = 130
_CANNOT_WRITE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR),
    *(errno.EEXIST, errno.EBUSY, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EIO),
)


class VoxwrightError(Exception):
    """A refusal: `subject` is the file or setting, `cause` what is wrong with it, `remedy` what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, subject: object, cause: str, remedy: str) -> None:
        super().__init__(subject, cause, remedy)
        self.subject = str(subject)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.subject}: {self.cause}. {self.remedy}."


class SettingError(VoxwrightError):
    """An option or environment variable has an unusable value."""

    exit_code = 10


class CatalogueError(VoxwrightError):
    """A model.toml or platforms.toml breaks its schema."""

    exit_code = 11


class ManifestError(VoxwrightError):
    """A bundle's manifest or an export record breaks its schema."""

    exit_code = 12


class OutputError(VoxwrightError):
    """A result cannot be written."""

    exit_code = 13


class KeyFileError(VoxwrightError):
    """A key for signatures is absent, locked or of another kind."""

    exit_code = 14


class SignatureError(VoxwrightError):
    """A signature is absent, of an unknown key or wrong."""

    exit_code = 15


class ExportError(VoxwrightError):
    """The export half of the tree."""


class CheckpointError(ExportError):
    """Weights are absent, damaged or of another network."""

    exit_code = 20


class ParityError(ExportError):
    """An exported graph differs from its torch network by more than the catalogue allows."""

    exit_code = 21


class BuildError(VoxwrightError):
    """The build half of the tree."""


class GraphError(BuildError):
    """An exported graph is absent or damaged."""

    exit_code = 30


class CompilerUnavailableError(BuildError):
    """This machine cannot make the engine that was asked for."""

    exit_code = 31


class CompileError(BuildError):
    """A compiler refused a graph."""

    exit_code = 32


class GateError(BuildError):
    """An engine differs from its graph by more than the catalogue allows."""

    exit_code = 33


class ReleaseError(BuildError):
    """Bundles do not make a release together."""

    exit_code = 34


class ServeError(VoxwrightError):
    """The runtime's part of the tree."""


class GpuError(ServeError):
    """No, several or an unsuitable GPU: capability, memory or driver."""

    exit_code = 40


class NoEngineError(ServeError):
    """No bundle holds an engine that may run here."""

    exit_code = 41


class BundleError(ServeError):
    """A bundle's files are absent or not what the manifest says."""

    exit_code = 42


class ServerUnavailableError(ServeError):
    """No tritonserver can be started here."""

    exit_code = 43


class PortInUseError(ServeError):
    """A port is taken."""

    exit_code = 44


class TranscriptionError(VoxwrightError):
    """The transcriber's part of the tree."""


class AudioError(TranscriptionError):
    """A recording cannot be read."""

    exit_code = 50


class ServerUnreachableError(TranscriptionError):
    """Nothing answers at the endpoint, or it is not ready."""

    exit_code = 51


class ServerContractError(TranscriptionError):
    """The server's models are not the ones this client speaks to."""

    exit_code = 52


class SegmentError(TranscriptionError):
    """Part of a recording could not be transcribed."""

    exit_code = 53


def guard(command: Callable[[], object]) -> NoReturn:
    """Run a command line to its end: a refusal is one sentence on stderr and its exit code, no traceback.

    `--verbose` anywhere on the command line adds the traceback.
    """
    try:
        command()
    except VoxwrightError as error:
        _refuse(error)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        _refuse(as_output_error(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED_EXIT_CODE)
    sys.exit(0)


def as_output_error(error: OSError) -> OutputError:
    """Say what a full disk or a forbidden folder means to the person in front of it."""
    subject = error.filename2 or error.filename or "output"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "Free some space and run the same command again" if full else "Choose a folder that you may write to"
    return OutputError(subject, f"cannot be written ({error.strerror})", remedy)


def _refuse(error: VoxwrightError) -> NoReturn:
    if "--verbose" in sys.argv:
        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
