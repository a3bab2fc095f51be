"""Recordings for the comparison of graphs and for the word error rate: the demonstration's, and folders of others."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from export import speech
from export.speech import RecordingError, of_language, read_demo, read_folder

REMEDY = "Use a folder of wav, flac, ogg or mp3 files, each with its text in a file of the same name and suffix .txt."


def _record(
    folder: Path, name: str, seconds: float, text: str | None, *, rate: int = 16_000, channels: int = 1
) -> Path:
    """Write a tone and its text."""
    folder.mkdir(parents=True, exist_ok=True)
    tone = 0.5 * np.sin(2 * np.pi * 440.0 * np.arange(round(seconds * rate)) / rate)
    path = folder / name
    soundfile.write(path, np.stack([tone] * channels, axis=1), rate, subtype="PCM_16")
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")
    return path


def test_demonstration_has_excerpts_and_turns() -> None:
    demo = read_demo()
    assert [round(each.seconds) for each in demo.segments] == [2, 4, 7, 11]
    assert len(demo.transcribed) == 14
    assert demo.transcribed[2].text == "do you already know why it failed"
    assert {each.sample_rate_hz for each in (*demo.segments, *demo.transcribed)} == {16_000}


def test_demonstration_serves_other_languages_for_graphs_only() -> None:
    demo, other = of_language("en", {}), of_language("qq", {})
    assert of_language(None, {}) is demo is read_demo()
    assert (other.segments, other.transcribed) == (demo.segments, ())


def test_folder_of_a_language_replaces_the_demonstration(tmp_path: Path) -> None:
    _record(tmp_path, "one.wav", 1.0, "un")
    found = of_language("fr", {"fr": tmp_path})
    assert [each.text for each in found.transcribed] == ["un"]
    assert of_language("en", {"fr": tmp_path}) is read_demo()


def test_reads_recordings_with_a_text_from_short_to_long(tmp_path: Path) -> None:
    _record(tmp_path, "b.flac", 4.0, "  four\nseconds ", rate=8_000)
    _record(tmp_path, "a.wav", 6.0, "six", channels=2)
    _record(tmp_path, "c.wav", 1.0, "one")
    _record(tmp_path, "without a text.wav", 2.0, None)
    (tmp_path / "note.txt").write_text("of no recording")
    found = read_folder(tmp_path)
    assert [(each.text, each.sample_rate_hz, each.seconds) for each in found.transcribed] == [
        ("one", 16_000, 1.0),
        ("four seconds", 8_000, 4.0),
        ("six", 16_000, 6.0),
    ]
    # The nearest to 2, 4, 7 and 11 seconds, each once.
    assert [each.seconds for each in found.segments] == [1.0, 4.0, 6.0]
    assert found.transcribed[2].samples.shape == (96_000,)


def test_digest_covers_audio_and_texts(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("same", "again", "other text", "other audio")]
    for folder in folders:
        _record(folder, "a.wav", 1.5 if folder.name == "other audio" else 1.0, "word")
    (folders[2] / "a.txt").write_text("words")
    same, again, *others = (read_folder(folder).digest for folder in folders)
    assert same == again
    assert len({same, *others}) == 3


@pytest.mark.parametrize(("rate", "samples"), [(16_000, 16_000), (8_000, 8_000), (44_100, 44_100)])
def test_resamples_to_the_rate_of_the_network(tmp_path: Path, rate: int, samples: int) -> None:
    _record(tmp_path, "a.wav", 1.0, "tone")
    (tone,) = read_folder(tmp_path).transcribed
    found = tone.at(rate)
    assert found.dtype == np.float32
    assert len(found) == samples
    spectrum = np.abs(np.fft.rfft(found[samples // 4 : -samples // 4] * np.hanning(samples // 2)))
    assert np.argmax(spectrum) * 2 == 440
    assert np.abs(found[samples // 4 : -samples // 4]).max() == pytest.approx(0.5, abs=0.01)


def test_rejects_folder_without_recordings(tmp_path: Path) -> None:
    _record(tmp_path / "silent", "a.wav", 1.0, None)
    for folder in (tmp_path / "silent", tmp_path / "missing"):
        with pytest.raises(RecordingError) as error:
            read_folder(folder)
        assert str(error.value) == f"{folder}: it holds no recording with a text. {REMEDY}"


def test_rejects_file_that_is_no_audio(tmp_path: Path) -> None:
    path = _record(tmp_path, "a.wav", 1.0, "word")
    path.write_bytes(b"no audio")
    with pytest.raises(RecordingError) as error:
        read_folder(tmp_path)
    assert str(error.value).startswith(f"{path}: it cannot be read (Error opening ")
    assert str(error.value).endswith(f"). {REMEDY}")


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "word"), (1.0, " \n")])
def test_rejects_empty_recording_or_text(tmp_path: Path, seconds: float, text: str) -> None:
    path = _record(tmp_path, "a.wav", seconds, text)
    with pytest.raises(RecordingError) as error:
        read_folder(tmp_path)
    assert str(error.value) == f"{path}: it or its text is empty. {REMEDY}"
    assert error.value.exit_code == 22


def test_rejects_text_that_is_not_utf_8(tmp_path: Path) -> None:
    path = _record(tmp_path, "a.wav", 1.0, "word")
    path.with_suffix(".txt").write_bytes(b"\xff\xfe")
    with pytest.raises(RecordingError, match=r"it cannot be read \('utf-8' codec can't decode"):
        read_folder(tmp_path)


def test_rejects_missing_demonstration(tmp_path: Path) -> None:
    with pytest.raises(RecordingError) as error:
        speech.read_demo(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'dialogue.flac'}: it cannot be read (")
    assert str(error.value).endswith("). Restore the folder from the repository.")
