"""Convert decoded frames to the sample rate that is wanted: clean impossible samples, resample, mix the channels."""

from dataclasses import dataclass
from typing import TypeAlias

import av
import numpy as np
from av.audio.plane import AudioPlane
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.float32]
Channels: TypeAlias = NDArray[np.float32]
"""Samples [count, channels]."""
FrameFormat: TypeAlias = tuple[str, str, int]
"""The sample format, the layout of the channels and the sampling rate."""

_FLOATS = frozenset({"flt", "fltp", "dbl", "dblp"})
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
    """Resample with libswresample, with a new resampler where a stream changes its format in the middle."""

    def __init__(self, sample_rate_hz: int, block: int = 0) -> None:
        """Return blocks of `block` samples, or with 0 what each frame makes at once, as a stream needs it."""
        self._sample_rate_hz, self._block = sample_rate_hz, block
        self._resampler: AudioResampler | None = None
        self._format: FrameFormat | None = None

    def convert(self, frame: av.AudioFrame) -> list[Channels]:
        """Return the samples of a frame, each array with all channels of its frame."""
        frame_format = _format(frame)
        rest = self.flush() if frame_format != self._format else []
        if self._resampler is None:
            self._format = frame_format
            # With all channels: the average is computed here, because libswresample's own is 3 dB louder.
            self._resampler = AudioResampler(
                format="flt", layout=frame.layout.name, rate=self._sample_rate_hz, frame_size=self._block or None
            )
        # Only the order of the frames matters here; the resampler would log odd time stamps.
        frame.pts = None
        return [*rest, *map(_channels, self._resampler.resample(frame))]

    def flush(self) -> list[Channels]:
        """Return the samples that the resampler still has."""
        if self._resampler is None:
            return []
        resampler, self._resampler = self._resampler, None
        return list(map(_channels, resampler.resample(None)))


class Mixer:
    """Average the channels of a recording, those in opposite phase turned so that they do not cancel each other.

    A recorder with one wrongly wired microphone makes such channels: their plain average is silence.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self.turned: set[int] = set()
        """The channels that were turned at some time."""
        self._sample_rate_hz = sample_rate_hz
        self._products = np.zeros((0, 0))

    def mix(self, channels: Channels) -> Samples:
        """Return the mono samples [count] of channels [count, channels]."""
        count = channels.shape[1]
        if count > 1 and len(channels):
            turned = self._opposite(channels)
            if turned.any():
                self.turned.update(np.flatnonzero(turned).tolist())
                channels = channels * np.where(turned, np.float32(-1.0), np.float32(1.0))
        # Column by column: NumPy's mean of short rows takes several times as long.
        mixed: Samples = channels[:, 0].copy()
        for column in channels.T[1:]:
            mixed += column
        mixed /= np.float32(count)
        return mixed

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


def _is_possible(frame: av.AudioFrame) -> bool:
    """Return whether no sample of a readable frame is far too large or no number."""
    count = frame.samples * (1 if frame.format.is_planar else frame.layout.nb_channels)
    planes = (_values(plane, count) for plane in frame.planes)
    # NaN compares as False.
    return all(plane.max() <= _LARGEST and plane.min() >= -_LARGEST for plane in planes)


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
    """Return the samples of a packed frame, without a copy."""
    count = frame.layout.nb_channels
    return _values(frame.planes[0], frame.samples * count).reshape(-1, count)


def _values(plane: AudioPlane, count: int) -> Samples:
    """Return the samples of a plane of float32, which may be padded."""
    return np.frombuffer(memoryview(plane), dtype=np.float32, count=count)
