"""Compile the search into the wheel; hatchling calls it.

The library is loaded with ctypes and uses no interface of Python's, so that one wheel serves every version of Python.
"""

import re
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# glibc 2.17 is the oldest that pip has a name for.
_OLDEST_GLIBC = 17
_GLIBC = re.compile(rb"GLIBC_2\.(\d+)")


class CompiledSearch(BuildHookInterface[Any]):
    """Add the compiled search to the wheel, and name the systems that can load it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the search. An editable installation compiles it at its first use, as a checkout does."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from transcriber import native  # noqa: PLC0415 - importable from here on

        native.library()
        path = native.library_path()
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag(path)}"
        build_data["force_include"][str(path)] = f"transcriber/{path.name}"


def platform_tag(library: Path) -> str:
    """Return pip's name of the systems that can load a library, by the newest glibc whose functions it calls."""
    needed = [int(minor) for minor in _GLIBC.findall(library.read_bytes())]
    machine = library.stem.rpartition("-")[2]
    return f"manylinux_2_{max([_OLDEST_GLIBC, *needed])}_{machine}"
