"""The command line: its options, its output, and its exit codes."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from contract.errors import AudioError, OutputError, ServerUnreachableError, SettingError, VoxwrightError
from contract.frames import FrameRule
from export import generated_catalogue
from export.generated_catalogue import OwnFamily
from tests.unit.transcriber.fakes import FakeRecogniser
from tests.unit.transcriber.server import Script, serving
from tests.unit.transcriber.sounds import burst, silence, wav
from tests.unit.transcriber.streams import FakeStreams
from transcriber import pipeline, realtime, results
from transcriber.__main__ import follow, parse, transcribe_all
from transcriber.__main__ import run as run_command
from transcriber.output_writer import TextWriter
from transcriber.pipeline import Plan
from transcriber.realtime import Source
from transcriber.recogniser import RequestError
from transcriber.session import Partial


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    return wav(tmp_path / "talk.wav", np.concatenate([silence(1), burst(2), silence(1)]))


def message(*arguments: object) -> str:
    with pytest.raises(VoxwrightError) as caught:
        parse([str(argument) for argument in arguments])
    return str(caught.value)


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SM_INFERENCE_ENDPOINT", raising=False)
    options = parse(["a.wav"])
    assert (options.format, options.targets, options.endpoint) == ("txt", (None,), "localhost:8001")
    assert (options.operating_point, options.language, options.search) == (None, "en", None)
    assert options.ngram
    assert options.voice_detection == "webrtc"
    assert parse(["a.wav", "--voice-detection", "silero"]).voice_detection == "silero"
    assert (options.speakers, options.in_flight, options.wait_s, options.verbose) == (True, None, 60.0, False)


def catalogue(folder: Path, *languages: str) -> Path:
    """Write a catalogue with a recogniser for each language."""
    families = [
        OwnFamily(name=f"am_{language}", role="ctc", language=language, operating_points=("fast",),
                  sample_rate_hz=8_000, padding="exact", frames=FrameRule.of((200, 80)))
        for language in languages
    ]  # fmt: skip
    generated_catalogue.write(folder, ("fast",), families)
    return folder


@pytest.mark.parametrize(("languages", "expected"), [(("de",), "de"), (("de", "en"), "en")])
def test_language_is_the_only_one_or_english(tmp_path: Path, languages: tuple[str, ...], expected: str) -> None:
    folder = catalogue(tmp_path / "catalogue", *languages)
    assert parse(["a.wav", "--catalogue", str(folder)]).language == expected
    assert parse(["a.wav", "--catalogue", str(folder), "--language", "nl"]).language == "nl"


def test_rejects_missing_language_where_there_are_several(tmp_path: Path) -> None:
    folder = catalogue(tmp_path / "catalogue", "nl", "de")
    assert message("a.wav", "--catalogue", folder) == (
        f"--language: it is missing, and {folder} has 2 languages. Use de or nl."
    )


def test_endpoint_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_INFERENCE_ENDPOINT", "triton:9001")
    assert parse(["a.wav"]).endpoint == "triton:9001"
    for endpoint in ("[::1]:8001", "ipv4:10.0.0.1:8001,10.0.0.2:8001", "ipv6:[::1]:8001,[::2]:8001"):
        assert parse(["a.wav", "--endpoint", endpoint]).endpoint == endpoint


@pytest.mark.parametrize("endpoint", ["localhost", "http://localhost:8000", ":8001", "host:0", "host:99999", "host:x"])
def test_rejects_endpoint_without_host_or_port(endpoint: str) -> None:
    assert message("a.wav", "--endpoint", endpoint) == (
        f"--endpoint: {endpoint!r} is not of the form host:port. Use for example localhost:8001."
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--output", "a.srt"], "srt"),
        (["--output", "a.JSON"], "json-v2"),
        (["--output", "a.srt", "--format", "vtt"], "vtt"),
        (["--output", "a.doc"], "txt"),
    ],
)
def test_suffix_of_the_output_chooses_the_format(arguments: list[str], expected: str) -> None:
    assert parse(["a.wav", *arguments]).format == expected


def test_usage_error_has_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--search", "lucky", "a.wav"])
    assert caught.value.code == 2
    assert "'lucky' is not one of 'greedy', 'beam', 'rescore'" in capsys.readouterr().err


def test_reads_vocabulary_before_the_work(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("Voxwright = vox right\n", encoding="utf-8")
    assert [each.content for each in parse(["a.wav", "--vocabulary", str(names)]).vocabulary] == ["Voxwright"]
    assert message("a.wav", "--vocabulary", names, "--search", "greedy") == (
        "--vocabulary: the greedy search takes no phrases. Leave out --search greedy."
    )
    assert "it cannot be read (No such file or directory)" in message("a.wav", "--vocabulary", tmp_path / "absent")


def test_rejects_several_results_for_one_place(tmp_path: Path) -> None:
    assert message("a.wav", "b.wav", "--format", "srt") == (
        "--format: several results in srt cannot share the standard output. Name a folder with --output."
    )
    (tmp_path / "file").touch()
    assert message("a.wav", "b.wav", "--output", tmp_path / "file") == (
        f"--output: {tmp_path / 'file'} is a file, and there are several recordings. Name a folder."
    )
    assert message("a.wav", "a.mp3", "--output", tmp_path) == (
        f"--output: several of the recordings would be written to {tmp_path / 'a.txt'}. "
        "Name the folder that contains them, where their results are kept apart, or rename them."
    )


def test_does_not_overwrite_a_recording(talk: Path) -> None:
    assert message(talk, "--output", talk) == (
        f"--output: {talk} is a recording, which would be overwritten. Name another file."
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_rejects_read_only_folder_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError):
        parse(["a.wav", "--output", str(tmp_path / "a.txt")])


def test_rejects_output_below_a_file_before_the_work(talk: Path) -> None:
    assert message("a.wav", "--output", talk / "a.txt") == (
        f"{talk / 'a.txt'}: nothing can be written to {talk}. Choose a folder that you may write to."
    )


def test_rttm_needs_speakers() -> None:
    with pytest.raises(SettingError) as caught:
        parse(["a.wav", "--format", "rttm", "--no-speakers"])
    assert str(caught.value) == "--no-speakers: rttm lists only speakers. Leave it out."


def test_rttm_needs_a_speaker_network(talk: Path, script: Script) -> None:
    script.ready -= {"diar_standard", "diar_enhanced"}
    with serving(script) as port, pytest.raises(SettingError) as caught:
        run_command(parse([str(talk), "--format", "rttm", "--endpoint", f"localhost:{port}"]))
    assert str(caught.value) == (
        f"--format: rttm lists only speakers, and localhost:{port} serves no speaker network. "
        "Use another format, or serve a speaker network."
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_standard_output_is_utf_8(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the locale is: a character that it lacks ended the batch."""
    with (tmp_path / "out").open("w", encoding=encoding) as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        results.write_stdout("příliš\n")
        TextWriter(terminal=True).write(Partial(start_s=0.0, end_s=1.0, text="東京"))
    assert (tmp_path / "out").read_bytes().decode() == "příliš\n\r\x1b[K... 東京"


