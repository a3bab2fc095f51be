"""What can be transcribed, as far as the catalogue alone decides."""

from pathlib import Path

import pytest

from contract.errors import SettingError
from service import core, recognition
from service.recognition import Wanted
from tests.unit.service.make import settings
from tests.unit.transcriber.fakes import FakeRecogniser
from tests.unit.transcriber.sounds import silence, wav
from transcriber.pipeline import Plan


@pytest.mark.parametrize(
    ("wanted", "cause"),
    [
        (
            Wanted(language="en", operating_point=""),
            "'' is not a model of this service; the models are standard, enhanced",
        ),
        (Wanted(language="xx"), "'xx' is not a language of this service; the languages are en"),
    ],
)
def test_unknown_names_are_refused_without_paths(tmp_path: Path, wanted: Wanted, cause: str) -> None:
    recordings = core.make(settings(tmp_path)).recordings
    assert recordings is not None
    with pytest.raises(SettingError) as raised:
        recordings.check(wanted)
    assert raised.value.cause == cause


def test_recordings_are_split_as_the_settings_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = core.make(settings(tmp_path, voice_detection="silero")).recordings
    assert recordings is not None
    plans: list[Plan] = []
    monkeypatch.setattr(recordings.recognisers, "get", lambda *_: FakeRecogniser())
    monkeypatch.setattr(recognition, "transcribe", lambda _, __, plan, *___: plans.append(plan))
    recordings.transcribe(wav(tmp_path / "a.wav", silence(1)), Wanted(language="en"))
    assert [plan.voice_detection for plan in plans] == ["silero"]
