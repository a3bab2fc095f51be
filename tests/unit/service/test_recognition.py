"""What can be transcribed as far as the catalogue alone decides, and which networks of a server are used."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract.access import PLAIN
from contract.catalogue import Catalogue, read_catalogue
from contract.errors import ServerContractError, ServerUnreachableError, SettingError
from service import core, recognition
from service.recognition import Diarization, Recognisers, Wanted
from tests.unit.service.make import settings
from tests.unit.transcriber.fakes import FakeRecogniser
from tests.unit.transcriber.sounds import burst, silence, wav
from transcriber.connection import Connection
from transcriber.phrases import Phrase
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


@pytest.mark.parametrize("diarization", [Diarization.NONE, Diarization.CHANNEL])
def test_result_names_phrases_that_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, diarization: Diarization
) -> None:
    recordings = core.make(settings(tmp_path)).recordings
    assert recordings is not None
    monkeypatch.setattr(recordings.recognisers, "get", lambda *_: FakeRecogniser())
    path = wav(tmp_path / "a.wav", burst(1))
    vocabulary = (Phrase(content="Loud", sounds_like=("loud", "loud-2")), Phrase(content="COVID-19"))
    found = recordings.transcribe(path, Wanted(language="en", vocabulary=vocabulary, diarization=diarization))
    assert [turn.text for turn in found.transcript.turns] == ["Loud"]
    assert [error.cause for error in found.errors] == ["no tokens of the model spell 'COVID-19'; 1 phrase is not used"]
    used_alone = recordings.transcribe(path, Wanted(language="en", vocabulary=vocabulary[:1], diarization=diarization))
    assert used_alone.errors == ()


class Server:
    """A server whose networks change: each recogniser has their token bonus, by which tests know it."""

    def __init__(self) -> None:
        self.bonus, self.is_away = 1.0, False
        self.refused: set[str | None] = set()
        self.connections = 0
        self.after_reading: Callable[[], None] = lambda: None

    def connect(self, connection: Connection, catalogue: Catalogue, language: str, operating_point: str | None) -> Any:
        """Read the server; the connection and the catalogue are not needed."""
        self.connections += 1
        if self.is_away:
            raise ServerUnreachableError("gpu:8001", "no server is ready there", "Start one")
        if operating_point in self.refused:
            raise ServerContractError("gpu:8001", f"it does not serve {operating_point}", "Serve it")
        found = FakeRecogniser()
        found.language, found.operating_point = language, operating_point or "enhanced"
        found.search = dataclasses.replace(found.search, token_bonus=self.bonus)
        done, self.after_reading = self.after_reading, lambda: None
        done()
        return found

    def recognisers(self) -> Recognisers[Any]:
        return Recognisers("127.0.0.1:9", read_catalogue(), self.connect, PLAIN, one_server=False)


def used(recognisers: Recognisers[Any], point: str | None = None) -> float:
    """Return the token bonus of the recogniser that a request gets."""
    bonus: float = recognisers.get("en", point).search.token_bonus
    return bonus


def test_recogniser_is_checked_once() -> None:
    server = Server()
    recognisers = server.recognisers()
    first = recognisers.get("en", None)
    recognisers.check()
    recognisers.check()
    assert recognisers.get("en", None) is first
    assert (server.connections, recognisers.problem) == (3, None)


def test_networks_that_change_without_an_outage_are_noticed() -> None:
    """As behind one name, where another server takes over between two checks."""
    server = Server()
    recognisers = server.recognisers()
    recognisers.check()
    assert (used(recognisers), used(recognisers, "standard")) == (1.0, 1.0)
    server.bonus = 2.0
    for _ in range(2):
        recognisers.check()
    assert recognisers.problem is None
    assert (used(recognisers), used(recognisers, "standard")) == (2.0, 2.0)


def test_each_known_recogniser_is_compared_in_its_turn() -> None:
    """Only one of the points has other networks, and then it is not served any more."""
    server = Server()
    recognisers = server.recognisers()
    used(recognisers)
    used(recognisers, "standard")
    server.refused = {"standard"}
    for _ in range(2):
        recognisers.check()
    assert recognisers.problem is None
    with pytest.raises(ServerContractError, match="does not serve standard"):
        recognisers.get("en", "standard")


def test_recogniser_that_was_read_before_an_outage_is_not_kept() -> None:
    """A request reads the server, the server restarts with other networks, and then the request stores what it read."""
    server = Server()
    recognisers = server.recognisers()
    recognisers.check()

    def restart() -> None:
        server.is_away = True
        recognisers.check()
        server.is_away, server.bonus = False, 2.0
        recognisers.check()

    server.after_reading = restart
    assert used(recognisers) == 2.0
    assert used(recognisers) == 2.0


def test_recognisers_are_forgotten_in_an_outage() -> None:
    server = Server()
    recognisers = server.recognisers()
    recognisers.check()
    first = recognisers.get("en", None)
    problems = []
    for server.is_away in (True, False):
        recognisers.check()
        problems.append(recognisers.problem)
    assert problems == ["no server is ready there", None]
    assert recognisers.get("en", None) is not first
