"""The recordings of `python -m training evaluation`, with their transcripts."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile
from rich.progress import track

from contract.errors import AudioError
from contract.fields import Fields

FOLDER = Path("dist/accuracy/recordings")
TRUTH_FILE = "truth.json"
DIALOGUES = "dialogues"
DIALOGUE = Path("demo/dialogue.flac")
"""The demonstration's dialogue."""
CONCURRENCY = 4
_REMEDY = "Write the recordings with `python -m training evaluation`"

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledRecording:
    """A recording of one voice: its transcript, its speaker and its length."""

    path: Path
    text: str
    speaker: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A turn of a dialogue: its speaker, its start and its end in seconds."""

    speaker: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogue:
    """A recording of several voices."""

    path: Path
    turns: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingSet:
    """Recordings of one kind."""

    name: str
    description: str
    recordings: tuple[LabelledRecording, ...]


def for_each(title: str, chosen: RecordingSet, work: Callable[[Path], Result]) -> list[Result]:
    """Apply `work` to the recordings of a set, some at a time; return the results in their order."""
    paths = [one.path for one in chosen.recordings]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return list(track(pool.map(work, paths), title, len(paths)))


def repeat_dialogue(path: Path, times: int) -> float:
    """Write the dialogue several times in sequence as FLAC; return the duration in seconds."""
    samples, rate_hz = soundfile.read(DIALOGUE, dtype="int16")
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.tile(samples, times), rate_hz)
    return times * len(samples) / int(rate_hz)


def load(folder: Path, name: str, limit: int | None = None) -> RecordingSet:
    """Read a set, or the first `limit` recordings of it; raise AudioError when it is absent or damaged."""
    fields = _truth(folder / name)
    found = tuple(
        LabelledRecording(
            path=folder / name / table.text("file"),
            text=table.text("text"),
            speaker=table.text("speaker"),
            seconds=table.number("seconds"),
        )
        for table in list(fields.tables("recordings"))[:limit]
    )
    if not found:
        raise fields.error("recordings", "the list is empty")
    return RecordingSet(name=name, description=fields.text("what"), recordings=found)


def load_all(folder: Path, limit: int | None = None) -> tuple[RecordingSet, ...]:
    """Read every set of recordings with a single voice; raise AudioError when there is none or one is damaged."""
    names = [path.parent.name for path in sorted(folder.glob(f"*/{TRUTH_FILE}")) if path.parent.name != DIALOGUES]
    if not names:
        raise AudioError(folder, "there are no recordings with transcripts", _REMEDY)
    return tuple(load(folder, name, limit) for name in names)


def load_dialogues(folder: Path, limit: int | None = None) -> tuple[Dialogue, ...]:
    """Read the dialogues, or the first `limit` of them; raise AudioError when they are absent or damaged."""
    return tuple(
        Dialogue(
            path=folder / DIALOGUES / table.text("file"),
            turns=tuple(
                Turn(speaker=turn.text("speaker"), start=turn.number("start"), end=turn.number("end"))
                for turn in table.tables("turns")
            ),
        )
        for table in list(_truth(folder / DIALOGUES).tables("recordings"))[:limit]
    )


def _truth(folder: Path) -> Fields:
    path = folder / TRUTH_FILE
    if not path.is_file():
        raise AudioError(path, "there are no recordings with transcripts", _REMEDY)
    return Fields(_json(path), source=path, error=AudioError, remedy=_REMEDY)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AudioError(path, f"it is not JSON ({error})", _REMEDY) from error
