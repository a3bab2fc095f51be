"""What a transcript is made of, whatever file it is written to."""

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
    """Words that follow one another, by one speaker; None where speakers were not told apart. Never empty."""

    words: tuple[Word, ...]
    speaker: str | None

    @property
    def start_s(self) -> float:
        """Give the start of the first word."""
        return self.words[0].start_s

    @property
    def end_s(self) -> float:
        """Give the end of the last word."""
        return self.words[-1].end_s

    @property
    def text(self) -> str:
        """Join the words with spaces."""
        return " ".join(word.content for word in self.words)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Part of a recording that is not in its transcript; `end_s` is None where nobody knows how much is missing."""

    start_s: float
    end_s: float | None
    reason: str

    def __str__(self) -> str:
        end = "its end" if self.end_s is None else clock(self.end_s)
        return f"{clock(self.start_s)} to {end}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """All that was understood of a recording, and what was not."""

    source: str
    duration_s: float
    language: str
    operating_point: str
    turns: tuple[Turn, ...]
    losses: tuple[Loss, ...]


def clock(seconds: float) -> str:
    """Write a time for people: `0:04.2`, or `1:02:03.4` from an hour on."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"
