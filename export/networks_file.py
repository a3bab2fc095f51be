"""Read networks.toml, which names the checkpoints of a user's own networks by language and operating point.

    operating_points = ["standard", "enhanced"]     # optional; by default in the order of the tables

    [en.enhanced]
    recogniser = "checkpoints/parakeet-ctc.nemo"
    ngram = "checkpoints/4gram.arpa"                # optional
    speaker = "checkpoints/speaker.onnx"            # optional
    recordings = "checkpoints/dev"                  # optional: a folder of audio with texts, for the word error rate
    confidence = { slope = 0.6, offset = 1.7 }      # optional: the calibration of the confidences of words

Paths are relative to the folder of the file.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from contract.client import Calibration, read_calibration
from contract.errors import SettingError
from contract.fields import Fields, toml_table

_REMEDY = "Correct the file; docs/own-networks.md describes every field"
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_POINT = re.compile(r"[a-z][a-z0-9]*")
_USUAL_POINTS = ("standard", "enhanced")


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnPoint:
    """The checkpoints of a language at an operating point."""

    language: str
    operating_point: str
    recogniser: Path
    ngram: Path | None
    speaker: Path | None
    recordings: Path | None
    confidence: Calibration | None


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnNetworks:
    """The content of networks.toml."""

    path: Path
    operating_points: tuple[str, ...]
    """From the fastest to the most accurate."""
    points: tuple[OwnPoint, ...]

    def recordings(self) -> dict[str, Path]:
        """Return the folder of recordings of each language that has one."""
        return {point.language: point.recordings for point in self.points if point.recordings is not None}


def read(path: Path) -> OwnNetworks:
    """Return the networks that a file names; raise SettingError with the field that is wrong."""
    try:
        table = toml_table(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"--networks {path}", f"it cannot be read ({error.strerror})", _REMEDY) from error
    except ValueError as error:
        raise SettingError(f"--networks {path}", f"it is not TOML: {error}", _REMEDY) from error
    fields = Fields(table, source=f"--networks {path}", error=SettingError, remedy=_REMEDY)
    languages = [name for name in fields.names() if name != "operating_points"]
    points = [point for language in languages for point in _points(fields, language, path.parent)]
    if not points:
        raise fields.error("", "it names no network")
    _check_recordings(fields, points)
    return OwnNetworks(path=path, operating_points=_ranked(fields, points), points=tuple(points))


def _points(fields: Fields, language: str, folder: Path) -> list[OwnPoint]:
    if not _LANGUAGE.fullmatch(language):
        raise fields.error(language, "a language is a code of two or three letters, such as en")
    table = fields.table(language)
    return [_point(table, language, name, folder) for name in table.names()]


def _point(table: Fields, language: str, name: str, folder: Path) -> OwnPoint:
    if not _POINT.fullmatch(name):
        raise table.error(name, "an operating point is a word of small letters and digits, such as enhanced")
    if not isinstance(table.raw(name), dict):
        raise table.error(name, f"it is outside an operating point; begin one with [{language}.standard]")
    fields = table.table(name)
    fields.reject_unknown("recogniser", "ngram", "speaker", "recordings", "confidence")
    return OwnPoint(
        language=language,
        operating_point=name,
        recogniser=_existing(fields, "recogniser", folder),
        ngram=_existing(fields, "ngram", folder) if fields.has("ngram") else None,
        speaker=_existing(fields, "speaker", folder) if fields.has("speaker") else None,
        recordings=_existing(fields, "recordings", folder) if fields.has("recordings") else None,
        confidence=read_calibration(fields, "confidence"),
    )


def _check_recordings(fields: Fields, points: list[OwnPoint]) -> None:
    """Raise SettingError where points of one language name different folders: the word errors would not compare."""
    known: dict[str, Path] = {}
    for point in points:
        if point.recordings is not None and known.setdefault(point.language, point.recordings) != point.recordings:
            cause = f"it is another folder than that of the other operating points of {point.language}"
            raise fields.error(f"{point.language}.{point.operating_point}.recordings", cause)


def _existing(fields: Fields, key: str, folder: Path) -> Path:
    path = folder / fields.text(key)
    if not path.exists():
        raise fields.error(key, f"there is no {path}")
    return path


def _ranked(fields: Fields, points: list[OwnPoint]) -> tuple[str, ...]:
    used = tuple(dict.fromkeys(point.operating_point for point in points))
    if not fields.has("operating_points"):
        return tuple(sorted(used, key=_USUAL_POINTS.index)) if set(used) <= set(_USUAL_POINTS) else used
    stated: tuple[str, ...] = fields.items("operating_points", str)
    if set(stated) != set(used) or len(set(stated)) < len(stated):
        raise fields.error("operating_points", f"it must list each of {', '.join(used)} once")
    return stated
