"""Compile and load search.c, the inner loops of the search.

The library lies next to its source, in the wheel, in the image and in a checkout alike. Its name has the digest of the
source, so that no other version is ever loaded. In a checkout the first use compiles it, in about a second. Calls
release the interpreter's lock: threads search at the same time.
"""

import ctypes
import functools
import hashlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.errors import SearchUnavailableError, guard

if TYPE_CHECKING:
    # The wheel is built without NumPy.
    from numpy.typing import NDArray

SOURCE = Path(__file__).with_name("search.c")
# Without contraction, machines with fused multiplication find the same scores as others.
COMMAND = ("cc", "-std=c11", "-O2", "-shared", "-fPIC", "-ffp-contract=off")
OUT_OF_MEMORY, TOO_FEW_FRAMES = -1, -2
"""What the functions of the library return instead of 0."""
WORD_BREAK = 256
"""What stands between words among the bytes of a lexicon."""
_REMEDY = (
    "Install a C compiler, for example with `apt-get install gcc libc6-dev`, or install the wheel, which needs none"
)

_Int32s = ctypes.POINTER(ctypes.c_int32)
_Floats = ctypes.POINTER(ctypes.c_float)
_Doubles = ctypes.POINTER(ctypes.c_double)
_Bytes = ctypes.POINTER(ctypes.c_uint8)
# By the character of the arrays' type.
_POINTERS: dict[str, Any] = {"i": _Int32s, "f": _Floats, "d": _Doubles, "B": _Bytes}


class Tree(ctypes.Structure):
    """See search.c."""

    _fields_ = (("first", _Int32s), ("labels", _Int32s))


class Lexicon(ctypes.Structure):
    """See search.c."""

    _fields_ = (
        ("tree", Tree),
        ("words", _Int32s),
        ("piece_first", _Int32s),
        ("characters", _Int32s),
        ("unknown", ctypes.c_int32),
    )


class Ngram(ctypes.Structure):
    """See search.c."""

    _fields_ = (
        ("tree", Tree),
        ("log_probs", _Doubles),
        ("backoffs", _Doubles),
        ("shorter", _Int32s),
        ("states", _Int32s),
        ("start", ctypes.c_int32),
        ("boundary", ctypes.c_int32),
        ("lexicon", ctypes.POINTER(Lexicon)),
    )


class Phrases(ctypes.Structure):
    """See search.c."""

    _fields_ = (
        ("tree", Tree),
        ("shorter", _Int32s),
        ("letters", _Int32s),
        ("ended", _Int32s),
        ("piece_first", _Int32s),
        ("characters", _Int32s),
        ("ends_word", _Bytes),
        ("start", ctypes.c_int32),
        ("bonus", ctypes.c_double),
    )


# The result and the arguments of every function of search.c.
_INT, _SEARCH = ctypes.c_int32, ctypes.c_void_p
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "link_ngram": (None, (_INT, _Int32s, _Int32s, _Int32s, _Int32s)),
    "ngram_after": (ctypes.c_double, (ctypes.POINTER(Ngram), _Int32s, _INT)),
    "new_search": (
        _SEARCH,
        (
            *(_INT, ctypes.c_float, _Bytes),
            *(ctypes.POINTER(Ngram), ctypes.c_double, ctypes.c_double, ctypes.POINTER(Phrases)),
        ),
    ),
    "free_search": (None, (_SEARCH,)),
    "advance_search": (_INT, (_SEARCH, _INT, _INT, _Floats, _Int32s, _Floats)),
    "read_search": (_INT, (_SEARCH, _Doubles, _Int32s)),
    "read_tokens": (None, (_SEARCH, _INT, _Int32s)),
    "best_partial": (_INT, (_SEARCH, _Int32s)),
    "align_tokens": (
        _INT,
        (*(_INT, _INT, _Floats, _Int32s, _Floats, _INT), *(_INT, _Int32s, _Int32s, _Int32s, _Floats)),
    ),
}


@functools.cache
def library() -> ctypes.CDLL:
    """Return the compiled functions of search.c; raise SearchUnavailableError when it cannot be compiled here."""
    path = library_path()
    if not path.is_file():
        compile_library(path)
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise SearchUnavailableError(path, f"it cannot be loaded ({error})", f"Delete it. {_REMEDY}") from error
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def library_path() -> Path:
    """Return the path of the library for this source and this processor."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    return SOURCE.with_name(f"search-{digest}-{platform.machine()}.so")


def compile_library(target: Path, command: Sequence[str] = COMMAND) -> None:
    """Compile search.c; raise SearchUnavailableError without a compiler, or when the folder cannot be written."""
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".search-") as folder:
            partial = Path(folder) / target.name
            full = [*command, "-o", str(partial), str(SOURCE), "-lm"]
            done = subprocess.run(full, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            if done.returncode:
                cause = f"`{command[0]}` failed to compile {SOURCE.name}: {done.stderr.strip()}"
                raise SearchUnavailableError(target, cause, _REMEDY)
            # Another process may compile it at the same time; the files are equal.
            partial.replace(target)
    except OSError as error:
        cause = f"the search is not compiled, and cannot be compiled here ({error})"
        raise SearchUnavailableError(target, cause, _REMEDY) from error


def pointer(array: "NDArray[Any]") -> Any:
    """Return a pointer to the first element; the caller keeps the array."""
    if not array.flags.c_contiguous:
        raise ValueError("the array is not contiguous")
    return array.ctypes.data_as(_POINTERS[array.dtype.char])


def main() -> None:
    """Compile the library where that is not done yet, and print its path."""
    library()
    sys.stdout.write(f"{library_path()}\n")


if __name__ == "__main__":
    guard(main)
