"""Split a stream of samples at its silences into segments that the server takes, at exact sample offsets."""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import webrtcvad
from numpy.typing import NDArray

from transcriber.audio import SAMPLE_RATE_HZ, Samples
from transcriber.silero import SileroDetector
from transcriber.voice_detection import SILERO, WEBRTC

# 1598 feature frames: they fit the bucket of 1600, and are short enough for full attention on a small GPU.
LONGEST_S = 16.0
_FRAME_MS = 20
_PADDING_FRAMES = 10
_BATCH_FRAMES = 100
# Speech begins where three frames of five are voiced, and has ended after 0.4 s without one: twice the padding, so
# that neighbours never overlap.
_ONSET_WINDOW, _ONSET_VOICED = 5, 3
HANGOVER_S = 0.4
# A cut through speech lies in the later half, at the lowest energy over 0.1 s.
_CUT_WINDOW_FRAMES = 5
# WebRTC's detector compares energies with fixed numbers, and misses speech below -30 dB. So speech is amplified to this
# level, measured over the last 30 s on the loudest frames without the top twentieth (clicks).
_TARGET_RMS, _LARGEST_GAIN = 0.1, 100.0
_LOUD_QUANTILE = 0.95
_LEVEL_MEMORY_BATCHES = 16
_AGGRESSIVENESS = 2
# A stream is processed in steps of this size, without look-ahead: its gain stays small until speech was detected.
_STEP_FRAMES = 5
_LARGEST_LIVE_GAIN = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """The lengths of the splitting, in samples: they depend on the sample rate and on the longest segment."""

    sample_rate_hz: int = SAMPLE_RATE_HZ
    """8, 16, 32 or 48 kHz: the detector takes no other rate."""
    longest_s: float = LONGEST_S
    voice_detection: str = WEBRTC
    """One of transcriber.voice_detection.DETECTORS."""

    @property
    def frame(self) -> int:
        """Return the length of a frame of the detector, 20 ms."""
        return self.sample_rate_hz * _FRAME_MS // 1000

    @property
    def padding(self) -> int:
        """Return the length of the silence at either end of a segment, 0.2 s."""
        return _PADDING_FRAMES * self.frame

    @property
    def longest(self) -> int:
        """Return the length of the longest segment."""
        return int(self.longest_s * self.sample_rate_hz)

    @property
    def earliest_cut(self) -> int:
        """Return the earliest offset in a segment where speech is cut."""
        return self.longest // 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segment:
    """A stretch of speech: float32 samples and the offset of the first one in the recording."""

    start: int
    samples: Samples
    sample_rate_hz: int = SAMPLE_RATE_HZ
    is_cut: bool = False
    """Whether speech continues after its end."""

    @property
    def end(self) -> int:
        """Return the offset after the last sample."""
        return self.start + self.samples.size

    @property
    def start_s(self) -> float:
        """Return the start in seconds."""
        return self.start / self.sample_rate_hz

    @property
    def end_s(self) -> float:
        """Return the end in seconds."""
        return self.end / self.sample_rate_hz


def split(
    blocks: Iterable[Samples],
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    longest_s: float = LONGEST_S,
    voice_detection: str = WEBRTC,
) -> Iterator[Segment]:
    """Yield the speech in a stream of blocks of any size, in order and without overlap, each at most `longest_s` long.

    About 20 s of audio are in memory at a time. Longer speech is cut at its quietest point, and the two parts
    touch; elsewhere each segment has up to 0.2 s of silence at both ends.
    """
    timing = Timing(sample_rate_hz=sample_rate_hz, longest_s=longest_s, voice_detection=voice_detection)
    detector, splitter, size = _Detector(timing), _Splitter(timing), _BATCH_FRAMES * timing.frame
    for block in blocks:
        splitter.append(block)
        while splitter.waiting >= 2 * size:
            yield from splitter.process(size, detector.voiced(splitter.view(0, size), splitter.view(size, 2 * size)))
    while splitter.waiting:
        batch, following = splitter.view(0, size), splitter.view(size, 2 * size)
        yield from splitter.process(batch.size, detector.voiced(batch, following if following.size else batch))
    yield from splitter.finish()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SegmentUpdate:
    """A segment as far as it is known: more of it may follow unless it has ended."""

    segment: Segment
    ended: bool


