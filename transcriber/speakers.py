"""Distinguish speakers: windows of speech are embedded and clustered, and each word takes the speaker of its window."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from contract.client import SEGMENTS, SpeakerSpec
from transcriber.audio import Samples
from transcriber.clustering import NO_LIMITS, Labels, SpeakerLimits, Speech, Tree, find_voices
from transcriber.ctc import Floats
from transcriber.recogniser import Bounds
from transcriber.transcript import Turn, Word

# A change between two windows is about this far, at most, from where they meet.
_PAUSE_REACH_S = 1.0
# Above 5 kHz, segments of wideband speech had 4e-4 of their power or more, and those from 8 kHz mu-law 3e-7 or less.
_ABOVE_TELEPHONE_HZ, _NARROW_SHARE = 5_000, 1e-6
_BAND_FRAME = 1_024
# Frames of the first look at a segment: it is enough for almost all speech that is not from such a line.
_SAMPLED_FRAMES = slice(None, None, 8)
# Noise beside the speech of such a line, as a share of its amplitude: 40 dB below it.
_NOISE_SHARE = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A stretch of a segment that was embedded, by its times in the recording."""

    segment: int
    start_s: float
    end_s: float

    @property
    def middle_s(self) -> float:
        """Return the time of its middle."""
        return (self.start_s + self.end_s) / 2

    @property
    def length_s(self) -> float:
        """Return its length in seconds."""
        return self.end_s - self.start_s


def window_bounds(samples: int, spec: SpeakerSpec) -> list[Bounds]:
    """Return the bounds, in samples, of the windows that cover a segment.

    A segment that is shorter than a window is one window. The last window ends with the segment. It is as long as the
    others where windows are embedded one by one, and as far from the one before it where the network takes segments.
    """
    window, hop = (round(seconds * spec.sample_rate_hz) for seconds in (spec.window_s, spec.hop_s))
    if samples <= window:
        return [(0, samples)]
    starts = [*range(0, samples - window, hop)]
    starts.append(starts[-1] + hop if spec.takes == SEGMENTS else samples - window)
    return [(start, min(start + window, samples)) for start in starts]


def windows_of(segment: int, start_s: float, bounds: Sequence[Bounds], spec: SpeakerSpec) -> list[Window]:
    """Return the windows of a segment that begins at a time of the recording."""
    rate = spec.sample_rate_hz
    return [
        Window(segment=segment, start_s=start_s + first / rate, end_s=start_s + last / rate) for first, last in bounds
    ]


