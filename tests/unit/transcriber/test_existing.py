"""Which results of an earlier run are whole."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.transcriber.test_formats import EMPTY, TRANSCRIPT
from transcriber.existing import is_done, other_recording, state_recording, stated_recording
from transcriber.formats import FORMATS

WHOLE = replace(TRANSCRIPT, losses=(), source="a.wav")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    path.touch()
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_whole_result_is_done_and_its_parts_are_not(name: str, recording: Path, tmp_path: Path) -> None:
    target, content = tmp_path / "result", FORMATS[name].write(WHOLE).encode()
    assert not is_done(recording, target, name)
    target.write_bytes(content)
    assert is_done(recording, target, name)
    for size in (0, 1, len(content) // 3, len(content) - 2):
        target.write_bytes(content[:size])
        assert not is_done(recording, target, name), size
    for damaged in (bytes(len(content)), content[:-9] + bytes(8) + b"\n", content[:-2] + b"\xff\n"):
        target.write_bytes(damaged)
        assert not is_done(recording, target, name), damaged


@pytest.mark.parametrize("name", FORMATS)
def test_result_that_lacks_a_part_of_its_recording_is_not_done(name: str, recording: Path, tmp_path: Path) -> None:
    target = tmp_path / "result"
    target.write_text(FORMATS[name].write(TRANSCRIPT))
    assert not is_done(recording, target, name)


@pytest.mark.parametrize("name", FORMATS)
def test_result_that_is_older_than_its_recording_is_not_done(name: str, recording: Path, tmp_path: Path) -> None:
    target = tmp_path / "result"
    target.write_text(FORMATS[name].write(WHOLE))
    os.utime(target, (1_000, 1_000))
    os.utime(recording, (1_001, 1_001))
    assert not is_done(recording, target, name)
    os.utime(recording, (999, 999))
    assert is_done(recording, target, name)


@pytest.mark.parametrize("name", FORMATS)
def test_silent_recording_is_done_where_its_result_shows_it(name: str, recording: Path, tmp_path: Path) -> None:
    target = tmp_path / "result"
    target.write_text(FORMATS[name].write(EMPTY))
    assert is_done(recording, target, name) == (name == "json-v2")


@pytest.mark.usefixtures("attributes")
@pytest.mark.parametrize("name", FORMATS)
def test_result_of_another_recording_is_not_done(name: str, recording: Path, tmp_path: Path) -> None:
    """As `tuesday/call.wav`, whose result has the name of that of `monday/call.wav`."""
    target, other = tmp_path / "result", tmp_path / "tuesday" / recording.name
    other.parent.mkdir()
    other.write_bytes(recording.read_bytes())
    os.utime(other, (1_000, 1_000))
    target.write_text(FORMATS[name].write(WHOLE))
    state_recording(target, recording)
    assert stated_recording(target) == str(recording)
    assert is_done(recording, target, name)
    assert other_recording(recording, target, name) is None
    assert not is_done(other, target, name)
    assert other_recording(other, target, name) == str(recording)


@pytest.mark.parametrize("name", FORMATS)
def test_result_without_a_statement_counts_by_its_name(name: str, recording: Path, tmp_path: Path) -> None:
    """Results of earlier releases: json-v2 has the name of the recording with its suffix."""
    target, other = tmp_path / "result", recording.with_suffix(".mp3")
    other.touch()
    target.write_text(FORMATS[name].write(WHOLE))
    assert stated_recording(target) is None
    assert is_done(recording, target, name)
    assert is_done(other, target, name) == (name != "json-v2")


def test_link_to_a_recording_is_the_recording(recording: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "result", tmp_path / "link.wav"
    link.symlink_to(recording)
    target.write_text(FORMATS["txt"].write(WHOLE))
    state_recording(target, link)
    assert is_done(recording, target, "txt")


def test_pipe_is_not_stated(tmp_path: Path) -> None:
    target, pipe = tmp_path / "result", tmp_path / "pipe"
    os.mkfifo(pipe)
    target.touch()
    state_recording(target, pipe)
    assert stated_recording(target) is None


@pytest.mark.parametrize("content", ["[]", "{}", "1", '{"metadata": [], "results": []}', "[" * 100_000])
def test_other_json_is_not_done(content: str, recording: Path, tmp_path: Path) -> None:
    target = tmp_path / "result"
    target.write_text(content)
    assert not is_done(recording, target, "json-v2")


def test_missing_recording_and_devices_are_not_done(tmp_path: Path, recording: Path) -> None:
    target = tmp_path / "result"
    target.write_text(FORMATS["txt"].write(WHOLE))
    assert not is_done(tmp_path / "missing.wav", target, "txt")
    assert not is_done(recording, Path("/dev/null"), "txt")
    os.mkfifo(tmp_path / "pipe")
    assert other_recording(recording, tmp_path / "pipe", "json-v2") is None
