"""The compiled search: where it lies, when it is compiled, and what happens without a compiler."""

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contract.errors import SearchUnavailableError
from transcriber import native

ROOT = Path(__file__).parents[3]


def names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


def test_lies_next_to_its_source_under_the_name_of_its_digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = native.library_path()
    assert before.parent == native.SOURCE.parent
    source = tmp_path / "search.c"
    source.write_bytes(native.SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(native, "SOURCE", source)
    assert native.library_path().parent == tmp_path
    assert native.library_path().name != before.name


def test_compiles_into_one_file(tmp_path: Path) -> None:
    target = tmp_path / "search.so"
    native.compile_library(target)
    assert names(tmp_path) == ["search.so"]
    assert ctypes.CDLL(str(target)).new_search is not None


def test_compiler_finds_nothing_to_warn_of(tmp_path: Path) -> None:
    native.compile_library(tmp_path / "search.so", (*native.COMMAND, "-Wall", "-Wextra", "-Wconversion", "-Werror"))


def test_reports_absent_compiler(tmp_path: Path) -> None:
    with pytest.raises(SearchUnavailableError) as caught:
        native.compile_library(tmp_path / "search.so", ["no-such-compiler"])
    cause = "[Errno 2] No such file or directory: 'no-such-compiler'"
    assert str(caught.value) == (
        f"{tmp_path}/search.so: the search is not compiled, and cannot be compiled here ({cause}). Install a C "
        "compiler, for example with `apt-get install gcc libc6-dev`, or install the wheel, which needs none."
    )
    assert names(tmp_path) == []


def test_reports_what_the_compiler_reports(tmp_path: Path) -> None:
    with pytest.raises(SearchUnavailableError) as caught:
        native.compile_library(tmp_path / "search.so", [sys.executable, "-c", "import sys; sys.exit('no room')"])
    assert caught.value.cause == f"`{sys.executable}` failed to compile search.c: no room"


def test_reports_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SearchUnavailableError) as caught:
        native.compile_library(tmp_path / "absent" / "search.so")
    assert "cannot be compiled here ([Errno 2]" in caught.value.cause


def test_reports_damaged_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = tmp_path / "search.so"
    damaged.write_bytes(b"not a library")
    monkeypatch.setattr(native, "library_path", lambda: damaged)
    with pytest.raises(SearchUnavailableError) as caught:
        native.library.__wrapped__()
    assert caught.value.cause == f"it cannot be loaded ({damaged}: file too short)"
    assert caught.value.remedy.startswith("Delete it. ")


def test_is_compiled_by_its_command_line_without_numpy() -> None:
    """Neither the image's stage that compiles it nor an isolated build of the wheel has NumPy."""
    script = (
        "import sys, runpy; sys.modules['numpy'] = None; runpy.run_module('transcriber.native', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{native.library_path()}\n"


def test_several_processes_may_compile_it_at_once(tmp_path: Path) -> None:
    script = "import pathlib, sys; from transcriber import native; native.compile_library(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(tmp_path / "s.so")]
    started = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [each.wait() for each in started] == [0, 0, 0]
    assert names(tmp_path) == ["s.so"]


def test_rejects_array_with_gaps() -> None:
    with pytest.raises(ValueError, match="the array is not contiguous"):
        native.pointer(np.zeros((4, 4), dtype=np.int32)[:, 1])