class Follower:
    """Split a live stream while it goes on, without look-ahead; the sizes of the pushed blocks change no result.

    Segments follow the rules of `split`. An end is detected `hangover_s` after the last voiced frame. Where speech
    lasts `longest_s`, the end lies back at its quietest point, and the next segment begins there.
    """

    def __init__(
        self,
        *,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        longest_s: float = LONGEST_S,
        hangover_s: float = HANGOVER_S,
        voice_detection: str = WEBRTC,
    ) -> None:
        self._timing = Timing(sample_rate_hz=sample_rate_hz, longest_s=longest_s, voice_detection=voice_detection)
        self._detector, self._splitter = _LiveDetector(self._timing), _Splitter(self._timing)
        self.hangover_s = hangover_s

    @property
    def step(self) -> int:
        """Return the number of samples that are processed at a time, 0.1 s."""
        return _STEP_FRAMES * self._timing.frame

    @property
    def hangover_s(self) -> float:
        """Return how long a silence ends a segment."""
        return self._splitter.hangover_frames * _FRAME_MS / 1000

    @hangover_s.setter
    def hangover_s(self, seconds: float) -> None:
        self._splitter.hangover_frames = max(1, round(seconds * 1000 / _FRAME_MS))

    @property
    def last_voiced_s(self) -> float:
        """Return the end of the last voiced frame."""
        return self._splitter.voiced_end / self._timing.sample_rate_hz

    @property
    def position_s(self) -> float:
        """Return the time up to which the stream was processed."""
        return self._splitter.position / self._timing.sample_rate_hz

    def push(self, samples: Samples) -> Iterator[SegmentUpdate]:
        """Yield what more samples make known: every 0.1 s the open segment, and each segment when it has ended."""
        self._splitter.append(samples)
        while self._splitter.waiting >= self.step:
            yield from self._process(self.step)

    def pause(self) -> Iterator[SegmentUpdate]:
        """End the open segment with what is known of it, in whole frames: no samples come for a while."""
        waiting = self._splitter.waiting
        yield from self._process(waiting - waiting % self._timing.frame)
        yield from self._ended(self._splitter.finish())

    def finish(self) -> Iterator[SegmentUpdate]:
        """Yield the segments that the end of the stream completes."""
        yield from self._process(self._splitter.waiting)
        yield from self._ended(self._splitter.finish())

    def keep(self, seconds: float) -> None:
        """Cut and end no segment before this time, which was processed: the words before it are final."""
        self._splitter.kept = min(round(seconds * self._timing.sample_rate_hz), self._splitter.position)

    def _process(self, count: int) -> Iterator[SegmentUpdate]:
        if not count:
            return
        yield from self._ended(self._splitter.process(count, self._detector.voiced(self._splitter.view(0, count))))
        open_segment = self._splitter.open_segment()
        if open_segment is not None:
            yield SegmentUpdate(segment=open_segment, ended=False)

    @staticmethod
    def _ended(segments: Iterable[Segment]) -> Iterator[SegmentUpdate]:
        yield from (SegmentUpdate(segment=segment, ended=True) for segment in segments)


def follow(
    blocks: Iterable[Samples], *, sample_rate_hz: int = SAMPLE_RATE_HZ, longest_s: float = LONGEST_S
) -> Iterator[SegmentUpdate]:
    """Yield the updates of a Follower for the blocks of a stream; an empty block means that the stream pauses."""
    follower = Follower(sample_rate_hz=sample_rate_hz, longest_s=longest_s)
    for block in blocks:
        yield from follower.push(block) if block.size else follower.pause()
    yield from follower.finish()


class _Detector:
    """A voice activity detector behind a slow gain control that looks one batch ahead."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._vad = _open(timing)
        self._levels: deque[float] = deque(maxlen=_LEVEL_MEMORY_BATCHES)

    def voiced(self, batch: Samples, following: Samples) -> list[bool]:
        """Return for every 20 ms of a batch whether it is voiced; the last frame may be shorter."""
        if not self._levels:
            self._levels.append(_loudness(_energies(batch, self._timing.frame)))
        self._levels.append(_loudness(_energies(following, self._timing.frame)))
        gain = min(_TARGET_RMS / max(*self._levels, 1e-9), _LARGEST_GAIN)
        return _voiced_frames(self._vad, batch, gain, self._timing)


class _LiveDetector:
    """The same detector behind a gain control without look-ahead."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._vad = _open(timing)
        self._levels: deque[float] = deque(maxlen=_LEVEL_MEMORY_BATCHES)
        self._energies: deque[float] = deque(maxlen=_BATCH_FRAMES)
        self._frames = 0

    def voiced(self, batch: Samples) -> list[bool]:
        """Return for every 20 ms of a batch whether it is voiced; the last frame may be shorter."""
        energies = _energies(batch, self._timing.frame)
        self._energies.extend(energies.tolist())
        level = _loudness(np.fromiter(self._energies, dtype=np.float64))
        self._frames += len(energies)
        if self._frames >= _BATCH_FRAMES:
            self._levels.append(level)
            self._frames = 0
        gain = min(_TARGET_RMS / max(level, *self._levels, 1e-9), _LARGEST_LIVE_GAIN)
        return _voiced_frames(self._vad, batch, gain, self._timing)


