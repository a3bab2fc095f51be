"""Test the log lines of a start: text, and JSON for a log collector, errors included."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contract.catalogue import CATALOGUE_FOLDER
from runtime import log

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    logging.getLogger("voxwright").handlers = []
    yield
    logging.getLogger("voxwright").handlers = []


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("serving arch cpu")
    log.warning("a small host")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "voxwright: serving arch cpu\nvoxwright: warning: a small host\n")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("json")
    log.info('größe of "x"\nis 1 %d')
    log.warning("a small host")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    age = datetime.now(UTC) - datetime.fromisoformat(first.pop("time"))
    assert 0 <= age.total_seconds() < 60
    assert first == {"level": "info", "logger": "voxwright", "message": 'größe of "x"\nis 1 %d'}
    assert (second["level"], second["message"]) == ("warning", "a small host")


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime", "--platform", "embedded", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_error_as_text(tmp_path: Path) -> None:
    result = start("--engines", str(tmp_path))
    assert result.returncode == 41
    assert result.stderr.splitlines()[-1].startswith(f"error: --engines {tmp_path}: it holds no bundle; ")


def test_error_as_json(tmp_path: Path) -> None:
    result = start("--engines", str(tmp_path), "--log-format", "json")
    assert (result.returncode, result.stdout) == (41, "")
    *_, last = lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [line["level"] for line in lines] == ["info", "info", "error"]
    assert (last["subject"], last["exit_code"]) == (f"--engines {tmp_path}", 41)
    assert last["message"] == f"{last['subject']}: {last['cause']}. {last['remedy']}."
    assert "traceback" not in last


def test_unusable_setting_as_json(tmp_path: Path) -> None:
    result = start("--log-format", "json", "--operating-point", "best", "--verbose")
    assert result.returncode == 10
    (line,) = map(json.loads, result.stderr.splitlines())
    assert line["message"] == (
        f"SM_OPERATING_POINT: 'best' is not an operating point of {CATALOGUE_FOLDER}. Use standard or enhanced."
    )
    assert line["traceback"].startswith("Traceback")


def test_unusable_catalogue_as_json(tmp_path: Path) -> None:
    """The catalogue is read while the options are parsed, whatever their order."""
    result = start("--catalogue", str(tmp_path), "--log-format", "json")
    assert result.returncode == 11
    (line,) = map(json.loads, result.stderr.splitlines())
    assert (line["subject"], line["exit_code"]) == (str(tmp_path), 11)
