"""Convert decoded frames to the sample rate that is wanted: clean impossible samples, resample, mix the channels."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.float32]
Channels: TypeAlias = NDArray[np.float32]
"""Samples [count, channels]."""
FrameFormat: TypeAlias = tuple[str, str, int]
"""The sample format, the layout of the channels and the sampling rate."""

_FLOATS = frozenset({"flt", "fltp", "dbl", "dblp"})
# The types of the samples that can be read here, and the full scale of integers, as libswresample has it.
_PACKED_TYPES: dict[str, Any] = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32}
_TYPES = _PACKED_TYPES | {f"{name}p": kind for name, kind in _PACKED_TYPES.items()}
_INTEGER_SCALES: dict[Any, int] = {np.uint8: 2**7, np.int16: 2**15, np.int32: 2**31}
# 60 dB over full scale. Recorders that write floats go over full scale, but not that far. Some programs write floats in
# the range of 16-bit integers: there, half of the samples that are not zero are at least 1.
_LARGEST, _LARGEST_AMONG_INTEGERS = 1e3, 1e5
_FULL_SCALE = 1.0
# PyAV reads memory outside a frame from the ninth plane on.
_READABLE_PLANES = 8
_JOIN_S = 0.1
# The correlation of two channels below which one of them is turned; unrelated channels are at 0.
_OPPOSITE = -0.5
_AUDIBLE_PART = 0.1
_MEMORY_S = 1.0


@dataclass(kw_only=True, slots=True)
class Impossible:
    """A span with samples that are not numbers, or far too large; for `silent_s` seconds no channel is left."""

    start_s: float
    end_s: float
    silent_s: float


class Cleaner:
    """Replace samples that are NaN, infinite or far too large with silence, in the channels where they are."""

    def __init__(self, channel: int | None = None) -> None:
        """Collect the spans of one channel, or those of all."""
        self.spans: list[Impossible] = []
        self._channel = channel
        self._packer = _Packer()

    def clean(self, frame: av.AudioFrame, start_s: float) -> av.AudioFrame:
        """Return the frame, or a copy without impossible samples; `start_s` is its time in the recording."""
        if frame.format.name not in _FLOATS:
            return frame
        is_readable = _is_readable(frame)
        if is_readable and _is_possible(frame):
            return frame
        packed = self._packer.pack(frame)
        # Always of one format, so that the resampler goes on.
        same = frame if is_readable else packed
        values = _channels(packed)
        possible = np.abs(values) <= _largest(values)  # NaN compares as False
        if possible.all():
            return same
        self._note(~possible, start_s, frame.sample_rate)
        return _like(same, np.where(possible, values, np.float32(0.0)))

    def _note(self, impossible: NDArray[np.bool_], start_s: float, rate_hz: int) -> None:
        chosen = impossible if self._channel is None else impossible[:, self._channel : self._channel + 1]
        rows = np.flatnonzero(chosen.any(axis=1))
        if not rows.size:
            return
        silent_s = float(np.count_nonzero(chosen.all(axis=1))) / rate_hz
        first_s, end_s = start_s + float(rows[0]) / rate_hz, start_s + float(rows[-1] + 1) / rate_hz
        last = self.spans[-1] if self.spans else None
        if last is not None and first_s - last.end_s < _JOIN_S:
            last.end_s, last.silent_s = end_s, last.silent_s + silent_s
        else:
            self.spans.append(Impossible(start_s=first_s, end_s=end_s, silent_s=silent_s))


class Joiner:
    """Clean frames and join those of one format: the calls for a frame take longer than its conversion."""

    def __init__(self, cleaner: Cleaner, length_s: float) -> None:
        """Join frames to about `length_s`, or return each at once with 0."""
        self._cleaner, self._length_s = cleaner, length_s
        self._frames: list[tuple[av.AudioFrame, float]] = []
        self._format: FrameFormat | None = None
        self._missing = 0.0

    def add(self, frame: av.AudioFrame, start_s: float) -> list[av.AudioFrame]:
        """Add a frame, and return those that are complete; `start_s` is its time in the recording."""
        frame_format = _format(frame)
        rest = []
        if frame_format != self._format:
            rest = self.flush()
            self._format, self._missing = frame_format, self._length_s * frame.sample_rate
        self._frames.append((frame, start_s))
        self._missing -= frame.samples
        return rest if self._missing > 0 else rest + self.flush()

    def flush(self) -> list[av.AudioFrame]:
        """Return the frames that are held, as one, or one by one where some samples are impossible."""
        frames, self._frames, self._format = self._frames, [], None
        joined = _joined([frame for frame, _ in frames]) if len(frames) > 1 else None
        if joined is not None and (joined.format.name not in _FLOATS or _is_possible(joined)):
            return [joined]
        return [self._cleaner.clean(frame, start_s) for frame, start_s in frames]


class _Packer:
    """Pack the channels of float frames. A resampler takes longer to open than to convert an hour of frames."""

    def __init__(self) -> None:
        self._resampler: AudioResampler | None = None
        self._format: FrameFormat | None = None

    def pack(self, frame: av.AudioFrame) -> av.AudioFrame:
        """Return a frame as packed float32, so that it has one plane; see _READABLE_PLANES."""
        if frame.format.name == "flt":
            return frame
        if self._resampler is None or self._format != _format(frame):
            self._format = _format(frame)
            self._resampler = AudioResampler(format="flt", layout=frame.layout.name, rate=frame.sample_rate)
        frame.pts = None
        (packed,) = self._resampler.resample(frame)
        return packed


class Converter:
    """Resample with libswresample, with a new resampler where a stream changes its format in the middle.

    Packed frames that have the wanted rate need no resampler: NumPy converts them to the same samples in less time.
    """

    def __init__(self, sample_rate_hz: int, block: int = 0) -> None:
        """Return blocks of `block` samples, or with 0 what each frame makes at once, as a stream needs it."""
        self._sample_rate_hz, self._block = sample_rate_hz, block
        self._resampler: AudioResampler | None = None
        self._format: FrameFormat | None = None
        self._held: list[Channels] = []

    def convert(self, *frames: av.AudioFrame) -> list[Channels]:
        """Return the samples of frames, each array with all channels of its frames."""
        return [block for frame in frames for block in self._convert(frame)]

    def flush(self) -> list[Channels]:
        """Return the samples that are held here or in the resampler."""
        held, self._held = self._held, []
        if self._resampler is None:
            return held
        resampler, self._resampler = self._resampler, None
        return list(map(_channels, resampler.resample(None)))

    def _convert(self, frame: av.AudioFrame) -> list[Channels]:
        frame_format = _format(frame)
        rest = self.flush() if frame_format != self._format else []
        self._format = frame_format
        if frame.sample_rate == self._sample_rate_hz and _is_packed(frame):
            return [*rest, *self._blocks(_channels(frame))]
        if self._resampler is None:
            # With all channels: the average is computed here, because libswresample's own is 3 dB louder.
            self._resampler = AudioResampler(
                format="flt", layout=frame.layout.name, rate=self._sample_rate_hz, frame_size=self._block or None
            )
        # Only the order of the frames matters here; the resampler would log odd time stamps.
        frame.pts = None
        return [*rest, *map(_channels, self._resampler.resample(frame))]

    def _blocks(self, channels: Channels) -> list[Channels]:
        """Return the whole blocks, and hold the rest."""
        if not self._block:
            return [channels]
        joined = np.concatenate([*self._held, channels]) if self._held else channels
        whole = len(joined) - len(joined) % self._block
        self._held = [joined[whole:]] if whole < len(joined) else []
        return [joined[start : start + self._block] for start in range(0, whole, self._block)]


class Mixer:
    """Average the channels of a recording, those in opposite phase turned so that they do not cancel each other.

    A recorder with one wrongly wired microphone makes such channels: their plain average is silence.
    """

    def __init__(self, sample_rate_hz: int, block: int = 0) -> None:
        """Compare the phases in every `block` samples, or with 0 in what is mixed at once."""
        self.turned: set[int] = set()
        """The channels that were turned at some time."""
        self._sample_rate_hz, self._block = sample_rate_hz, block
        self._products = np.zeros((0, 0))

    def mix(self, channels: Channels) -> Samples:
        """Return the mono samples [count] of channels [count, channels]."""
        size = self._block or max(len(channels), 1)
        mixed = np.empty(len(channels), dtype=np.float32)
        for start in range(0, len(channels), size):
            self._mix(channels[start : start + size], mixed[start : start + size])
        return mixed

    def _mix(self, channels: Channels, mixed: Samples) -> None:
        count = channels.shape[1]
        if count > 1:
            turned = self._opposite(channels)
            if turned.any():
                self.turned.update(np.flatnonzero(turned).tolist())
                channels = channels * np.where(turned, np.float32(-1.0), np.float32(1.0))
        # Column by column: NumPy's mean of short rows takes several times as long.
        mixed[:] = channels[:, 0]
        for column in channels.T[1:]:
            mixed += column
        mixed /= np.float32(count)

    def _opposite(self, channels: Channels) -> NDArray[np.bool_]:
        """Return which channels are opposite to the first audible one, over about the last second."""
        count = channels.shape[1]
        if len(self._products) != count:
            self._products = np.zeros((count, count))
        wide = channels.astype(np.float64)
        forgotten = 0.5 ** (len(channels) / (_MEMORY_S * self._sample_rate_hz))
        self._products = forgotten * self._products + wide.T @ wide
        energies = self._products.diagonal()
        first = int(np.argmax(energies >= _AUDIBLE_PART * energies.max()))
        opposite: NDArray[np.bool_] = self._products[first] < _OPPOSITE * np.sqrt(energies[first] * energies)
        return opposite


def _is_readable(frame: av.AudioFrame) -> bool:
    """Return whether the planes of a frame are float32 and can be read."""
    return frame.format.name in {"flt", "fltp"} and len(frame.planes) <= _READABLE_PLANES


def _is_packed(frame: av.AudioFrame) -> bool:
    """Return whether a frame has one plane, with samples that can be read here."""
    return frame.format.name in _TYPES and (not frame.format.is_planar or frame.layout.nb_channels == 1)


def _is_possible(frame: av.AudioFrame) -> bool:
    """Return whether no sample of a readable frame is far too large or no number."""
    # NaN compares as False.
    return all(plane.max() <= _LARGEST and plane.min() >= -_LARGEST for plane in _planes(frame))


def _joined(frames: list[av.AudioFrame]) -> av.AudioFrame | None:
    """Return frames of one format as one frame; None if their samples cannot be read here."""
    first = frames[0]
    if first.format.name not in _TYPES or len(first.planes) > _READABLE_PLANES:
        return None
    joined = av.AudioFrame(first.format.name, first.layout.name, sum(frame.samples for frame in frames))
    joined.sample_rate = first.sample_rate
    parts = [_planes(frame) for frame in frames]
    for number, plane in enumerate(joined.planes):
        plane.update(np.concatenate([planes[number] for planes in parts]))
    return joined


def _format(frame: av.AudioFrame) -> FrameFormat:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _largest(values: Channels) -> float:
    if not np.abs(values).max(initial=0.0) > _LARGEST:
        return _LARGEST
    sizes = np.abs(values[np.isfinite(values) & (values != 0.0)])
    return _LARGEST if not sizes.size or np.median(sizes) < _FULL_SCALE else _LARGEST_AMONG_INTEGERS


def _like(frame: av.AudioFrame, values: Channels) -> av.AudioFrame:
    array = values.T if frame.format.is_planar else values.reshape(1, -1)
    copy = av.AudioFrame.from_ndarray(np.ascontiguousarray(array), format=frame.format.name, layout=frame.layout.name)
    copy.sample_rate = frame.sample_rate
    return copy


def _channels(frame: av.AudioFrame) -> Channels:
    """Return the samples of a packed frame as float32, without a copy where they are."""
    (values,), kind = _planes(frame), _TYPES[frame.format.name]
    if kind in _INTEGER_SCALES:
        values = values.astype(np.float32)
        if kind is np.uint8:
            values -= np.float32(_INTEGER_SCALES[kind])
        values *= np.float32(1 / _INTEGER_SCALES[kind])
    return values.reshape(-1, frame.layout.nb_channels)


def _planes(frame: av.AudioFrame) -> list[NDArray[Any]]:
    """Return the samples of the planes, which may be padded."""
    kind, count = _TYPES[frame.format.name], frame.samples
    if not frame.format.is_planar:
        count *= frame.layout.nb_channels
    return [np.frombuffer(memoryview(plane), kind, count) for plane in frame.planes]
