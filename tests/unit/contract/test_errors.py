"""The tree of errors: every leaf has its own exit code, and a command prints one sentence."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from contract import errors
from contract.errors import VoxwrightError

ROOT = Path(__file__).parents[3]


def children(root: type[VoxwrightError]) -> list[type[VoxwrightError]]:
    """Return the classes of the tree; what other packages derive for themselves may be imported by another test."""
    return [child for child in root.__subclasses__() if child.__module__ == errors.__name__]


def below(root: type[VoxwrightError]) -> list[type[VoxwrightError]]:
    return [found for child in children(root) for found in (child, *below(child))]


LEAVES = [error for error in below(VoxwrightError) if "exit_code" in vars(error)]


def test_exit_codes_are_unique_and_free() -> None:
    codes = [error.exit_code for error in LEAVES]
    assert len(set(codes)) == len(codes)
    # 1 is a defect, 2 misuse of the command line; codes from 64 on belong to sysexits, from 126 on to the shell.
    assert all(10 <= code < 64 for code in codes)


def test_every_class_without_a_code_has_children() -> None:
    for error in below(VoxwrightError):
        assert ("exit_code" in vars(error)) != bool(children(error)), error


def test_drawn_tree_matches_the_classes() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+Error) +(\d+) ", errors.__doc__ or ""))
    assert drawn == {error.__name__: str(error.exit_code) for error in LEAVES}
    names = set(re.findall(r"(\w+Error)\b", errors.__doc__ or ""))
    assert names == {"VoxwrightError", *(error.__name__ for error in below(VoxwrightError))}


@pytest.mark.parametrize("error", LEAVES, ids=str)
def test_text_is_a_sentence(error: type[VoxwrightError]) -> None:
    made = error(Path("bundle/manifest.json"), "it is empty", "Build it again")
    assert str(made) == "bundle/manifest.json: it is empty. Build it again."
    assert (made.subject, made.cause, made.remedy) == ("bundle/manifest.json", "it is empty", "Build it again")


def guarded(body: str) -> subprocess.CompletedProcess[str]:
    source = f"from contract.errors import *\ndef command():\n    {body}\nguard(command)\n"
    command = [sys.executable, "-c", source]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_guard_prints_one_sentence() -> None:
    result = guarded("raise GpuError('GPU', 'it is gone', 'Insert it')")
    assert (result.returncode, result.stdout, result.stderr) == (40, "", "error: GPU: it is gone. Insert it.\n")


def test_guard_adds_the_traceback_when_it_is_enabled() -> None:
    result = guarded("show_tracebacks(True); raise GpuError('GPU', 'it is gone', 'Insert it')")
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


def test_guard_reads_no_command_line() -> None:
    assert "Traceback" not in guarded("sys.argv.append('--verbose'); raise GpuError('GPU', 'gone', 'Insert it')").stderr


@pytest.mark.parametrize("code", [errno.EROFS, errno.EFBIG, errno.EDQUOT])
def test_guard_of_a_failed_write(code: int) -> None:
    result = guarded(f"raise OSError({code}, 'The reason', 'out/file')")
    assert result.returncode == 13
    assert result.stderr.startswith("error: out/file: cannot be written (The reason). ")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO])
def test_guard_of_a_file_that_may_have_been_read(code: int) -> None:
    """What writes an output raises OutputError itself, so the guard cannot know what the rest was."""
    result = guarded(f"raise OSError({code}, 'The reason', 'in/file')")
    assert result.returncode == 13
    assert result.stderr == (
        "error: in/file: cannot be read or written (The reason). Correct the path, or the permissions of this user.\n"
    )


def test_guard_leaves_other_errors_alone() -> None:
    assert "FileNotFoundError" in guarded("open('absent')").stderr
    assert "OSError: [Errno 22]" in guarded("raise OSError(22, 'Invalid argument')").stderr
    assert guarded("raise ValueError('a defect')").returncode == 1


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EACCES, "Choose a folder that you may write to"),
        (errno.ENOSPC, "Free some space and run the same command again"),
        (errno.EDQUOT, "Free some space and run the same command again"),
        (errno.ENAMETOOLONG, "Choose a shorter name"),
    ],
)
def test_as_output_error(code: int, remedy: str) -> None:
    error = OSError(code, "The reason", "/srv/out")
    assert str(errors.as_output_error(error)) == f"/srv/out: cannot be written (The reason). {remedy}."
    assert str(errors.as_output_error(error, "report")) == f"report: cannot be written (The reason). {remedy}."


def test_missing_package_is_a_sentence(tmp_path: Path) -> None:
    """As with a Python other than that of the environment; a missing module of the project itself is a defect."""
    program = "from contract.errors import guard\ndef run():\n    import {}\nguard(run)"
    command = [sys.executable, "-c", program.format("absent_package.part")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        10,
        f"error: {sys.executable}: this Python lacks the package that contains absent_package. Run the command with "
        "`.venv/bin/python` in place of `python`, after `make env`; or install the extra of voxwright that contains "
        "this command.\n",
    )
    own = subprocess.run(
        [sys.executable, "-c", program.format("contract.absent")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert own.returncode == 1
    assert own.stderr.endswith("ModuleNotFoundError: No module named 'contract.absent'\n")
