"""Gathers tritonserver with exactly the libraries it needs, out of a vendor's image that holds fifty times as much.

python3 images/gather.py TARGET --base ROOT [--also NAME...] BINARY...

Every BINARY is copied below TARGET at its own path. The libraries that they load, directly or not, are copied to
TARGET/opt/tritonserver/lib, except those that ROOT, the base of the slim image, has itself. --also names libraries that
are opened at run time and which no binary lists (file name patterns). A library that is nowhere, or that only a builder
of engines needs, is refused with exit code 1.
"""

import argparse
import fnmatch
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

LIBRARY_FOLDER = Path("opt/tritonserver/lib")
# A GPU host's driver brings these into the container when it starts.
FROM_THE_DRIVER = ("libcuda.so.1", "libnvidia-ml.so.1")
# Only a builder loads these, and they are larger than all else.
REFUSED = "libnvinfer_builder_resource*"


class GatherError(Exception):
    """What stands in the way of a slim image."""


def main(arguments: Sequence[str]) -> None:
    """Read the command line and gather."""
    parser = argparse.ArgumentParser(prog="images/gather.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--also", action="append", default=[], metavar="NAME")
    parser.add_argument("binaries", type=Path, nargs="+", metavar="BINARY")
    options = parser.parse_args(arguments)
    gather(options.target, options.base, options.also, options.binaries)


def gather(target: Path, base: Path, also: Iterable[str], binaries: Sequence[Path]) -> None:
    """Copy the binaries and their libraries; raise GatherError for what is missing or may not ship."""
    opened = [path for pattern in also for path in matching(pattern)]
    libraries = {path.name: path for path in opened}
    for binary in [*binaries, *opened]:
        libraries |= needed(binary)
    for binary in binaries:
        _copy(binary, target / binary.relative_to("/"))
    for name, path in sorted(libraries.items()):
        if fnmatch.fnmatch(name, REFUSED):
            raise GatherError(f"{name}: only a builder needs it, and something asked for it")
        if not has(base, name):
            _copy(path, target / LIBRARY_FOLDER / name)


def needed(binary: Path) -> dict[str, Path]:
    """Name all libraries that a binary loads, with where each was found; raise GatherError for one that is nowhere."""
    listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
    if listed.returncode:
        raise GatherError(f"{binary}: {listed.stderr.strip()}")
    return parse(listed.stdout, binary)


def parse(listing: str, binary: Path) -> dict[str, Path]:
    """Read ldd's lines, `name => path (address)`; one without an arrow is the kernel's or the loader."""
    found: dict[str, Path] = {}
    for line in listing.splitlines():
        name, arrow, place = (part.strip() for part in line.partition("=>"))
        if not arrow or name in FROM_THE_DRIVER:
            continue
        if place.startswith("not found"):
            raise GatherError(f"{binary}: it needs {name}, which is nowhere in this image")
        found[name] = Path(place.rpartition(" (")[0])
    return found


def matching(pattern: str) -> list[Path]:
    """Find the libraries that the loader knows under a name pattern; raise GatherError when there is none."""
    listing = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    known = (line.rpartition(" => ")[::2] for line in listing.splitlines() if " => " in line)
    found = [Path(place) for name, place in known if fnmatch.fnmatch(name.split()[0], pattern)]
    if not found:
        raise GatherError(f"{pattern}: the loader knows no such library in this image")
    return found


def has(base: Path, name: str) -> bool:
    """Say whether the slim image's base has a library already."""
    return any((base / folder / name).exists() for folder in ("usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib"))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Links are followed: the file lies there once, under the name that its users ask for.
    shutil.copy(source, target)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GatherError as error:
        sys.exit(f"error: {error}")
