"""Copy tritonserver and exactly the libraries that it needs out of NVIDIA's image, which is fifty times as large.

python3 images/gather.py TARGET --base ROOT [--also NAME...] [--licence FILE...] BINARY...

Every BINARY is copied below TARGET at its own path. The libraries that the binaries load, directly or indirectly, are
copied to TARGET/opt/tritonserver/lib, except those that ROOT, the base of the slim image, already has. --also names
libraries that are opened at run time and that no binary lists (file name patterns). --licence names the places where
NVIDIA's images may have their licence; the first that exists is copied to TARGET/opt/tritonserver.

The program ends with exit code 1 when a library or the licence is missing, or when only a builder of engines needs a
library.

NVIDIA's tensorrt backend has the run path $ORIGIN and needs libtritonserver.so, which lies in /opt/tritonserver/lib. No
loader path contains that folder: tritonserver opens the library before the backend. So libraries are looked up in the
folder `lib` of the binaries' own `tritonserver` folder first.
"""

import argparse
import fnmatch
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

LIBRARY_FOLDER = Path("opt/tritonserver/lib")
# NVIDIA's container toolkit mounts these from the host's driver when the container starts.
DRIVER_LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")
# Only a builder of engines loads these, and they are the largest libraries of the image.
BUILDER_ONLY = "libnvinfer_builder_resource*"


class GatherError(Exception):
    """A library is missing, or may not be part of a slim image."""


def main(arguments: Sequence[str]) -> None:
    """Read the command line and copy the files."""
    parser = argparse.ArgumentParser(prog="images/gather.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--also", action="append", default=[], metavar="NAME")
    parser.add_argument("--licence", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("binaries", type=Path, nargs="+", metavar="BINARY")
    options = parser.parse_args(arguments)
    gather(options.target, options.base, options.also, options.binaries)
    if options.licence:
        copy_licence(options.target, options.licence)


def gather(target: Path, base: Path, also: Iterable[str], binaries: Sequence[Path]) -> None:
    """Copy the binaries and their libraries. Raises GatherError for a library that is missing or for builders only."""
    opened = [path for pattern in also for path in matching(pattern)]
    libraries = {path.name: path for path in opened}
    folders = library_folders(binaries)
    for binary in [*binaries, *opened]:
        libraries |= needed(binary, folders)
    for binary in binaries:
        _copy(binary, target / binary.relative_to("/"))
    for name, path in sorted(libraries.items()):
        if fnmatch.fnmatch(name, BUILDER_ONLY):
            raise GatherError(f"{name}: one of the binaries loads this library, which only a builder of engines needs")
        if not in_base(base, name):
            _copy(path, target / LIBRARY_FOLDER / name)


def copy_licence(target: Path, places: Sequence[Path]) -> None:
    """Copy the first of the files that exists. Raises GatherError when none exists."""
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise GatherError(
            f"the image's licence is at none of {', '.join(map(str, places))}: name its path with --licence"
        )
    _copy(found, target / LIBRARY_FOLDER.parent / found.name)


def library_folders(binaries: Iterable[Path]) -> list[Path]:
    """Return the folders `tritonserver/lib` of the installation that the binaries belong to."""
    parents = (parent for binary in binaries for parent in binary.parents if parent.name == "tritonserver")
    return list(dict.fromkeys(parent / "lib" for parent in parents))


def needed(binary: Path, folders: Iterable[Path] = ()) -> dict[str, Path]:
    """Return name and path of all libraries that a binary loads, looked up in the folders first.

    Raises GatherError for a missing library.
    """
    earlier = os.environ.get("LD_LIBRARY_PATH", "")
    search_path = ":".join(filter(None, [*map(str, folders), earlier]))
    environment = {**os.environ, "LD_LIBRARY_PATH": search_path}
    listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False, env=environment)
    if listed.returncode:
        raise GatherError(f"{binary}: {listed.stderr.strip()}")
    return parse_ldd(listed.stdout, binary)


def parse_ldd(listing: str, binary: Path) -> dict[str, Path]:
    """Parse ldd's lines, `name => path (address)`. A line without an arrow is the kernel's vDSO or the loader."""
    found: dict[str, Path] = {}
    for line in listing.splitlines():
        name, arrow, path = (part.strip() for part in line.partition("=>"))
        if not arrow or name in DRIVER_LIBRARIES:
            continue
        if path.startswith("not found"):
            raise GatherError(f"{binary}: it needs {name}, which is not in this image")
        found[name] = Path(path.rpartition(" (")[0])
    return found


def matching(pattern: str) -> list[Path]:
    """Return the libraries in the loader's cache that match a name pattern. Raises GatherError when there is none."""
    listing = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    known = (line.rpartition(" => ")[::2] for line in listing.splitlines() if " => " in line)
    found = [Path(path) for name, path in known if fnmatch.fnmatch(name.split()[0], pattern)]
    if not found:
        raise GatherError(f"{pattern}: the loader's cache of this image (ldconfig -p) has no such library")
    return found


def in_base(base: Path, name: str) -> bool:
    """Return whether the slim image's base already has a library."""
    return any((base / folder / name).exists() for folder in ("usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib"))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Links are followed: the file is copied once, under the name that the binaries list.
    shutil.copy(source, target)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GatherError as error:
        sys.exit(f"error: {error}")
