"""Print the requirements of some extras of pyproject.toml for pip, one a line; without extras, only the base's.

python3 images/requirements.py [EXTRA...]    reads pyproject.toml in the folder above this file
"""

import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

PROJECT_FILE = Path(__file__).resolve().parents[1] / "pyproject.toml"


def requirements(extras: Iterable[str]) -> list[str]:
    """Return the base's requirements and those of every extra. Raises KeyError for an unknown extra."""
    project = tomllib.loads(PROJECT_FILE.read_text())["project"]
    by_extra = project["optional-dependencies"]
    return [*project["dependencies"], *(each for extra in extras for each in by_extra[extra])]


if __name__ == "__main__":
    print(*requirements(sys.argv[1:]), sep="\n")