class _Splitter:
    """Make segments of voiced frames; keep only the samples that wait, or that a segment may still need."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._held = _Held()
        self.position = 0
        """The offset after the last sample that was processed."""
        self._frame = 0  # the next frame to process
        self._recent: deque[bool] = deque(maxlen=_ONSET_WINDOW)
        self._begin: int | None = None  # offset of the open segment
        self._last_voiced = 0
        self.hangover_frames = round(HANGOVER_S * 1000 / _FRAME_MS)
        self.kept = 0
        """The offset before which no segment is cut or ends."""
        self._previous_end = 0

    @property
    def waiting(self) -> int:
        """Return the number of samples that are not yet processed."""
        return self._held.end - self.position

    def append(self, samples: Samples) -> None:
        """Add samples to those that wait."""
        self._held.append(samples)

    def view(self, start: int, end: int) -> Samples:
        """Return some of the samples that wait, counted from the first one; at the end of the stream fewer."""
        return self._held.view(self.position + start, self.position + end)

    def process(self, count: int, voiced: list[bool]) -> Iterator[Segment]:
        """Process samples that wait, by the flags of their frames, and yield the segments that they complete."""
        self.position += count
        flags, first = bytes(voiced), self._frame
        end = first + len(flags)
        while self._frame < end:
            flag = flags[self._frame - first]
            change = flags.find(1 - flag, self._frame - first)
            ended = self._step(end if change < 0 else first + change, voiced=flag == 1)
            if ended is not None:
                yield ended
        onset = (self._frame - _ONSET_WINDOW) * self._timing.frame - self._timing.padding
        self._held.drop(onset if self._begin is None else self._begin)

    def open_segment(self) -> Segment | None:
        """Return the segment that has begun, as far as it is known; None when no segment is open."""
        if self._begin is None:
            return None
        return self._segment(self._begin, self._held.view(self._begin, self.position))

    @property
    def voiced_end(self) -> int:
        """Return the offset after the last voiced frame."""
        return (self._last_voiced + 1) * self._timing.frame

    def finish(self) -> Iterator[Segment]:
        """Yield the segment that the end of the recording completes."""
        ended = self._end() if self._begin is not None else None
        if ended is not None:
            yield ended

    def _step(self, stop: int, *, voiced: bool) -> Segment | None:
        """Process the frames before `stop`, all voiced or none, up to the first one that changes a segment.

        Return the segment that this frame completes.
        """
        index = self._frame
        if self._begin is not None:
            return self._continue(stop, voiced=voiced)
        if voiced:
            self._frame, self._last_voiced = index + 1, index
            self._recent.append(True)
            self._open(index)
        else:
            # Most frames of a silence: without the search for a beginning.
            self._frame = stop
            self._recent.extend([False] * min(stop - index, _ONSET_WINDOW))
        return None

    def _continue(self, stop: int, *, voiced: bool) -> Segment | None:
        """Process frames of the open segment, as _step does."""
        # The frame with which the segment is too long, or the silence before that long enough.
        last = -(-((self._begin or 0) + self._timing.longest) // self._timing.frame) - 1
        if not voiced:
            last = min(last, self._last_voiced + self.hangover_frames)
        # Both lengths may have become smaller since the last frame.
        last = max(last, self._frame)
        self._frame = min(last + 1, stop)
        if voiced:
            self._last_voiced = self._frame - 1
        if last >= stop:
            return None
        if last - self._last_voiced >= self.hangover_frames:
            return self._end()
        return self._cut()

    def _open(self, index: int) -> None:
        if sum(self._recent) < _ONSET_VOICED:
            return
        first = index - len(self._recent) + 1 + list(self._recent).index(True)
        self._begin = max(self._previous_end, first * self._timing.frame - self._timing.padding)

    def _cut(self) -> Segment | None:
        begin = self._begin or 0
        earliest = max(begin + self._timing.earliest_cut, self.kept)
        window = self._held.view(earliest, begin + self._timing.longest)
        cut = earliest + _quietest(window, self._timing.frame)
        if self._last_voiced * self._timing.frame < cut:
            # The quietest point lies in the silence that has just begun.
            return self._end()
        segment = replace(self._close(cut), is_cut=True)
        self._begin = cut
        return segment

    def _end(self) -> Segment | None:
        """Close the segment behind its speech. None where the segment before it had all samples that there are."""
        segment = self._close(self._speech_end())
        return segment if segment.samples.size else None

    def _speech_end(self) -> int:
        # The silence behind the speech may reach beyond the longest segment.
        longest_end = (self._begin or 0) + self._timing.longest
        return max(self.kept, min(self.position, self.voiced_end + self._timing.padding, longest_end))

    def _close(self, end: int) -> Segment:
        begin = self._begin or 0
        self._begin, self._previous_end = None, end
        self._recent.clear()
        return self._segment(begin, self._held.view(begin, end).copy())

    def _segment(self, start: int, samples: Samples) -> Segment:
        return Segment(start=start, samples=samples, sample_rate_hz=self._timing.sample_rate_hz)


class _Held:
    """The last samples of a stream. A place that holds a sample is never written again, so views stay valid."""

    def __init__(self) -> None:
        self._room: Samples = np.empty(0, dtype=np.float32)
        self._start = 0  # offset in the stream of the first place
        self._first = 0  # place of the first sample held
        self.end = 0
        """The offset after the last sample."""

    def append(self, samples: Samples) -> None:
        """Add samples; where the room is full, copy those held to a new one of twice their size."""
        used = self.end - self._start
        if used + samples.size > self._room.size:
            held = self._room[self._first : used]
            self._room = np.empty(2 * (held.size + samples.size), dtype=np.float32)
            self._room[: held.size] = held
            self._start, self._first, used = self._start + self._first, 0, held.size
        self._room[used : used + samples.size] = samples
        self.end += samples.size

    def view(self, start: int, end: int) -> Samples:
        """Return the samples between two offsets in the stream."""
        return self._room[start - self._start : min(end, self.end) - self._start]

    def drop(self, end: int) -> None:
        """Forget the samples before an offset."""
        self._first = max(self._first, end - self._start)


class _WebRtcDetector:
    """WebRTC's voice activity detector."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._vad, self._sample_rate_hz = webrtcvad.Vad(_AGGRESSIVENESS), sample_rate_hz

    def voiced(self, frames: Samples) -> list[bool]:
        """Return for each frame [count, length] of samples in [-1, 1] whether it is voiced."""
        length = frames.shape[1]
        # The bytes of each frame. An hour has 180,000 of them, so the loop over them is not one of Python's.
        parts = (frames * 32_767).astype("<i2").view(f"V{2 * length}").ravel().tolist()
        return list(map(self._vad.is_speech, parts, itertools.repeat(self._sample_rate_hz), itertools.repeat(length)))


