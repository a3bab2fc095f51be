"""Real speech for the comparison of graphs and for the word error rate: recordings of a language with their texts."""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from contract import digest
from contract.errors import ExportError

DEMO_FOLDER = Path(__file__).parent.parent / "demo"
DEMO_LANGUAGE = "en"
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
# Excerpts of the demonstration's dialogue on which every graph is compared: runs of turns of about these lengths.
_EXCERPTS_S = (2.0, 4.0, 7.0, 11.0)
# What is kept of the pauses on both sides of a turn.
_EDGE_S = 0.15
_REMEDY = "Use a folder of wav, flac, ogg or mp3 files, each with its text in a file of the same name and suffix .txt"

Samples = NDArray[np.float32]


class RecordingError(ExportError):
    """Recordings for an export cannot be read."""

    exit_code = 22


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Utterance:
    """Mono audio in [-1, 1), and the words that are spoken in it."""

    samples: Samples
    sample_rate_hz: int
    text: str

    @property
    def seconds(self) -> float:
        """Return the length."""
        return len(self.samples) / self.sample_rate_hz

    def at(self, sample_rate_hz: int) -> Samples:
        """Return the audio at a sampling rate."""
        common = math.gcd(sample_rate_hz, self.sample_rate_hz)
        if sample_rate_hz == self.sample_rate_hz:
            return self.samples
        resampled = resample_poly(self.samples, sample_rate_hz // common, self.sample_rate_hz // common)
        return np.asarray(resampled, dtype=np.float32)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Speech:
    """The speech of a language."""

    segments: tuple[Utterance, ...]
    """What graphs are compared on, from short to long."""
    transcribed: tuple[Utterance, ...]
    """What the word error rate is measured on; empty where no recordings of the language are known."""
    digest: str
    """SHA-256 of the files."""


def of_language(language: str | None, folders: dict[str, Path]) -> Speech:
    """Return the speech of a language: that of its folder, or the demonstration's.

    The demonstration's dialogue is English: for another language without a folder, it serves for the comparison of
    graphs only. Raises RecordingError.
    """
    if language in folders:
        return read_folder(folders[language])
    demo = read_demo()
    if language in (None, DEMO_LANGUAGE):
        return demo
    return Speech(segments=demo.segments, transcribed=(), digest=demo.digest)


@cache
def read_demo(folder: Path = DEMO_FOLDER) -> Speech:
    """Return the excerpts and the turns of the demonstration's dialogue; raise RecordingError where it is missing."""
    audio, script = folder / "dialogue.flac", folder / "dialogue.json"
    try:
        samples, rate = soundfile.read(audio, dtype="float32")
        turns = json.loads(script.read_text(encoding="utf-8"))["turns"]
    except (OSError, ValueError, KeyError, soundfile.LibsndfileError) as error:
        raise RecordingError(audio, f"it cannot be read ({error})", "Restore the folder from the repository") from error
    texts = [turn["text"] for turn in turns]
    bounds = [(turn["start"], turn["end"]) for turn in turns]

    def cut(first: int, last: int) -> Utterance:
        start = max(0, int((bounds[first][0] - _EDGE_S) * rate))
        chosen = samples[start : int((bounds[last][1] + _EDGE_S) * rate)]
        return Utterance(samples=chosen, sample_rate_hz=rate, text=" ".join(texts[first : last + 1]))

    spans = [(first, last) for first in range(len(turns)) for last in range(first, len(turns))]
    nearest = [
        min(spans, key=lambda span: abs(bounds[span[1]][1] - bounds[span[0]][0] - seconds)) for seconds in _EXCERPTS_S
    ]
    return Speech(
        segments=tuple(cut(*span) for span in nearest),
        transcribed=tuple(cut(number, number) for number in range(len(turns))),
        digest=digest.of_value([digest.of_file(audio), digest.of_file(script)]),
    )


@cache
def read_folder(folder: Path) -> Speech:
    """Return the recordings of a folder that have a text beside them; raise RecordingError where there is none."""
    pairs = [
        (path, path.with_suffix(".txt"))
        for path in sorted(folder.iterdir() if folder.is_dir() else ())
        if path.suffix.lower() in SUFFIXES and path.with_suffix(".txt").is_file()
    ]
    if not pairs:
        raise RecordingError(folder, "it holds no recording with a text", _REMEDY)
    utterances = sorted((_utterance(*pair) for pair in pairs), key=lambda one: one.seconds)
    wanted = [min(utterances, key=lambda one: abs(one.seconds - seconds)) for seconds in _EXCERPTS_S]
    return Speech(
        segments=tuple({id(one): one for one in wanted}.values()),
        transcribed=tuple(utterances),
        digest=digest.of_value([digest.of_file(path) for pair in pairs for path in pair]),
    )


def _utterance(audio: Path, text: Path) -> Utterance:
    try:
        samples, rate = soundfile.read(audio, dtype="float32", always_2d=True)
        words = " ".join(text.read_text(encoding="utf-8").split())
    except (OSError, ValueError, soundfile.LibsndfileError) as error:
        raise RecordingError(audio, f"it cannot be read ({error})", _REMEDY) from error
    if not len(samples) or not words:
        raise RecordingError(audio, "it or its text is empty", _REMEDY)
    return Utterance(samples=np.ascontiguousarray(samples.mean(axis=1)), sample_rate_hz=rate, text=words)
