"""The tree of refusals: every leaf has its own exit code, and a command line prints a sentence."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from contract import errors
from contract.errors import VoxwrightError

ROOT = Path(__file__).parents[3]


def below(root: type[VoxwrightError]) -> list[type[VoxwrightError]]:
    return [found for child in root.__subclasses__() for found in (child, *below(child))]


LEAVES = [error for error in below(VoxwrightError) if "exit_code" in vars(error)]


def test_exit_codes_are_unique_and_free() -> None:
    codes = [error.exit_code for error in LEAVES]
    assert len(set(codes)) == len(codes)
    # 1 is an accident, 2 a misuse of the command line, from 64 on lie sysexits, and from 126 on the shell's own.
    assert all(10 <= code < 64 for code in codes)


def test_every_class_without_a_code_has_children() -> None:
    for error in below(VoxwrightError):
        assert ("exit_code" in vars(error)) != bool(error.__subclasses__()), error


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+Error) +(\d+) ", errors.__doc__ or ""))
    assert drawn == {error.__name__: str(error.exit_code) for error in LEAVES}
    names = set(re.findall(r"(\w+Error)\b", errors.__doc__ or ""))
    assert names == {"VoxwrightError", *(error.__name__ for error in below(VoxwrightError))}


@pytest.mark.parametrize("error", LEAVES, ids=str)
def test_a_refusal_is_a_sentence(error: type[VoxwrightError]) -> None:
    refusal = error(Path("bundle/manifest.json"), "it is empty", "Build it again")
    assert str(refusal) == "bundle/manifest.json: it is empty. Build it again."
    assert (refusal.subject, refusal.cause, refusal.remedy) == ("bundle/manifest.json", "it is empty", "Build it again")


def guarded(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    source = f"from contract.errors import *\ndef command():\n    {body}\nguard(command)\n"
    command = [sys.executable, "-c", source, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_guard_prints_one_sentence() -> None:
    result = guarded("raise GpuError('GPU', 'it is gone', 'Insert it')")
    assert (result.returncode, result.stdout, result.stderr) == (40, "", "error: GPU: it is gone. Insert it.\n")


def test_guard_adds_a_traceback_when_asked() -> None:
    result = guarded("raise GpuError('GPU', 'it is gone', 'Insert it')", "--verbose")
    assert result.returncode == 40
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith("error: GPU: it is gone. Insert it.\n")


def test_guard_of_a_success() -> None:
    assert guarded("print('done')").returncode == 0


def test_guard_of_an_interrupt() -> None:
    result = guarded("raise KeyboardInterrupt")
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


def test_guard_of_a_full_disk() -> None:
    result = guarded(f"raise OSError({errno.ENOSPC}, 'No space left on device', 'out/file')")
    assert result.returncode == 13
    assert result.stderr == (
        "error: out/file: cannot be written (No space left on device). "
        "Free some space and run the same command again.\n"
    )


def test_guard_leaves_other_errors_alone() -> None:
    assert "FileNotFoundError" in guarded("open('absent')").stderr
    assert guarded("raise ValueError('a mistake of ours')").returncode == 1


def test_a_forbidden_folder() -> None:
    refusal = errors.as_output_error(PermissionError(errno.EACCES, "Permission denied", "/srv/out"))
    assert str(refusal) == "/srv/out: cannot be written (Permission denied). Choose a folder that you may write to."