def test_writes_to_stdout_and_a_summary_to_stderr(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert transcribe_all(parse([str(talk)]), FakeRecogniser()) == []
    out, err = capsys.readouterr()
    assert out.startswith("[0:0")
    assert out.endswith("] S1: loud\n")
    assert err.startswith(f"{talk}: 0:04.0 of audio in 0:0")
    assert err.endswith("), 1 word, 1 speaker, en standard\n")


def test_notes_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = wav(tmp_path / "a.wav", silence(2, 8_000), 8_000)
    assert transcribe_all(parse([str(path)]), FakeRecogniser()) == []
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:2] == [
        f"{path}: it is sampled at 8 kHz (telephone), so expect more wrong words than at 16 kHz",
        f"{path}: no speech was found in it",
    ]


def test_several_recordings_into_a_folder(talk: Path, tmp_path: Path) -> None:
    other, missing = wav(tmp_path / "other.wav", burst(1)), tmp_path / "missing.wav"
    options = parse([str(talk), str(missing), str(other), "--output", str(tmp_path / "out"), "--format", "json-v2"])
    errors = transcribe_all(options, FakeRecogniser())
    assert [str(error) for error in errors] == [f"{missing}: there is no such file. Check its name."]
    assert isinstance(errors[0], AudioError)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["other.json", "talk.json"]
    assert json.loads((tmp_path / "out" / "talk.json").read_text())["results"][0]["alternatives"][0]["speaker"] == "S1"


