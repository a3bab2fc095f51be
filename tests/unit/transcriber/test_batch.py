"""Several recordings at a time: order, errors, signals, and what is skipped."""

import io
import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from contract.errors import ServerUnreachableError, VoxwrightError
from tests.unit.transcriber.fakes import FakeRecogniser
from tests.unit.transcriber.sounds import burst, silence, wav
from transcriber import batch, existing, results
from transcriber.__main__ import Options, parse, transcribe_all
from transcriber.__main__ import run as run_command
from transcriber.formats import FORMATS

NAMES = [f"{number:02d}.wav" for number in range(12)]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Twelve recordings, the first of them longer than the others."""
    (tmp_path / "calls").mkdir()
    for number, name in enumerate(NAMES):
        pieces = [silence(1), burst(1, level=0.5 if number % 3 else 0.05), silence(1)]
        wav(tmp_path / "calls" / name, np.concatenate(pieces * (8 if number == 0 else 1)))
    return tmp_path / "calls"


def _slow_first(request: int) -> None:
    if request == 1:
        time.sleep(0.5)


def _options(calls: Path, *arguments: object) -> Options:
    return parse([str(calls), *map(str, arguments)])


def _written(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_several_at_a_time_equal_one_at_a_time(calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for jobs in (1, 5):
        assert transcribe_all(_options(calls, "--jobs", jobs), FakeRecogniser(fail=_slow_first)) == []
        out, err = capsys.readouterr()
        outputs.append(out)
        assert [line.split(":")[0].rpartition("/")[2] for line in err.splitlines()] == NAMES
    assert outputs[0] == outputs[1]
    titles = [line for line in outputs[0].splitlines() if line.startswith("==>")]
    assert titles == [f"==> {calls / name} <==" for name in NAMES]


def test_files_equal_those_of_one_at_a_time(calls: Path, tmp_path: Path) -> None:
    for jobs in (1, 5):
        assert transcribe_all(_options(calls, "--jobs", jobs, "--output", tmp_path / str(jobs)), FakeRecogniser()) == []
    assert _written(tmp_path / "1") == _written(tmp_path / "5")
    assert len(_written(tmp_path / "5")) == len(NAMES)


def test_requests_share_one_limit(calls: Path) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def count(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    transcribe_all(_options(calls, "--jobs", 6, "--in-flight", 3), FakeRecogniser(fail=count))
    assert most == 3


def test_errors_are_those_of_their_files(calls: Path, tmp_path: Path) -> None:
    (calls / "03.wav").write_text("no recording")
    (calls / "05.wav").unlink()
    (calls / "05.wav").symlink_to("nowhere")
    errors = transcribe_all(_options(calls, "--jobs", 4, "--output", tmp_path / "out"), FakeRecogniser())
    assert [Path(error.subject).name for error in errors] == ["03.wav", "05.wav"]
    assert len(_written(tmp_path / "out")) == len(NAMES) - 2


def test_no_recording_begins_after_an_outage(calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: int) -> None:
        time.sleep(0.05)
        raise ServerUnreachableError("localhost:8001", "gone", "Start one")

    errors = transcribe_all(_options(calls, "--jobs", 2), FakeRecogniser(fail=fail))
    assert {type(error) for error in errors} == {ServerUnreachableError}
    assert 1 <= len(errors) <= 2
    assert f"of {len(NAMES)} recordings were not transcribed" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, None), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("jobs", [1, 3])
def test_signal_keeps_what_is_finished(
    calls: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int | None, jobs: int
) -> None:
    (calls / "00.wav").write_text("no recording")

    def interrupt(request: int) -> None:
        if request == 6:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt if code is None else SystemExit) as caught:
        transcribe_all(_options(calls, "--jobs", jobs), FakeRecogniser(fail=interrupt))
    assert signal.getsignal(number) is before
    assert getattr(caught.value, "code", None) == code
    out, err = capsys.readouterr()
    titles = [line for line in out.splitlines() if line.startswith("==>")]
    # Each recording is one request, so all before those that were on the server are finished.
    assert 6 - jobs <= len(titles) < len(NAMES) - 1
    assert titles == sorted(titles)
    assert f"{len(NAMES) - 1 - len(titles)} of {len(NAMES)} recordings were not transcribed" in err
    assert f"error: {calls / '00.wav'}: it cannot be decoded" in err


def test_closed_output_ends_recordings_that_began(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `| head`: a long recording must not be transcribed to its end without a reader."""

    recogniser, before = FakeRecogniser(fail=lambda _: time.sleep(0.1)), list[int]()

    def write_stdout(_: str) -> None:
        before.append(recogniser.calls.count("recognise"))
        raise SystemExit(141)

    # The first recording is one segment, all others are eight.
    for name in NAMES[1:]:
        (calls / name).write_bytes((calls / "00.wav").read_bytes())
    wav(calls / "00.wav", np.concatenate([silence(1), burst(1, level=0.5), silence(1)]))
    monkeypatch.setattr(results, "write_stdout", write_stdout)
    with pytest.raises(SystemExit) as caught:
        transcribe_all(_options(calls, "--jobs", 3, "--in-flight", 1), recogniser)
    assert caught.value.code == 141
    deadline = time.monotonic() + 10
    while any(each.name.startswith("recording") for each in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    # Three recordings were under way, each with one request.
    assert recogniser.calls.count("recognise") - before[0] <= 2 * 3


def test_memory_holds_few_outcomes(calls: Path) -> None:
    """Recordings behind a slow one are not all transcribed and held before it is shown."""
    begun: list[int] = []
    first = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 0:
            first.wait(10)
        return item

    def items() -> "list[int]":
        return list(range(1000))

    shown: list[int] = []
    runner = threading.Thread(target=batch.run, args=(work, items(), 2, batch.Stop(), shown.append))
    runner.start()
    time.sleep(0.5)
    assert len(begun) <= 40
    first.set()
    runner.join(10)
    assert shown == list(range(1000))


def test_lines_stand_above_the_bar_of_a_terminal(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    transcribe_all(_options(calls, "--jobs", 3, "--output", tmp_path / "out"), FakeRecogniser())
    lines = [line for line in terminal.getvalue().splitlines() if "of audio in" in line]
    assert len(lines) == len(NAMES)
    # Each line begins where the bar was erased.
    assert all(re.match(r"^(\x1b\[[?\d;]*[A-Za-z]|\r)*" + re.escape(str(calls)), line) for line in lines), lines


def test_skips_results_that_are_whole(calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--output", tmp_path / "out", "--skip-existing", "--endpoint", "localhost:1", "--wait", "0")
    transcribe_all(_options(calls, *arguments), FakeRecogniser())
    whole = _written(tmp_path / "out")
    # With nothing left to do no server is needed.
    run_command(_options(calls, *arguments))
    assert capsys.readouterr().err.splitlines()[-1] == "12 of 12 results exist and are whole"
    (tmp_path / "out" / "03.wav.txt").write_text(whole["03.wav.txt"][:9])
    (tmp_path / "out" / "04.wav.txt").unlink()
    os.utime(calls / "05.wav")
    os.utime(tmp_path / "out" / "05.wav.txt", (1, 1))
    with pytest.raises(VoxwrightError):
        run_command(_options(calls, *arguments))
    assert "9 of 12 results exist and are whole" in capsys.readouterr().err


@pytest.mark.usefixtures("attributes")
@pytest.mark.parametrize("format_name", FORMATS)
def test_keeps_the_result_of_another_recording(
    format_name: str, calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tuesday/01.wav` after `01.wav`, into one folder: it is neither counted as done nor written over the first."""
    other = tmp_path / "tuesday" / "01.wav"
    other.parent.mkdir()
    shutil.copy2(calls / "01.wav", other)
    rest = ["--output", f"{tmp_path}/out/", "--format", format_name, "--endpoint", "localhost:1", "--wait", "0"]
    assert transcribe_all(parse([str(calls / "01.wav"), *rest]), FakeRecogniser()) == []
    before, name = _written(tmp_path / "out"), f"01{FORMATS[format_name].suffix}"
    assert [*before] == [name]
    with pytest.raises(VoxwrightError) as caught:
        run_command(parse([str(other), *rest, "--skip-existing"]))
    assert str(caught.value) == (
        f"{tmp_path}/out/{name}: it is the result of another recording, {calls / '01.wav'}. "
        "Use another --output; without --skip-existing it is replaced."
    )
    assert caught.value.exit_code == 13
    assert _written(tmp_path / "out") == before
    run_command(parse([str(calls / "01.wav"), *rest, "--skip-existing"]))
    assert capsys.readouterr().err.splitlines()[-1] == "1 of 1 results exist and are whole"
    assert transcribe_all(parse([str(other), *rest]), FakeRecogniser()) == []
    run_command(parse([str(other), *rest, "--skip-existing"]))


@pytest.mark.usefixtures("attributes")
def test_results_of_earlier_releases_count_by_their_names(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--output", tmp_path / "out", "--skip-existing")
    transcribe_all(_options(calls, *arguments), FakeRecogniser())
    for name in ("03.wav.txt", "04.wav.txt"):
        content = (tmp_path / "out" / name).read_text()
        (tmp_path / "out" / name).unlink()
        (tmp_path / "out" / name).write_text(content)
    run_command(_options(calls, *arguments))
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "12 of 12 results exist and are whole",
        f"2 of them count by their names, such as {tmp_path}/out/03.wav.txt: they state no recording",
    ]


def test_removes_only_what_its_own_killed_processes_left(calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    transcribe_all(_options(calls, "--output", out), FakeRecogniser())
    link = out / "12.wav.txt"
    link.symlink_to(tmp_path / "elsewhere.txt")
    others = [".backup.partial", ".movie.mkv.partial", ".01.wav.txt.partial", ".x.wav.txt.abcd1234.partial"]
    own = [out / ".01.wav.txt.abcd1234.partial", tmp_path / ".elsewhere.txt.abcd1234.partial"]
    shutil.copy(calls / "01.wav", calls / "12.wav")
    for path in (*(out / name for name in others), *own):
        path.touch()
        os.utime(path, (1, 1))
    with pytest.raises(VoxwrightError):
        run_command(_options(calls, "--output", out, "--skip-existing", "--endpoint", "localhost:1", "--wait", "0"))
    assert not any(path.exists() for path in own)
    assert all((out / name).exists() for name in others)


def test_folder_without_recordings_is_reported_beside_other_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(VoxwrightError, match=r"missing\.wav: there is no such file"):
        run_command(_options(tmp_path / "empty", tmp_path / "missing.wav"))
    assert "error: " in (err := capsys.readouterr().err)
    assert "empty: it contains no recording" in err


def test_recording_that_changes_meanwhile_is_not_done(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that is still being copied into the folder."""
    recording, target = calls / "01.wav", tmp_path / "out" / "01.txt"

    def grow(_: int) -> None:
        with recording.open("ab") as file:
            file.write(bytes(2))

    options = parse([f"{recording}", "--output", f"{target.parent}/", "--format", "txt"])
    assert transcribe_all(options, FakeRecogniser(fail=grow)) == []
    assert "it was changed while it was transcribed, so transcribe it again" in capsys.readouterr().err
    assert target.read_text()
    assert not existing.is_done(recording, target, "txt")
    assert transcribe_all(options, FakeRecogniser()) == []
    assert existing.is_done(recording, target, "txt")


def test_skips_only_what_can_be_looked_up(calls: Path) -> None:
    with pytest.raises(VoxwrightError) as caught:
        _options(calls, "--skip-existing")
    assert str(caught.value) == (
        "--skip-existing: results on the standard output cannot be looked up. Name a file or a folder with --output."
    )


def test_umask_is_read_without_a_change() -> None:
    before = os.umask(0o027)
    try:
        assert results._umask() == 0o027
    finally:
        assert os.umask(before) == 0o027