def is_narrow(samples: Samples, sample_rate_hz: int) -> bool:
    """Return whether samples come from a line of 8 kHz and were resampled: they have almost nothing above 5 kHz."""
    if sample_rate_hz <= 2 * _ABOVE_TELEPHONE_HZ:
        return False
    # Frames that fade at both ends: a cut through speech has power at all frequencies. One transform of the whole would
    # take ten times as long.
    length = min(_BAND_FRAME, samples.size)
    frames = samples[: samples.size - samples.size % length].reshape(-1, length)
    border = round(2 * _ABOVE_TELEPHONE_HZ / sample_rate_hz * (length // 2 + 1))
    # The power at all frequencies is at most that of the samples times `length` (Parseval): where a part of the frames
    # has enough above 5 kHz for that, so have all frames for theirs.
    largest = length * float(np.einsum("i,i", samples, samples))
    if _powers(frames[_SAMPLED_FRAMES])[border:].sum() > _NARROW_SHARE * largest:
        return False
    powers = _powers(frames)
    return bool(powers[border:].sum() <= _NARROW_SHARE * powers.sum())


def _powers(frames: Samples) -> NDArray[np.float64]:
    """Return the power at each frequency, the sum of all frames."""
    from scipy import fft  # noqa: PLC0415 - a tenth of a second, for speakers alone

    parts = fft.rfft(frames * _fade(frames.shape[1]), axis=1).view(np.float32)  # real and imaginary by turns
    powers: NDArray[np.float64] = np.square(parts, out=parts).sum(axis=0, dtype=np.float64).reshape(-1, 2).sum(axis=1)
    return powers


@functools.lru_cache(maxsize=16)
def _fade(length: int) -> Samples:
    return np.hanning(length).astype(np.float32)


def with_noise_floor(samples: Samples, sample_rate_hz: int) -> Samples:
    """Return the samples of a segment for the speaker network: noise is added to those from a line of 8 kHz.

    Resampling leaves nothing above 4 kHz. The logarithm of these bands is then far outside of what a network was
    trained on, and makes all voices alike. The noise is the same in every run.
    """
    if not is_narrow(samples, sample_rate_hz):
        return samples
    level = _NOISE_SHARE * float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    noise = np.random.default_rng(samples.size).standard_normal(samples.size, dtype=np.float32)
    return samples + np.float32(level) * noise


def label(
    windows: Sequence[Window], embeddings: Floats, similarity: float, limits: SpeakerLimits = NO_LIMITS
) -> list[str]:
    """Return the speaker of each window: S1, S2, ... in the order of their first windows.

    embeddings: FP32 [len(windows), E], of unit length. Average-linkage clustering by cosine: two clusters are one
    speaker while the mean cosine between their members is at least `similarity`, as far as the limits allow.
    """
    if not windows:
        return []
    found = find_voices(speech_of(windows, embeddings), similarity, limits)
    return _labels(found)


def speech_of(windows: Sequence[Window], embeddings: Floats) -> Speech:
    """Return embedded windows, at least one, in the form that is clustered; embeddings FP32 [len(windows), E]."""
    return Speech(
        embeddings=embeddings,
        segments=np.array([window.segment for window in windows]),
        lengths_s=np.array([window.length_s for window in windows], dtype=np.float32),
    )


def cluster(embeddings: Floats, similarity: float) -> Labels:
    """Cluster unit vectors [n, E]; return the cluster of each, numbered from 0 without gaps."""
    return Tree(embeddings).at(similarity)


def turns(
    words: Sequence[Word], windows: Sequence[Window], labels: Sequence[str | None], separator: str = " "
) -> list[Turn]:
    """Split the words of one segment into turns, by the window whose middle is nearest to the middle of each word.

    A change of speaker is then moved to the longest pause nearby: the windows are too far apart to place it, and
    speakers change at pauses. Without windows the words are one turn without a speaker.
    """
    if not windows:
        return [Turn(words=tuple(words), speaker=None, separator=separator)] if words else []
    spoken = [labels[place] for place in nearest(words, windows)]
    return [
        Turn(words=tuple(word for _, word in group), speaker=speaker, separator=separator)
        for speaker, group in groupby(zip(_at_pauses(words, spoken), words, strict=True), key=lambda pair: pair[0])
    ]


def nearest(words: Sequence[Word], windows: Sequence[Window]) -> list[int]:
    """Return for each word the place of the window, of at least one, whose middle is nearest to that of the word."""
    middles = np.array([window.middle_s for window in windows])
    spoken_s = np.array([(word.start_s + word.end_s) / 2 for word in words])
    found: list[int] = np.abs(middles - spoken_s[:, None]).argmin(axis=1).tolist()
    return found


def renumbered(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Yield the turns of a recording with speakers S1, S2, ... in the order of their first words.

    A voice without words, such as a cough, is in no turn.
    """
    numbers: dict[str, str] = {}
    for turn in turns:
        speaker = turn.speaker
        yield turn if speaker is None else replace(turn, speaker=numbers.setdefault(speaker, f"S{len(numbers) + 1}"))


def _at_pauses(words: Sequence[Word], spoken: Sequence[str | None]) -> list[str | None]:
    """Move each change of speaker to the longest pause within reach, but not past the change before or after it."""
    changes = [place for place in range(1, len(words)) if spoken[place] != spoken[place - 1]]
    moved: list[str | None] = []
    for place, following in pairwise([*changes, len(words)]):
        reach = [
            other
            for other in range(len(moved) + 1, following)
            if abs(words[other].start_s - words[place].start_s) <= _PAUSE_REACH_S
        ]
        best = max(reach, key=lambda other: (words[other].start_s - words[other - 1].end_s, -abs(other - place)))
        moved += [spoken[place - 1]] * (best - len(moved))
    return moved + list(spoken[-1:]) * (len(words) - len(moved))


def _labels(clusters: Labels) -> list[str]:
    order = {int(number): place for place, number in enumerate(dict.fromkeys(clusters.tolist()))}
    return [f"S{order[int(number)] + 1}" for number in clusters]
