"""Define what a transcript consists of, independent of the format that it is written in."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A word with its times in the recording and a confidence between 0 and 1."""

    content: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Words in sequence by one speaker, at least one word; `speaker` is None where speakers were not distinguished."""

    words: tuple[Word, ...]
    speaker: str | None
    separator: str = " "
    """What stands between two words; empty for languages that are written without spaces."""

    @property
    def start_s(self) -> float:
        """Return the start of the first word."""
        return self.words[0].start_s

    @property
    def end_s(self) -> float:
        """Return the end of the last word."""
        return self.words[-1].end_s

    @property
    def text(self) -> str:
        """Return the words as the language is written."""
        return self.separator.join(word.content for word in self.words)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """A part of a recording that is missing in its transcript; `end_s` is None when its length is unknown."""

    start_s: float
    end_s: float | None
    reason: str

    def __str__(self) -> str:
        end = "its end" if self.end_s is None else clock(self.end_s)
        return f"{clock(self.start_s)} to {end}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """What was recognised in a recording, and the parts that are missing.

    With `by_channel`, each channel was transcribed by itself, and the speaker of a turn is the label of its channel.
    """

    source: str
    duration_s: float
    language: str
    operating_point: str
    turns: tuple[Turn, ...]
    losses: tuple[Loss, ...]
    by_channel: bool = False


def clock(seconds: float) -> str:
    """Return a time as `0:04.2`, or as `1:02:03.4` from an hour on."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"
