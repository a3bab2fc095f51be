"""Run the host's tools, wait for them, and report errors."""

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
    """Run a tool and capture its output; with `check`, end the program when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        fail(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done


def run_visible(*command: str) -> None:
    """Run a tool with its output on the terminal; end the program when it fails."""
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    expect(done.returncode == 0, f"`{' '.join(command[:2])} ...` ended with {done.returncode}")


@contextlib.contextmanager
def started_process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the background and terminate it at the end; on an error, print the last lines of its output."""
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
    """Wait until the condition is true; end the program when the process ends first."""
    end = time.monotonic() + EXIT_S
    while not condition():
        if process.poll() is not None:
            fail(f"the server ended with exit code {process.returncode}")
        if time.monotonic() > end:
            fail(f"the server's container did not start within {EXIT_S} s")
        time.sleep(_PAUSE_S)


def expect(condition: bool, error: str) -> None:  # noqa: FBT001 - the condition is the only flag
    """End the program with an error when the condition is false."""
    if not condition:
        fail(error)


def fail(cause: str) -> NoReturn:
    """End the program with an error message and exit code 1."""
    sys.exit(f"ci/images: error: {cause}")


def log(line: str) -> None:
    """Print a line about the progress."""
    print(f"ci/images: {line}", flush=True)
