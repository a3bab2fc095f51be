"""The figures of an accuracy measurement."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """An error rate with the bounds of its 95 % interval, all as shares."""

    rate: float
    lower: float
    upper: float

    def __str__(self) -> str:
        half = (self.upper - self.lower) / 2
        return f"{100 * self.rate:.1f} ± {100 * half:.1f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DiarizationScore:
    """Errors of speaker labels in dialogues, as shares."""

    error: float
    """Diarization error rate: speech that is missed, invented or given to the wrong speaker; turn edges count."""
    error_with_collar: float
    """The same without a quarter of a second on both sides of every edge of a turn, NIST's usual collar."""
    counts_right: float
    """Share of the dialogues in which the number of speakers is right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamRates:
    """Word error rates of the same recordings as streams and as recordings, and their difference."""

    streams: Rate
    recordings: Rate
    cost: Rate
    """The rate of streams minus that of recordings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """The words whose confidences are in a range: their number, mean confidence, and share that is right."""

    words: int
    confidence: float
    right: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """How well confidences state the share of words that are right, before and after the calibration."""

    words: int
    right: float
    """The share of the words that are right."""
    probability: float
    """The mean of what the networks state."""
    confidence: float
    """The mean after the calibration."""
    calibration_error_before: float
    calibration_error: float
    cross_entropy_before: float
    cross_entropy: float
    """Normalised: 1 is perfect, 0 is as good as the share of right words alone."""
    curve_before: tuple[Bin, ...]
    curve: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """All figures: word error rates by operating point, set and search; errors of the speaker networks by point."""

    sets: dict[str, str]
    words: dict[str, dict[str, dict[str, Rate]]]
    gains: dict[str, Rate]
    """By set: the standard point's word error rate minus the enhanced one's, each with its best search."""
    streams: dict[str, dict[str, StreamRates]]
    """The cost of real time, by point and search."""
    equal_errors: dict[str, float]
    diarization: dict[str, dict[str, DiarizationScore]]
    """By point, and by how the dialogues are transcribed: as recordings, as streams, or in telephone band."""
    reliability: dict[str, dict[str, Reliability]]
    """By point and set, with the streams and all recordings together as further sets."""
    recordings: int
    hours: float

    def to_dict(self) -> dict[str, Any]:
        """Return all figures for a JSON file."""
        return asdict(self)
