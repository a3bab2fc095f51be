"""Test the script that a pod of a bulk job runs: it transcribes its share of a list, and retries continue it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy import render

SCRIPT = render.CHARTS / "voxwright-bulk" / "files" / "transcribe-share.sh"
# Writes output like the transcriber, and ends with the exit code that the recording contains.
PROGRAM = """
import pathlib, sys
assert sys.argv[1:3] == ["--format", "json-v2"] and sys.argv[3] == "--output" and sys.argv[5] == "--", sys.argv
code, _, text = pathlib.Path(sys.argv[6]).read_text().partition(" ")
if code in ("0", "53"):
    pathlib.Path(sys.argv[4]).write_text(text)
sys.exit(int(code))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "recordings").mkdir()
    (tmp_path / "transcripts").mkdir()
    return tmp_path


def _record(place: Path, **contents: str) -> None:
    for name, content in contents.items():
        path = place / "recordings" / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


def _environment(place: Path, listed: str, share: int, shares: int) -> dict[str, str]:
    (place / "list").write_bytes(listed.encode())
    return {
        **os.environ,
        "LIST": str(place / "list"),
        "RECORDINGS": str(place / "recordings"),
        "TRANSCRIPTS": str(place / "transcripts"),
        "FORMAT": "json-v2",
        "SHARES": str(shares),
        "JOB_COMPLETION_INDEX": str(share),
    }


def _run(place: Path, listed: str, share: int = 0, shares: int = 1) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(SCRIPT), sys.executable, "-c", PROGRAM]
    return subprocess.run(
        command, env=_environment(place, listed, share, shares), capture_output=True, text=True, check=False
    )


def _written(place: Path) -> dict[str, str]:
    folder = place / "transcripts"
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_shares_cover_list(place: Path) -> None:
    names = [f"calls/{number}.wav" for number in range(7)]
    _record(place, **{name.replace("/", "__"): f"0 {name}" for name in names})
    for share in range(3):
        assert _run(place, "\n".join(names), share, 3).returncode == 0
        expected = sorted(name for earlier in range(share + 1) for name in names[earlier::3])
        assert _written(place) == {f"{name}.json": name for name in expected}


def test_list_may_contain_blank_lines_comments_and_crlf(place: Path) -> None:
    _record(place, **{"a b.wav": "0 one", "c.wav": "0 two", "-d.wav": "0 three"})
    assert _run(place, "# Monday\r\n\r\na b.wav\r\nc.wav\r\n-d.wav").returncode == 0
    assert _written(place) == {"-d.wav.json": "three", "a b.wav.json": "one", "c.wav.json": "two"}


def test_existing_transcripts_are_kept(place: Path) -> None:
    _record(place, **{"a.wav": "0 new", "b.wav": "0 new"})
    (place / "transcripts" / "a.wav.json").write_text("old")
    assert _run(place, "a.wav\nb.wav\n").returncode == 0
    assert _written(place) == {"a.wav.json": "old", "b.wav.json": "new"}


def test_incomplete_transcript_is_kept_as_part_and_retried(place: Path) -> None:
    _record(place, **{"a.wav": "53 half", "b.wav": "0 whole"})
    done = _run(place, "a.wav\nb.wav\n")
    assert (done.returncode, done.stderr) == (53, "a.wav: exit code 53\n")
    assert _written(place) == {"a.wav.json.part": "half", "b.wav.json": "whole"}
    _record(place, **{"a.wav": "0 whole"})
    assert _run(place, "a.wav\nb.wav\n").returncode == 0
    assert _written(place) == {"a.wav.json": "whole", "b.wav.json": "whole"}


@pytest.mark.parametrize(("codes", "last"), [((50, 53), 53), ((53, 50), 53), ((50, 0), 50), ((0, 50), 50)])
def test_exit_code_prefers_retryable_failure(place: Path, codes: tuple[int, int], last: int) -> None:
    _record(place, **{"a.wav": f"{codes[0]} a", "b.wav": f"{codes[1]} b"})
    assert _run(place, "a.wav\nb.wav\n").returncode == last


def test_share_ends_without_server(place: Path) -> None:
    _record(place, **{"a.wav": "51 ", "b.wav": "0 whole"})
    assert _run(place, "a.wav\nb.wav\n").returncode == 51
    assert _written(place) == {}


def test_signal_ends_script_and_transcriber(place: Path) -> None:
    program = "import os, pathlib, sys, time; pathlib.Path(sys.argv[4]).write_text(str(os.getpid())); time.sleep(60)"
    command = ["sh", str(SCRIPT), sys.executable, "-c", program]
    process = subprocess.Popen(command, env=_environment(place, "a.wav\n", 0, 1))
    part, end = place / "transcripts" / "a.wav.json.part", time.monotonic() + 20
    while not (part.exists() and part.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    transcriber = Path(f"/proc/{part.read_text()}")
    while transcriber.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not transcriber.exists()
