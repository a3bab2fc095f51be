"""Many recordings with the real server: several at a time, and a command that was killed and is repeated."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.integration.reference import ROOT
from tests.integration.results import comparable
from tests.integration.serving import Running
from transcriber.existing import is_done

pytestmark = pytest.mark.integration
COUNT = 12


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve parts of the dialogue, of 4 to 15 s, in two folders."""
    folder = tmp_path_factory.mktemp("calls")
    samples, rate_hz = soundfile.read(ROOT / "demo" / "dialogue.flac")
    for number in range(COUNT):
        path = folder / ("monday" if number % 2 else "tuesday") / f"{number // 2}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, samples[number * 4 * rate_hz :][: (4 + number) * rate_hz], rate_hz)
    return folder


def _command(server: Running, calls: Path, output: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "transcriber", str(calls), "--endpoint", f"127.0.0.1:{server.grpc}"]
    return [*command, "--output", str(output), "--format", "json-v2", *options]


def _run(*arguments: "Running | Path | str") -> "subprocess.CompletedProcess[str]":
    command = _command(*arguments)  # type: ignore[arg-type]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def _written(folder: Path) -> dict[str, Any]:
    return comparable(folder.rglob("*.json"), folder)


@pytest.fixture(scope="module")
def one_at_a_time(server: Running, calls: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("one")
    assert _run(server, calls, out).returncode == 0
    return _written(out)


def test_several_at_a_time_give_the_same_files(
    server: Running, calls: Path, one_at_a_time: dict[str, Any], tmp_path: Path
) -> None:
    done = _run(server, calls, tmp_path, "--jobs", "4")
    assert done.returncode == 0, done.stderr
    assert _written(tmp_path) == one_at_a_time
    assert len(one_at_a_time) == COUNT
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == sorted(
        str(path) for path in calls.rglob("*.wav")
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_repeated_command_does_the_rest(
    number: signal.Signals, server: Running, calls: Path, one_at_a_time: dict[str, Any], tmp_path: Path
) -> None:
    """Killed in the middle, and with a result damaged since: nothing is missing, damaged or done twice after that."""
    process = subprocess.Popen(
        _command(server, calls, tmp_path, "--jobs", "3"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while len(list(tmp_path.rglob("*.json"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number], stderr
    finished = sorted(tmp_path.rglob("*.json"))
    assert 3 <= len(finished) < COUNT
    finished[0].write_text(finished[0].read_text()[:-20])
    before = {path: path.stat().st_mtime_ns for path in finished}
    again = _run(server, calls, tmp_path, "--jobs", "3", "--skip-existing")
    assert again.returncode == 0, again.stderr
    assert again.stderr.splitlines()[0] == f"{len(finished) - 1} of {COUNT} results exist and are whole"
    assert _written(tmp_path) == one_at_a_time
    assert [path for path in finished if path.stat().st_mtime_ns != before[path]] == finished[:1]


def test_errors_and_losses_of_single_files_leave_the_others(server: Running, calls: Path, tmp_path: Path) -> None:
    """A truncated recording is transcribed as far as it goes, and again as long as it is truncated."""
    for path in sorted(calls.rglob("*.wav"))[:3]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    cut, broken = tmp_path / "0.wav", tmp_path / "1.wav"
    os.truncate(cut, cut.stat().st_size // 2)
    broken.write_text("no recording")
    out = tmp_path / "out"
    for whole in (0, 1):
        done = _run(server, tmp_path, out, "--jobs", "2", "--skip-existing")
        assert done.returncode == 50
        assert f"{whole} of 3 results exist and are whole" in done.stderr
        assert f"{cut}: the file is truncated" in done.stderr
        assert f"{broken}: it cannot be decoded" in done.stderr
        assert sorted(_written(out)) == ["0.wav.json", "2.wav.json"]
    assert is_done(tmp_path / "2.wav", out / "2.wav.json", "json-v2")
