"""The reference networks, exported and built once for all tests that use them, below dist/tests/."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUT = ROOT / "dist" / "tests"
GROUP = "reference"
"""The tests of this group share the folder, so that one worker must run all of them."""


def run(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` in the checkout; fail with its stderr unless the exit code is 0."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"python -m {module}: exit code {result.returncode}\n{result.stderr}"
    return result
