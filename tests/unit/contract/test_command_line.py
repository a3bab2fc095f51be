"""The option --verbose, and how a command ends."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMMAND = """\
import click
from contract import command_line
from contract.errors import GpuError

@click.command()
@click.option("--number", type=int)
@command_line.verbose_option()
def command(number):
    {body}

command_line.run(command)
"""
SENTENCE = "error: GPU: it is gone. Insert it.\n"


def run(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COMMAND.format(body=body), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("arguments", [(), ("--number", "3")])
def test_prints_one_sentence(arguments: tuple[str, ...]) -> None:
    result = run("raise GpuError('GPU', 'it is gone', 'Insert it')", *arguments)
    assert (result.returncode, result.stdout, result.stderr) == (40, "", SENTENCE)


@pytest.mark.parametrize("arguments", [("--verbose",), ("--number", "3", "--verbose"), ("--verbose", "--number", "3")])
def test_verbose_adds_the_traceback(arguments: tuple[str, ...]) -> None:
    result = run("raise GpuError('GPU', 'it is gone', 'Insert it')", *arguments)
    assert result.returncode == 40
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith(SENTENCE)


def test_ignores_verbose_among_the_values_of_other_options() -> None:
    """Only the option counts: a later argument of the same spelling is a value or a misuse."""
    result = run("raise GpuError('GPU', 'it is gone', 'Insert it')", "--", "--verbose")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_misuse_ends_as_click_prints_it() -> None:
    result = run("pass", "--number", "three")
    assert result.returncode == 2
    assert result.stderr.endswith("Error: Invalid value for '--number': 'three' is not a valid integer.\n")


# click itself prints the first line end of an interrupt: a terminal shows ^C in that line.
@pytest.mark.parametrize(("body", "line"), [("raise KeyboardInterrupt", "\n"), ("raise click.Abort", "")])
def test_interrupt(body: str, line: str) -> None:
    result = run(body)
    assert (result.returncode, result.stderr) == (130, f"{line}interrupted\n")


def test_end_of_a_file_is_not_an_interrupt() -> None:
    """click turns both into the same exception."""
    result = run("raise EOFError('No data left in file')")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "EOFError: No data left in file"


def test_success() -> None:
    result = run("print('done')")
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


CATALOGUE_COMMAND = """\
import click
from contract import command_line

@click.command()
@command_line.catalogue_option()
def command(catalogue):
    print(catalogue.folder.name, *catalogue.operating_points)

command_line.run(command)
"""


def run_with_catalogue(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CATALOGUE_COMMAND, *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


def test_catalogue_option(tmp_path: Path) -> None:
    assert run_with_catalogue().stdout == "model_repository standard enhanced\n"
    shutil.copytree(ROOT / "model_repository", tmp_path / "mine")
    assert run_with_catalogue("--catalogue", str(tmp_path / "mine")).stdout == "mine standard enhanced\n"
    assert run_with_catalogue(VOXWRIGHT_CATALOGUE=str(tmp_path / "mine")).stdout == "mine standard enhanced\n"


BESIDE_COMMAND = CATALOGUE_COMMAND.replace("catalogue_option()", 'catalogue_option("onnx")').replace(
    "@click.command()", "@click.command()\n@click.option('--onnx', default='graphs')"
)


def test_catalogue_option_finds_the_one_beside_the_graphs(tmp_path: Path) -> None:
    def found(*arguments: str, **variables: str) -> str:
        command = [sys.executable, "-c", BESIDE_COMMAND.replace("(catalogue)", "(catalogue, onnx)"), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
        ).stdout.split()[0]

    shutil.copytree(ROOT / "model_repository", tmp_path / "mine")
    assert found() == found("--onnx", "empty") == "model_repository"
    for folder in ("graphs", "other"):
        shutil.copytree(ROOT / "model_repository", tmp_path / folder / "catalogue")
    assert found() == found("--onnx", "other") == "catalogue"
    assert found("--catalogue", "mine", "--onnx", "other") == found(VOXWRIGHT_CATALOGUE="mine") == "mine"


def test_catalogue_option_rejects_other_folder(tmp_path: Path) -> None:
    result = run_with_catalogue("--catalogue", str(tmp_path))
    assert (result.returncode, result.stdout) == (11, "")
    assert result.stderr == (
        f"error: {tmp_path}: it holds no catalogue.toml, so it is not a catalogue. "
        "Name the folder of a catalogue, or reinstall the package.\n"
    )
