"""Folders and lists as input: which recordings are found, in which order, and where their results go."""

import io
import os
import sys
from pathlib import Path

import pytest

from contract.errors import AudioError, SettingError, VoxwrightError
from transcriber import inputs
from transcriber.__main__ import parse


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `calls` in the working folder, with recordings at two depths and what lies beside them."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.wav",
        "a.MP3",
        "a.wav",
        "monday/a.wav",
        "monday/.hidden.wav",
        ".trash/a.wav",
        "notes.txt",
        "a.json",
    ):
        path = tmp_path / "calls" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return Path("calls")


def _paths(found: inputs.Inputs) -> list[str]:
    return [str(each.path) for each in found.recordings]


def _message(*arguments: str) -> str:
    with pytest.raises(VoxwrightError) as caught:
        parse(arguments)
    return str(caught.value)


def test_folder_stands_for_its_recordings_by_name(calls: Path) -> None:
    found = inputs.find([str(calls)], [])
    assert _paths(found) == ["calls/a.MP3", "calls/a.wav", "calls/b.wav", "calls/monday/a.wav"]
    assert found.remarks == ["2 files are left out: no suffix of a recording, such as calls/a.json"]
    assert found.errors == []


def test_results_keep_their_places_and_never_meet(calls: Path) -> None:
    options = parse([str(calls), "--output", "out", "--format", "srt"])
    assert [str(target) for target in options.targets] == [
        "out/a.MP3.srt", "out/a.wav.srt", "out/b.wav.srt", "out/monday/a.wav.srt",
    ]  # fmt: skip


def test_folder_with_one_recording_needs_a_folder_for_results(calls: Path) -> None:
    assert [str(target) for target in parse(["calls/monday", "--output", "out"]).targets] == ["out/a.wav.txt"]
    Path("file").touch()
    assert _message(str(calls), "--output", "file") == (
        "--output: file is a file, and the results of a folder or a list need a folder. Name a folder."
    )


def test_result_that_is_the_folder_of_another_is_rejected(calls: Path) -> None:
    below = calls / "b.wav.txt"
    below.mkdir()
    (below / "c.wav").touch()
    assert _message(str(calls), "--output", "out") == (
        "--output: out/b.wav.txt is the result of one recording and the folder for that of another, "
        "out/b.wav.txt/c.wav.txt. Rename one of the recordings, or write their results to two folders."
    )
    assert parse([str(calls), "--output", "out", "--format", "srt"]).format == "srt"


def test_two_folders_with_the_same_names_are_rejected(calls: Path) -> None:
    assert _message("calls/monday", str(calls), "--output", "out") == (
        "--output: several of the recordings would be written to out/a.wav.txt. "
        "Name the folder that contains them, where their results are kept apart, or rename them."
    )


def test_links_to_files_are_recordings_and_links_to_folders_are_not_followed(calls: Path) -> None:
    (calls / "monday" / "up").symlink_to("..")
    (calls / "monday" / "link.wav").symlink_to("a.wav")
    (calls / "monday" / "broken.wav").symlink_to("nowhere")
    os.mkfifo(calls / "monday" / "pipe.wav")
    found = inputs.find(["calls/monday"], [])
    assert _paths(found) == ["calls/monday/a.wav", "calls/monday/broken.wav", "calls/monday/link.wav"]
    assert found.remarks == [
        "calls/monday/pipe.wav is left out: no suffix of a recording",
        "calls/monday/up is a link to a folder, and is not followed",
    ]


def test_recording_that_is_named_twice_is_transcribed_once(calls: Path) -> None:
    found = inputs.find(["calls/b.wav", str(calls), "./calls/../calls/a.wav"], [])
    assert _paths(found) == ["calls/b.wav", "calls/a.MP3", "calls/a.wav", "calls/monday/a.wav"]
    assert found.remarks[-1] == ("2 files are named more than once, and are transcribed once, such as calls/b.wav")


