"""The reference networks, exported and built once for all tests that use them, below dist/tests/."""

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUT = ROOT / "dist" / "tests"


def run(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` in the checkout; fail with its stderr unless the exit code is 0."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"python -m {module}: exit code {result.returncode}\n{result.stderr}"
    return result


@contextmanager
def lock() -> Iterator[None]:
    """Hold the folder: a second worker waits, and then finds everything unchanged."""
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