def test_writes_several_texts_to_stdout_with_their_names(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = wav(talk.parent / "other.wav", burst(1))
    transcribe_all(parse([str(talk), str(other), str(talk)]), FakeRecogniser())
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line[0] == "="] == ["==> talk.wav <==", "==> other.wav <=="]


def test_stops_when_the_server_stays_away(talk: Path, tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise ServerUnreachableError("localhost:8001", "gone", "Start one")

    recogniser = FakeRecogniser(fail=fail)
    other = wav(tmp_path / "other.wav", burst(1))
    errors = transcribe_all(parse([str(talk), str(other)]), recogniser)
    assert len(errors) == 1
    assert recogniser.calls == ["recognise"]


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "transcriber", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['transcriber', '--help']; import transcriber.__main__ as command\n"
        "try: command.main()\n"
        "finally: print(sorted({'numpy', 'av', 'grpc', 'scipy', 'rich', 'tritonclient'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_error_is_a_sentence_and_an_exit_code(tmp_path: Path) -> None:
    done = run(tmp_path / "nope.wav")
    assert done.returncode == 50
    assert done.stderr == f"error: {tmp_path / 'nope.wav'}: there is no such file. Check its name.\n"


def test_reports_missing_server_with_the_remedy(talk: Path) -> None:
    done = run(talk, "--endpoint", "localhost:1", "--wait", "0")
    assert done.returncode == 51
    assert done.stderr.startswith("error: localhost:1: no server is ready there after 0 s (")
    assert done.stderr.endswith(
        "). Start one with `python -m runtime`, or name its gRPC port (usually 8001) with --endpoint or "
        "SM_INFERENCE_ENDPOINT.\n"
    )


def test_realtime_takes_one_stream(tmp_path: Path) -> None:
    assert message("a.wav", "b.wav", "--realtime") == (
        "--realtime: there is more than one FILE. Transcribe one stream at a time."
    )
    assert message("a.wav", "--realtime", "--format", "srt") == (
        "--format: srt can only be written at the end of the stream. "
        "Name a file for it with --output, or use txt or json-v2."
    )
    assert parse(["a.wav", "--realtime", "--output", str(tmp_path / "a.srt")]).realtime


def test_reads_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: PTH123, SIM115
    assert parse(["-"]).recordings == (Path("/dev/stdin"),)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert message("-") == "FILE -: the standard input is a terminal. Pipe a recording into it."


def _followed(talk: Path, recogniser: FakeStreams, *arguments: str) -> list[VoxwrightError]:
    return follow(parse([str(talk), "--realtime", *arguments]), recogniser)


def test_writes_lines_while_they_are_spoken(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _followed(talk, FakeStreams()) == []
    out, err = capsys.readouterr()
    assert out == "[0:01.2 - 0:01.3] S1: loud\n"
    assert "0:04.0 of audio" in err


def test_writes_one_json_message_per_line(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _followed(talk, FakeStreams(), "--format", "json-v2") == []
    partial, final = map(json.loads, capsys.readouterr().out.splitlines())
    assert (partial["message"], final["message"]) == ("AddPartialTranscript", "AddTranscript")
    assert partial["metadata"]["transcript"] == final["metadata"]["transcript"] == "loud"
    assert partial["results"] == []
    (word,) = final["results"]
    assert word["alternatives"][0]["content"] == "loud"
    assert word["alternatives"][0]["speaker"] == "S1"
    assert final["metadata"]["start_time"] <= word["start_time"] < word["end_time"] <= final["metadata"]["end_time"]


def test_writes_refused_segment_as_an_error_message(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: int) -> None:
        raise RequestError("out of luck")

    (error,) = _followed(talk, FakeStreams(fail=fail), "--format", "json-v2")
    assert error.exit_code == 53
    (written,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (written["message"], written["metadata"]["transcript"]) == ("Error", "out of luck")


def test_writes_the_transcript_at_the_end(talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "talk.srt"
    assert _followed(talk, FakeStreams(), "--output", str(target)) == []
    assert target.read_text().endswith("S1: loud\n")
    assert capsys.readouterr().out == "[0:01.2 - 0:01.3] S1: loud\n"


def test_terminal_shows_partials(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(results, "write_stdout", shown.append)
    realtime.transcribe(Source(talk), FakeStreams(), Plan(), TextWriter(terminal=True).write)
    assert shown == ["\r\x1b[K... loud", "\r\x1b[K[0:01.2 - 0:01.3] S1: loud\n"]


def test_partial_has_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide character takes two columns; a line that is longer than the terminal could not be cleared."""
    shown: list[str] = []
    monkeypatch.setattr(results, "write_stdout", shown.append)
    monkeypatch.setenv("COLUMNS", "20")
    for text in ("東京" * 20, "दिल्ली " * 20, "लल्" * 40, "short"):
        TextWriter(terminal=True).write(Partial(start_s=0.0, end_s=1.0, text=text))
    found = [each.removeprefix("\r\x1b[K") for each in shown]
    assert found == ["京" + "東京" * 4, " " + "दिल्ली " * 3, "ल्" + "लल्" * 9, "... short"]


def test_interrupt_stops_a_stream_and_keeps_its_words(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first interrupt: the words until then are written, as at the end of the stream."""

    def interrupt(request: int) -> None:
        if request == 4:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    assert _followed(talk, FakeStreams(fail=interrupt)) == []
    assert signal.getsignal(signal.SIGINT) is before
    out, err = capsys.readouterr()
    assert out == "[0:01.2 - 0:01.3] S1: loud\n"
    assert "0:04.0 of audio" not in err


def test_writes_the_transcript_after_stdout_was_closed(
    talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_stdout(_: str) -> None:
        sys.exit(141)

    monkeypatch.setattr(results, "write_stdout", write_stdout)
    target = tmp_path / "talk.srt"
    assert _followed(talk, FakeStreams(), "--output", str(target)) == []
    assert target.read_text().endswith("S1: loud\n")
    with pytest.raises(SystemExit):
        _followed(talk, FakeStreams())


def test_reports_closed_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert message("-") == "FILE -: the standard input is closed. Pipe a recording into it."
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(OutputError) as caught:
        results.write_stdout("text")
    assert str(caught.value).startswith("the standard output: it is closed.")


def test_trailing_slash_names_a_folder(talk: Path, tmp_path: Path) -> None:
    """The folder is absent: a second recording must not replace the result of the first."""
    options = parse([str(talk), "--output", f"{tmp_path}/out.srt/"])
    assert (options.format, options.targets) == ("txt", (tmp_path / "out.srt" / "talk.txt",))
    assert transcribe_all(options, FakeRecogniser()) == []
    assert [path.name for path in (tmp_path / "out.srt").iterdir()] == ["talk.txt"]
    assert message(talk, "--output", f"{talk}/") == (
        f"--output: {talk} is a file, and {talk}/ is the name of a folder. Name a folder."
    )


def test_writes_long_names(talk: Path, tmp_path: Path) -> None:
    recording = talk.rename(tmp_path / f"{'n' * 251}.wav")
    assert transcribe_all(parse([str(recording), "--output", f"{tmp_path}/out/"]), FakeRecogniser()) == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{'n' * 251}.txt"]
    target = tmp_path / "out" / f"{'n' * 251}.json"
    assert message(recording, "--format", "json-v2", "--output", f"{tmp_path}/out/") == (
        f"{target}: its name has more than 255 bytes. Rename the recording, or name a file with --output."
    )


def test_follows_a_link(talk: Path, tmp_path: Path) -> None:
    """A link to a file, and one to a file that is yet to be made."""
    for name in ("old.txt", "new.txt"):
        target, link = tmp_path / "kept" / name, tmp_path / f"link-{name}"
        target.parent.mkdir(exist_ok=True)
        if name == "old.txt":
            target.write_text("old")
        link.symlink_to(target)
        assert transcribe_all(parse([str(talk), "--output", str(link)]), FakeRecogniser()) == []
        assert link.is_symlink()
        assert target.read_text().endswith("S1: loud\n")


def test_rejects_link_that_leads_to_itself(talk: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("a.txt")
    assert message(talk, "--output", tmp_path / "a.txt") == (
        f"{tmp_path / 'a.txt'}: it is a link that leads to itself. Remove it, or use another --output."
    )


def test_rejects_two_links_to_one_file(talk: Path, tmp_path: Path) -> None:
    other, out = wav(tmp_path / "other.wav", burst(1)), tmp_path / "out"
    out.mkdir()
    (out / "other.txt").symlink_to("talk.txt")
    assert message(talk, other, "--output", out) == (
        f"--output: several of the recordings would be written to {out / 'talk.txt'}. "
        "Name the folder that contains them, where their results are kept apart, or rename them."
    )


def test_writes_into_a_fifo(talk: Path, tmp_path: Path) -> None:
    fifo, received = tmp_path / "fifo", list[str]()
    os.mkfifo(fifo)
    options = parse([str(talk), "--output", str(fifo)])
    reader = threading.Thread(target=lambda: received.append(fifo.read_text()), daemon=True)
    reader.start()
    assert transcribe_all(options, FakeRecogniser()) == []
    reader.join(10)
    assert fifo.is_fifo()
    assert received[0].endswith("S1: loud\n")


def test_writes_into_a_device(talk: Path, tmp_path: Path) -> None:
    """A pseudo terminal stands for every device: root must not replace it."""
    ours, device = os.openpty()
    link = tmp_path / "null.txt"
    link.symlink_to(os.ttyname(device))
    assert transcribe_all(parse([str(talk), "--output", str(link)]), FakeRecogniser()) == []
    assert stat.S_ISCHR(link.stat().st_mode)
    assert os.read(ours, 1_000).endswith(b"S1: loud\r\n")
    os.close(device)
    os.close(ours)


def test_appends_to_an_open_file(talk: Path, tmp_path: Path) -> None:
    """As with `--output /dev/stdout >> log`."""
    log = tmp_path / "log"
    log.write_text("before\n")
    with log.open("a") as opened:
        number = log.stat().st_ino
        target = f"/dev/fd/{opened.fileno()}"
        assert transcribe_all(parse([str(talk), "--output", target]), FakeRecogniser()) == []
    assert log.stat().st_ino == number
    assert log.read_text().startswith("before\n[0:0")


def test_rejects_socket_as_output(talk: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert message(talk, "--output", path) == (
            f"{path}: it is neither a file nor a character device nor a FIFO. Use another --output."
        )
    assert path.is_socket()


@pytest.mark.parametrize("folder", ["/proc", "/proc/1/task", "/sys/kernel"])
def test_rejects_virtual_file_system_before_the_work(talk: Path, folder: str) -> None:
    assert message(talk, "--output", f"{folder}/new/a.txt") == (
        f"{folder}/new/a.txt: nothing can be written to {folder}. Choose a folder that you may write to."
    )


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_keeps_the_umask(talk: Path, tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        transcribe_all(parse([str(talk), "--output", str(tmp_path / "a.txt")]), FakeRecogniser())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_keeps_the_rights_of_a_file(talk: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch(0o600)
    transcribe_all(parse([str(talk), "--output", str(tmp_path / "a.txt")]), FakeRecogniser())
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("failure", "exit_code", "expected"),
    [
        (RuntimeError("mel energy is nan"), 1,
         "it could not be transcribed, by a defect of the program (RuntimeError: mel energy is nan). "
         "Report the traceback above."),
        (OSError(5, "Input/output error"), 50,
         "it cannot be read (Input/output error). Check the disk or the network that it is on."),
    ],
)  # fmt: skip
def test_failure_of_one_recording_does_not_stop_the_others(
    talk: Path, tmp_path: Path, failure: Exception, exit_code: int, expected: str
) -> None:
    other = wav(tmp_path / "other.wav", burst(1))

    def fail(request: int) -> None:
        if request == 1:
            raise failure

    options = parse([str(talk), str(other), "--output", str(tmp_path / "out")])
    (error,) = transcribe_all(options, FakeRecogniser(fail=fail))
    assert (str(error), error.exit_code) == (f"{talk}: {expected}", exit_code)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["other.txt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_stops_a_stream_and_writes_everything(talk: Path, tmp_path: Path, number: signal.Signals) -> None:
    """A closed terminal sends HUP twice, and its output is gone."""

    def interrupt(request: int) -> None:
        if request == 4:
            os.kill(os.getpid(), number)
            if number != signal.SIGINT:
                os.kill(os.getpid(), number)

    def write_stdout(_: str) -> None:
        raise OSError(5, "Input/output error")

    before = signal.getsignal(number)
    target = tmp_path / "talk.srt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "write_stdout", write_stdout)
        assert _followed(talk, FakeStreams(fail=interrupt), "--output", str(target)) == []
    assert signal.getsignal(number) is before
    assert target.read_text().endswith("S1: loud\n")


def test_ignored_hang_up_stays_ignored(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As under nohup."""

    def hang_up(request: int) -> None:
        if request == 4:
            os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert _followed(talk, FakeStreams(fail=hang_up)) == []
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "0:04.0 of audio" in capsys.readouterr().err


def test_reads_raw_samples_in_both_modes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "call"
    sound = np.concatenate([silence(1), burst(2), silence(1)])
    path.write_bytes((sound * 32_767).astype("<i2").tobytes())
    assert transcribe_all(parse([str(path), "--raw", "s16le:16000"]), FakeRecogniser()) == []
    assert capsys.readouterr().out.endswith("] S1: loud\n")
    assert _followed(path, FakeStreams(), "--raw", "s16le:16000") == []
    assert capsys.readouterr().out == "[0:01.2 - 0:01.3] S1: loud\n"


@pytest.fixture
def call(tmp_path: Path) -> Path:
    """A loud speaker in the first channel, and a soft one in the second, who interrupts."""
    first = np.concatenate([silence(1), burst(3, level=0.9), silence(2), burst(2, level=0.9), silence(1)])
    second = np.concatenate([silence(3), burst(3, level=0.04), silence(3)])
    path = tmp_path / "call.wav"
    soundfile.write(path, np.stack((first, second), axis=1), 16_000)
    return path


def test_transcribes_each_channel_by_itself(call: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recogniser = FakeRecogniser()
    assert transcribe_all(parse([str(call), "--channels"]), recogniser) == []
    out, err = capsys.readouterr()
    assert [line.split("] ")[1] for line in out.splitlines()] == ["C1: loud", "C2: soft", "C1: loud"]
    assert err.endswith("3 words, 2 speakers, en standard\n")
    assert "embed" not in recogniser.calls


def test_result_of_channels_states_them(call: Path, tmp_path: Path) -> None:
    options = parse([str(call), "--channels", "--output", str(tmp_path / "call.json")])
    assert transcribe_all(options, FakeRecogniser()) == []
    document = json.loads((tmp_path / "call.json").read_text())
    assert document["metadata"]["transcription_config"]["diarization"] == "channel"
    assert [result["channel"] for result in document["results"]] == ["C1", "C2", "C1"]


def test_refused_segment_names_its_channel(call: Path, tmp_path: Path) -> None:
    def fail(request: int) -> None:
        if request >= 3:
            raise RequestError("out of luck")

    options = parse([str(call), "--channels", "--in-flight", "1", "--output", str(tmp_path / "call.json")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_PAUSE_S", 0.0)
        (error,) = transcribe_all(options, FakeRecogniser(fail=fail))
    assert str(error).startswith(f"{call}: channel 2: the server refused 1 segment, so 0:02.8 to ")
    (loss,) = json.loads((tmp_path / "call.json").read_text())["metadata"]["losses"]
    assert loss["reason"] == "channel 2: out of luck"


def test_channels_after_an_outage_are_missing(call: Path, tmp_path: Path) -> None:
    """The second channel would be recognised, but the client does not wait for the server again."""

    def fail(request: int) -> None:
        if request == 1:
            raise ServerUnreachableError("localhost:8001", "gone", "Start one")

    options = parse([str(call), "--channels", "--in-flight", "1", "--output", str(tmp_path / "call.json")])
    errors = transcribe_all(options, FakeRecogniser(fail=fail))
    assert {type(error) for error in errors} == {ServerUnreachableError}
    document = json.loads((tmp_path / "call.json").read_text())
    assert document["results"] == []
    assert document["metadata"]["losses"]
    assert {loss["start_time"] for loss in document["metadata"]["losses"]} == {0.0}


def test_channel_notes_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "call.wav"
    soundfile.write(path, np.stack((burst(2, 8_000), silence(2, 8_000)), axis=1), 8_000)
    assert transcribe_all(parse([str(path), "--channels"]), FakeRecogniser()) == []
    assert capsys.readouterr().err.splitlines()[:-1] == [
        f"{path}: it is sampled at 8 kHz (telephone), so expect more wrong words than at 16 kHz",
        f"{path}: channel 2: no speech was found in it",
    ]


def test_rejects_options_beside_channels(talk: Path, tmp_path: Path) -> None:
    assert message(talk, "--channels", "--no-speakers") == (
        "--channels: the channels are the speakers. Leave out --no-speakers."
    )
    assert message(talk, "--channels", "--realtime") == (
        "--channels: a stream is transcribed as one. Leave out --channels or --realtime."
    )
    os.mkfifo(tmp_path / "pipe")
    assert message(tmp_path / "pipe", "--channels") == (
        f"--channels: {tmp_path / 'pipe'} is a pipe, and a file is read once for each channel. "
        "Write the recording to a file first."
    )


@pytest.mark.parametrize("option", ["--speakers", "--max-speakers"])
def test_number_of_speakers(option: str, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = parse([str(talk), option, "1", "--format", "json-v2"])
    assert transcribe_all(options, FakeRecogniser()) == []
    found = json.loads(capsys.readouterr().out)
    assert {word["alternatives"][0]["speaker"] for word in found["results"] if word["type"] == "word"} == {"S1"}
    assert message(talk, option, "2", "--no-speakers") == (
        f"{option}: speakers are not distinguished with --no-speakers. Leave out one of the two."
    )
    assert message(talk, option, "2", "--channels") == (
        f"{option}: with --channels every channel is one speaker. Leave out one of the two."
    )
    without = shutil.copytree("model_repository", tmp_path / "catalogue")
    shutil.rmtree(without / "diar")
    assert message(talk, option, "2", "--catalogue", without) == (
        f"{option}: the catalogue has no speaker network. "
        "Leave it out, or add a network with the role `speaker` to the catalogue."
    )
    with pytest.raises(SystemExit, match="2"):
        parse([str(talk), option, "0"])
    assert "0 is not in the range x>=1" in capsys.readouterr().err


def test_exact_and_largest_number_of_speakers_exclude_each_other(talk: Path) -> None:
    assert message(talk, "--speakers", "2", "--max-speakers", "3") == (
        "--speakers: --max-speakers is given too. Leave out --max-speakers."
    )


@pytest.mark.parametrize("module", ["transcriber", "service"])
@pytest.mark.parametrize(("variables", "threads"), [({}, 1), ({"OMP_NUM_THREADS": "2"}, 2)])
def test_products_of_matrices_use_the_threads_of_the_environment(
    module: str, variables: dict[str, str], threads: int
) -> None:
    program = (
        f"import os, runpy, sys; sys.argv = ['{module}', '--help']\n"
        f"try: runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "import numpy; numpy.ones((500, 500)) @ numpy.ones((500, 500)); print(len(os.listdir('/proc/self/task')))"
    )
    kept = {name: text for name, text in os.environ.items() if not name.endswith("_NUM_THREADS")}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**kept, **variables}
    )
    assert int(result.stdout.split()[-1]) == min(threads, os.cpu_count() or 1)
