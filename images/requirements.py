"""Prints what pip must install for some extras of pyproject.toml, one requirement a line; no extra: the base alone.

python3 images/requirements.py [EXTRA...]    reads pyproject.toml in the folder above this file
"""

import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

PROJECT_FILE = Path(__file__).resolve().parents[1] / "pyproject.toml"


def requirements(extras: Iterable[str]) -> list[str]:
    """List the base's requirements and those of every extra; raise KeyError for an extra that there is not."""
    project = tomllib.loads(PROJECT_FILE.read_text())["project"]
    offered = project["optional-dependencies"]
    return [*project["dependencies"], *(each for extra in extras for each in offered[extra])]


if __name__ == "__main__":
    print(*requirements(sys.argv[1:]), sep="\n")