def _open(timing: Timing) -> _WebRtcDetector | SileroDetector:
    detector = SileroDetector if timing.voice_detection == SILERO else _WebRtcDetector
    return detector(timing.sample_rate_hz)


def _voiced_frames(vad: _WebRtcDetector | SileroDetector, batch: Samples, gain: float, timing: Timing) -> list[bool]:
    amplified = _framed(batch, timing.frame) * gain
    return vad.voiced(np.clip(amplified, -1.0, 1.0, out=amplified))


def _framed(batch: Samples, length: int) -> Samples:
    """Return frames [count, length], the last one padded with zeros."""
    missing = -batch.size % length
    return (np.pad(batch, (0, missing)) if missing else batch).reshape(-1, length)


def _energies(samples: Samples, length: int) -> NDArray[np.float64]:
    energies: NDArray[np.float64] = np.square(_framed(samples, length), dtype=np.float64).mean(axis=1)
    return energies


def _loudness(energies: NDArray[np.float64]) -> float:
    """Return the RMS of the loud frames, from the energies of all frames, at least one.

    The same as with numpy.quantile, which would take half of the time of the splitting of a stream.
    """
    ordered = np.sort(energies)
    place = _LOUD_QUANTILE * (ordered.size - 1)
    below = int(place)
    share, low, high = place - below, ordered[below], ordered[min(below + 1, ordered.size - 1)]
    between = low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)  # noqa: PLR2004
    return math.sqrt(between)


def _quietest(samples: Samples, length: int) -> int:
    """Return the offset of the middle of the quietest 0.1 s; `length` is that of a frame."""
    energies = _energies(samples, length)
    smooth = np.convolve(energies, np.ones(_CUT_WINDOW_FRAMES), mode="valid")
    return (int(np.argmin(smooth)) * 2 + _CUT_WINDOW_FRAMES) * length // 2
