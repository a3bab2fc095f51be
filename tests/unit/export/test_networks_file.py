"""networks.toml: what it names, and every way in which it can be wrong."""

from pathlib import Path

import pytest

from contract.client import Calibration
from contract.errors import SettingError
from export.networks_file import OwnNetworks, OwnPoint, read

REMEDY = "Correct the file; docs/own-networks.md describes every field"


def written(folder: Path, text: str) -> Path:
    """Write a file beside the paths that the tests name."""
    for name in ("network.nemo", "words.arpa", "speaker.onnx"):
        (folder / name).touch()
    (folder / "dev").mkdir(exist_ok=True)
    path = folder / "networks.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_every_field(tmp_path: Path) -> None:
    text = """
    [en.enhanced]
    recogniser = "network.nemo"
    ngram = "words.arpa"
    speaker = "speaker.onnx"
    recordings = "dev"
    confidence = { slope = 0.6, offset = 2 }
    """
    path = written(tmp_path, text)
    found = read(path)
    point = OwnPoint(
        language="en",
        operating_point="enhanced",
        recogniser=tmp_path / "network.nemo",
        ngram=tmp_path / "words.arpa",
        speaker=tmp_path / "speaker.onnx",
        recordings=tmp_path / "dev",
        confidence=Calibration(slope=0.6, offset=2.0),
    )
    assert found == OwnNetworks(path=path, operating_points=("enhanced",), points=(point,))
    assert found.recordings() == {"en": tmp_path / "dev"}


@pytest.mark.parametrize(
    ("first", "tables", "expected"),
    [
        ("", ("enhanced", "standard"), ("standard", "enhanced")),
        ("", ("slow", "fast"), ("slow", "fast")),
        ('operating_points = ["fast", "slow"]', ("slow", "fast"), ("fast", "slow")),
    ],
)
def test_ranks_operating_points(tmp_path: Path, first: str, tables: tuple[str, ...], expected: tuple[str, ...]) -> None:
    parts = [f'[de.{name}]\nrecogniser = "network.nemo"\n' for name in tables]
    assert read(written(tmp_path, "\n".join([first, *parts]))).operating_points == expected


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "it names no network"),
        ("[en]", "it names no network"),
        ("en = 3", "en: expected a table, found an integer"),
        ('[English.enhanced]\nrecogniser = "network.nemo"',
         "English: a language is a code of two or three letters, such as en"),
        ('[en-gb.enhanced]\nrecogniser = "network.nemo"',
         "en-gb: a language is a code of two or three letters, such as en"),
        ('operating_point = ["enhanced"]\n[en.enhanced]\nrecogniser = "network.nemo"',
         "operating_point: a language is a code of two or three letters, such as en"),
        ('[en]\nrecogniser = "network.nemo"',
         "en.recogniser: it is outside an operating point; begin one with [en.standard]"),
        ('[en.Enhanced]\nrecogniser = "network.nemo"',
         "en.Enhanced: an operating point is a word of small letters and digits, such as enhanced"),
        ('[en.very-good]\nrecogniser = "network.nemo"',
         "en.very-good: an operating point is a word of small letters and digits, such as enhanced"),
        ('[en.enhanced]\nspeaker = "speaker.onnx"', "en.enhanced.recogniser: this field is missing"),
        ('[en.enhanced]\nrecogniser = 5', "en.enhanced.recogniser: expected a string, found an integer"),
        ('[en.enhanced]\nrecogniser = "network.nemo"\nspeakers = "speaker.onnx"',
         "en.enhanced.speakers: this field is unknown"),
        ('[en.enhanced]\nrecogniser = "network.nemo"\nconfidence = { slope = 0, offset = 1 }',
         "en.enhanced.confidence.slope: 0.0 is not above 0"),
        ('operating_points = ["standard"]\n[en.enhanced]\nrecogniser = "network.nemo"',
         "operating_points: it must list each of enhanced once"),
        ('operating_points = ["enhanced", "enhanced"]\n[en.enhanced]\nrecogniser = "network.nemo"',
         "operating_points: it must list each of enhanced once"),
    ],
)  # fmt: skip
def test_rejects_wrong_field(tmp_path: Path, text: str, cause: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SettingError) as caught:
        read(path)
    assert (caught.value.subject, caught.value.remedy) == (f"--networks {path}", REMEDY)
    assert caught.value.cause == cause


@pytest.mark.parametrize("field", ["recogniser", "ngram", "speaker", "recordings"])
def test_rejects_missing_file(tmp_path: Path, field: str) -> None:
    fields = {"recogniser": "network.nemo", field: "absent"}
    lines = [f'{key} = "{value}"' for key, value in fields.items()]
    path = written(tmp_path, "\n".join(["[en.enhanced]", *lines]))
    with pytest.raises(SettingError) as caught:
        read(path)
    assert caught.value.cause == f"en.enhanced.{field}: there is no {tmp_path / 'absent'}"


def test_rejects_absent_file(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        read(tmp_path / "networks.toml")
    assert caught.value.cause == "it cannot be read (No such file or directory)"


def test_syntax_error_names_the_line(tmp_path: Path) -> None:
    path = written(tmp_path, "[en.enhanced]\nrecogniser = network.nemo\n")
    with pytest.raises(SettingError, match=r"it is not TOML: Invalid value \(at line 2, column 14\)"):
        read(path)


@pytest.mark.parametrize("content", [b"[en.enhanced", b"\xff\xfe"])
def test_rejects_other_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "networks.toml"
    path.write_bytes(content)
    with pytest.raises(SettingError, match="it is not TOML: ") as caught:
        read(path)
    assert caught.value.remedy == REMEDY


def test_rejects_two_folders_of_recordings_for_a_language(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    points = {"standard": "dev", "enhanced": "test"}
    tables = [f'[en.{name}]\nrecogniser = "network.nemo"\nrecordings = "{at}"\n' for name, at in points.items()]
    path = written(tmp_path, "\n".join(tables))
    with pytest.raises(SettingError) as caught:
        read(path)
    expected = "en.enhanced.recordings: it is another folder than that of the other operating points of en"
    assert caught.value.cause == expected
