"""How the host's tools are called, and what is said about it."""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

EXIT_S = 30
_TAIL = 40
_PAUSE_S = 0.2


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a tool and keep what it says; unless told otherwise, end the program when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        fail(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done


def show(*command: str) -> None:
    """Run a tool and let it speak."""
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    expect(done.returncode == 0, f"`{' '.join(command[:2])} ...` ended with {done.returncode}")


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program and leave nothing of it behind; when something fails, tell the end of what it said."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        except BaseException:
            log.seek(0)
            print(*log.read().decode(errors="replace").splitlines()[-_TAIL:], sep="\n", file=sys.stderr)
            raise
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(EXIT_S)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until something holds; end the program when the process ends first."""
    end = time.monotonic() + EXIT_S
    while not condition():
        if process.poll() is not None:
            fail(f"the server ended with exit code {process.returncode}")
        if time.monotonic() > end:
            fail("the server's container does not start")
        time.sleep(_PAUSE_S)


def expect(truth: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    """End the program when something is not so."""
    if not truth:
        fail(otherwise)


def fail(cause: str) -> NoReturn:
    """End the program with a sentence."""
    sys.exit(f"ci/images: error: {cause}")


def say(line: str) -> None:
    """Tell how far it is."""
    print(f"ci/images: {line}", flush=True)
