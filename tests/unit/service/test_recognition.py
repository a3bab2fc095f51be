"""What can be transcribed, as far as the catalogue alone decides."""

from pathlib import Path

import pytest

from contract.errors import SettingError
from service import core
from service.recognition import Wanted
from tests.unit.service.make import settings


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
