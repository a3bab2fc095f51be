"""Decode any common recording to mono 16 kHz, block by block, and report the parts that could not be read."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from contract.errors import AudioError
from transcriber import containers
from transcriber.features import SAMPLE_RATE_HZ
from transcriber.transcript import Loss

Samples: TypeAlias = NDArray[np.float32]
TELEPHONE_RATE_HZ = 8_000
# Encoders round the end of a recording to their frame. If more than this is missing, the recording was truncated.
_MISSING_TOLERANCE_S = 0.5
# A damaged frame at either end of an MP3 is usual and contains no word.
_DAMAGE_TOLERANCE_S = 0.1
# A shorter jump of the time stamps is rounding; a longer one is another clock, not a pause.
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 3_600.0
_BLOCK_SAMPLES = SAMPLE_RATE_HZ
# libav buffers the first 3.3 s of a WAV from a pipe to detect its format; with these options 2.1 s, the least possible.
_LIVE_OPTIONS = MappingProxyType({"probesize": "4096", "analyzeduration": "100000"})
_TRUNCATED, _DAMAGED = "the file is truncated", "its data is damaged"
_DAMAGED_OR_TRUNCATED = "the file is damaged or truncated"
_REMEDY = "Check that it is a complete sound file, and that a player can play it"


class Recording:
    """A recording that is read once, from front to back.

    `losses` and `notes` are complete when `blocks` is exhausted.
    """

    def __init__(self, path: Path, *, live: bool = False) -> None:
        """Open a recording; raise AudioError when no sound can be decoded from it.

        For a `live` one libav reads as little as possible before the first samples.
        """
        self.path = path
        self._container = _open(path, _LIVE_OPTIONS if live else {})
        try:
            self._stream = _audio_stream(self._container, path)
        except AudioError:
            self._container.close()
            raise
        self.duration_s: float | None = containers.declared_duration_s(self._container, self._stream)
        self.losses: list[Loss] = []
        self.notes: list[str] = _telephone_note(self._stream.rate)
        self._position_s = 0.0

    def blocks(self) -> Iterator[Samples]:
        """Yield mono samples in [-1, 1] at 16 kHz, at most one second per block, the channels averaged.

        Packets that are damaged or absent (as in the pauses of voice chats) become silence, so that times stay correct.
        Raises AudioError at the end when no sample was decoded.
        """
        decoded = 0
        with self._container:
            for block in self._with_silence():
                for start in range(0, block.size, _BLOCK_SAMPLES):
                    yield block[start : start + _BLOCK_SAMPLES]
                decoded += block.size
            self._check_completeness(decoded / SAMPLE_RATE_HZ)
        if decoded == 0:
            raise AudioError(self.path, "it contains no sound at all (zero samples)", _REMEDY)

    def close(self) -> None:
        """Close the file without reading the rest."""
        self._container.close()

    def _with_silence(self) -> Iterator[Samples]:
        """Resample every frame, with silence where the time stamps of the frames run ahead of their samples."""
        converter, clock = _Converter(), _Clock(_container_start_s(self._container))
        for frame in self._frames():
            pause_s = clock.pause_before(frame)
            if pause_s > 0:
                if containers.is_seamless(self._container):
                    self._note_damage(pause_s)
                self._position_s += pause_s
                yield converter.flush()
                for start in range(0, round(pause_s * SAMPLE_RATE_HZ), _BLOCK_SAMPLES):
                    length = min(_BLOCK_SAMPLES, round(pause_s * SAMPLE_RATE_HZ) - start)
                    yield np.zeros(length, dtype=np.float32)
            self._position_s += frame.samples / frame.sample_rate
            yield converter.convert(frame)
        yield converter.flush()

    def _frames(self) -> Iterator[av.AudioFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError, IndexError):
                # IndexError is PyAV's, where damage has put another stream into the container. Either way nothing more
                # can be decoded.
                self.losses.append(Loss(start_s=self._position_s, end_s=self.duration_s, reason=_TRUNCATED))
                return
            if packet is None:
                return
            try:
                yield from packet.decode()
            except av.FFmpegError:
                self._note_damage(float((packet.duration or 0) * (packet.time_base or 0)))

    def _note_damage(self, length_s: float) -> None:
        start_s, end_s = self._position_s, self._position_s + length_s
        last = self.losses[-1] if self.losses else None
        if last is not None and last.end_s is not None and start_s <= last.end_s:
            # The packet that could not be decoded, and the pause that it leaves, are one loss.
            start_s, end_s = last.start_s, max(last.end_s, end_s)
            self.losses.pop()
        self.losses.append(Loss(start_s=start_s, end_s=end_s, reason=_DAMAGED))

    def _check_completeness(self, decoded_s: float) -> None:
        """Compare the decoded duration with the duration that the file states."""
        declared_s = self.duration_s
        truncated = declared_s is not None and declared_s - decoded_s > _MISSING_TOLERANCE_S
        if truncated:
            # The last packet of a truncated file is damaged too: that is the same loss.
            self.losses = [loss for loss in self.losses if loss.start_s < decoded_s - _MISSING_TOLERANCE_S]
        damaged = bool(self.losses)
        if truncated:
            # In a damaged MP3 frames can be missing without any sign of it, so its end comes too early.
            reason = _DAMAGED_OR_TRUNCATED if damaged else _TRUNCATED
            self.losses.append(Loss(start_s=decoded_s, end_s=declared_s, reason=reason))
        elif not damaged and containers.is_truncated(self.path):
            self.losses.append(Loss(start_s=decoded_s, end_s=None, reason=_TRUNCATED))
        elif damaged and sum(_length_s(loss) for loss in self.losses) < _DAMAGE_TOLERANCE_S:
            self.losses.clear()
            self.notes.append(f"less than {_DAMAGE_TOLERANCE_S} s of it is damaged and was left out")
        self.duration_s = decoded_s


class _Converter:
    """Resample with libswresample, with a new resampler where a stream changes its format in the middle."""

    def __init__(self) -> None:
        self._resampler: AudioResampler | None = None
        self._format: tuple[object, ...] = ()

    def convert(self, frame: av.AudioFrame) -> Samples:
        """Return the mono samples at 16 kHz of a frame."""
        frame_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        rest = self.flush() if frame_format != self._format else np.empty(0, dtype=np.float32)
        if self._resampler is None:
            self._format = frame_format
            # With all channels: the average is computed here, because libswresample's own is 3 dB louder. Not planar:
            # from the ninth plane on PyAV reads memory outside the frame.
            self._resampler = AudioResampler(format="flt", layout=frame.layout.name, rate=SAMPLE_RATE_HZ)
        # Only the order of the frames matters here; the resampler would log odd time stamps.
        frame.pts = None
        return _joined([rest, *map(_mono, self._resampler.resample(frame))])

    def flush(self) -> Samples:
        """Return the samples that the resampler still has."""
        if self._resampler is None:
            return np.empty(0, dtype=np.float32)
        resampler, self._resampler = self._resampler, None
        return _joined([_mono(frame) for frame in resampler.resample(None)])


class _Clock:
    """Compare the time stamps of frames with the samples before them."""

    def __init__(self, start_s: float | None) -> None:
        self._expected_s = start_s

    def pause_before(self, frame: av.AudioFrame) -> float:
        """Return the seconds without samples before a frame; zero for most frames."""
        length_s = frame.samples / frame.sample_rate
        if frame.time is None:
            if self._expected_s is not None:
                self._expected_s += length_s
            return 0.0
        pause_s = 0.0 if self._expected_s is None else frame.time - self._expected_s
        if not _SHORTEST_PAUSE_S <= pause_s <= _LONGEST_PAUSE_S:
            # Rounding is not corrected, or it would accumulate; another clock replaces the expected time.
            same_clock = self._expected_s is not None and abs(pause_s) < _SHORTEST_PAUSE_S
            start_s = self._expected_s if same_clock and self._expected_s is not None else frame.time
            self._expected_s = start_s + length_s
            return 0.0
        self._expected_s = frame.time + length_s
        return pause_s


def _open(path: Path, options: Mapping[str, str]) -> InputContainer:
    if not path.exists():
        raise AudioError(path, "there is no such file", "Check its name")
    if path.is_dir():
        raise AudioError(path, "it is a folder", "Name the recordings in it, one by one")
    if path.is_file() and path.stat().st_size == 0:
        raise AudioError(path, "it is empty (zero bytes)", _REMEDY)
    try:
        # Without `file:` a colon in a name would choose a protocol; without the list a playlist could use the network.
        return av.open(f"file:{path}", options={"protocol_whitelist": "file", **options}, metadata_errors="replace")
    except PermissionError as error:
        raise AudioError(path, "you have no permission to read it", f"Run `chmod u+r {path}` as its owner") from error
    except (av.FFmpegError, OSError) as error:
        cause = "it cannot be decoded as a recording: another kind of file, or a damaged or incomplete one"
        raise AudioError(path, cause, _REMEDY) from error


def _audio_stream(container: InputContainer, path: Path) -> AudioStream:
    if not container.streams.audio:
        raise AudioError(path, "it has no audio stream, only pictures or text", "Choose a file with sound")
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream) or not stream.rate:
        raise AudioError(path, "its audio stream cannot be decoded", _REMEDY)
    return stream


def _container_start_s(container: InputContainer) -> float | None:
    """Return the start of a video, whose sound may begin later: subtitles count from it. None for sound alone."""
    if len(container.streams) == 1 or container.start_time is None or containers.is_seamless(container):
        return None
    return container.start_time / 1e6


def _telephone_note(rate_hz: int) -> list[str]:
    if rate_hz > TELEPHONE_RATE_HZ:
        return []
    return [f"it is sampled at {rate_hz / 1000:g} kHz (telephone), so expect more wrong words than at 16 kHz"]


def _length_s(loss: Loss) -> float:
    return math.inf if loss.end_s is None else loss.end_s - loss.start_s


def _mono(frame: av.AudioFrame) -> Samples:
    samples: Samples = frame.to_ndarray().reshape(-1, frame.layout.nb_channels).mean(axis=1, dtype=np.float32)
    return samples


def _joined(parts: list[Samples]) -> Samples:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