def test_folder_without_recordings_is_an_error(calls: Path) -> None:
    (calls / "monday" / "a.wav").unlink()
    assert _message("calls/monday") == (
        "calls/monday: it contains no recording: no file with a known suffix, such as .wav. "
        "Name the files, or another folder."
    )
    found = inputs.find(["calls/monday", "calls/b.wav"], [])
    assert (_paths(found), len(found.errors)) == (["calls/b.wav"], 1)
    assert isinstance(parse(["calls/monday", "calls/b.wav"]).unread[0], AudioError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_unreadable_folder_is_an_error_beside_the_others(calls: Path) -> None:
    (calls / "monday").chmod(0)
    found = inputs.find([str(calls)], [])
    (calls / "monday").chmod(0o700)
    assert len(found.recordings) == 3
    assert "the folder cannot be read (Permission denied)" in str(found.errors[0])


def test_raw_looks_for_samples_without_a_header(calls: Path) -> None:
    (calls / "c.ulaw").touch()
    assert inputs.find([str(calls)], []).remarks[0] == ("calls/c.ulaw is left out: samples without a header need --raw")
    assert [str(path) for path in parse([str(calls), "--raw", "mulaw:8000"]).recordings] == ["calls/c.ulaw"]


def test_list_names_files_and_folders(calls: Path) -> None:
    lines = "\ufeff# Monday\r\n\r\ncalls/b.wav\r\ncalls/monday\r\nmissing.wav"
    Path("list").write_bytes(lines.encode())
    for arguments in (["@list"], ["--list", "list"]):
        options = parse([*arguments, "--output", "out"])
        assert [str(path) for path in options.recordings] == ["calls/b.wav", "calls/monday/a.wav", "missing.wav"]
        assert [str(target) for target in options.targets] == [
            "out/calls/b.wav.txt", "out/calls/monday/a.wav.txt", "out/missing.wav.txt",
        ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_list_may_have_a_byte_order_mark(encoding: str, calls: Path) -> None:
    """As PowerShell and the editors of Windows write it; in UTF-16 with the mark that states the order."""
    (calls / "hlučný 東京.wav").touch()
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    Path("list").write_bytes(f"{mark}calls/b.wav\r\n# 2\r\n\r\ncalls/hlučný 東京.wav\r\n".encode(encoding))
    assert _paths(inputs.find([], ["list"])) == ["calls/b.wav", "calls/hlučný 東京.wav"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["1.wav", "1.wav\r\n", "/calls/1.wav\n2.wav\n", "東京.wav\r\n大阪.wav\r\n"])
def test_rejects_utf_16_without_a_byte_order_mark(text: str, encoding: str, calls: Path) -> None:
    """Its letters would be paths, and `.` and `/` would be searched for recordings."""
    Path("list").write_bytes(text.encode(encoding))
    assert _message("--list", "list") == "--list list: it is UTF-16 without a byte order mark. Save it as UTF-8."


@pytest.mark.parametrize("rest", ["a.wav\n".encode("utf-16-le") + b"x", "a.wav\n".encode("utf-32-le"), b"\0\xd8"])
def test_rejects_damaged_utf_16(rest: bytes, calls: Path) -> None:
    Path("list").write_bytes(b"\xff\xfe" + rest)
    assert _message("--list", "list") == "--list list: it begins as UTF-16 and is not. Save it as UTF-8."


@pytest.mark.parametrize("names", [["."], ["1", "2", "3"], ["a", "calls/a.wav"]])
def test_zeros_may_separate_short_paths(names: list[str], calls: Path) -> None:
    Path("list").write_text("".join(f"{name}\0" for name in names))
    assert inputs._entries("list", "--list list") == names


def test_list_may_be_separated_by_zeros_and_come_from_the_standard_input(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = calls / "two\nlines.wav"
    odd.touch()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{odd}\0calls/a.wav\0".encode())))
    assert list(parse(["--list", "-"]).recordings) == [odd, Path("calls/a.wav")]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"calls/a.wav\n")))
    assert _message("-", "--list", "-") == ("FILE -: the standard input is the list already. Write the list to a file.")


def test_listed_paths_never_lead_out_of_the_folder_of_results(calls: Path, tmp_path: Path) -> None:
    Path("list").write_text(f"{tmp_path}/calls/a.wav\n../{tmp_path.name}/calls/b.wav\ncalls/../calls/a.MP3\n")
    options = parse(["@list", "--output", "out"])
    assert [str(target) for target in options.targets] == [
        f"out{tmp_path}/calls/a.wav.txt", f"out{tmp_path}/calls/b.wav.txt", "out/calls/a.MP3.txt",
    ]  # fmt: skip


def test_file_whose_name_begins_like_a_list_is_a_recording(calls: Path) -> None:
    Path("@home.wav").touch()
    assert _paths(inputs.find(["@home.wav"], [])) == ["@home.wav"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "--list calls.txt: it cannot be read (No such file or directory)."),
        (b"# nothing\n\n", "--list calls.txt: it names no recording."),
        (
            b"RIFF" + bytes([200]) * 5000,
            "--list calls.txt: it is no list: one of its lines is longer than a path can be.",
        ),
    ],
)
def test_rejects_lists_that_name_nothing(content: bytes | None, expected: str, calls: Path) -> None:
    if content is not None:
        Path("calls.txt").write_bytes(content)
    assert _message("--list", "calls.txt") == f"{expected} Name a text file with one recording or folder a line."


def test_nothing_named_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([])
    assert caught.value.code == 2
    assert "Missing argument 'FILE|FOLDER|@LIST...'." in capsys.readouterr().err


def test_stream_is_no_folder(calls: Path) -> None:
    assert _message(str(calls), "--realtime") == (
        "--realtime: there is more than one FILE. Transcribe one stream at a time."
    )
    for option in (["--jobs", "2"], ["--skip-existing", "--output", "out"]):
        with pytest.raises(SettingError, match="it is for recordings, not for a stream"):
            parse(["calls/a.wav", "--realtime", *option])
