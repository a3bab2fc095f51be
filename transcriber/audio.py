"""Decode any common recording to mono, block by block, and report the parts that could not be read."""

import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from contract.errors import AudioError
from transcriber import containers
from transcriber.containers import Part
from transcriber.conversion import Channels, Cleaner, Converter, Impossible, Joiner, Mixer, Samples
from transcriber.raw import RawFormat
from transcriber.transcript import Loss, clock

__all__ = ["Recording", "Samples"]

SAMPLE_RATE_HZ = 16_000
TELEPHONE_RATE_HZ = 8_000
# Encoders round the end of a recording to their frame. If more than this is missing, the recording was truncated.
_MISSING_TOLERANCE_S = 0.5
# A damaged frame at either end of an MP3 is usual and contains no word.
_DAMAGE_TOLERANCE_S = 0.1
# A shorter jump of the time stamps is rounding; a longer one is another clock, not a pause.
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 3_600.0
_NAMED_SPANS = 5
# A recording has blocks of a second: frames of 10 to 90 ms would cost more than their decoding. Its channels are mixed
# in quarters of a block. A stream has the blocks of its frames.
_MIXES_PER_BLOCK = 4
# libav buffers the first 3.3 s of a WAV from a pipe to detect its format; with these options 2.1 s, the least possible.
_LIVE_OPTIONS = MappingProxyType({"probesize": "4096", "analyzeduration": "100000"})
_TRUNCATED, _DAMAGED = "the file is truncated", "its data is damaged"
_DAMAGED_OR_TRUNCATED = "the file is damaged or truncated"
_IMPOSSIBLE = "its samples are not numbers or far too large"
_OLD_HEADER = "the file is longer than its header states"
_REMEDY = "Check that it is a complete sound file, and that a player can play it"


class Recording:
    """A recording that is read once, from front to back.

    `losses` and `notes` are complete when `blocks` is exhausted.
    """

    def __init__(
        self,
        path: Path,
        *,
        live: bool = False,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        raw: RawFormat | None = None,
        track: int | None = None,
        channel: int | None = None,
    ) -> None:
        """Open a recording; raise AudioError when no sound can be decoded from it.

        For a `live` one libav reads as little as possible before the first samples. `raw` is the format of samples
        without a header. `track` is a sound track, counted from 1, instead of the one that players choose. `channel` is
        a channel, counted from 1, instead of the average of all.
        """
        self.path = path
        self.sample_rate_hz, self._raw, self._track_number = sample_rate_hz, raw, track
        self._options = dict(_LIVE_OPTIONS) if live else {}
        mixed = 0 if live else sample_rate_hz // _MIXES_PER_BLOCK
        self._block = mixed * _MIXES_PER_BLOCK
        self._parts = [Part()] if raw is not None else _parts(path)
        self._container, self._stream = self._open_part(self._parts[0])
        self._first_channels = self._stream.codec_context.layout.nb_channels
        self._channel = None if channel is None else channel - 1
        if self._channel is not None and not (self._channel >= 0 and self._has_channels(self._channel + 1)):
            self._container.close()
            cause = f"it has no channel {channel}, only {self.channels}"
            raise AudioError(path, cause, "Choose another channel")
        self.duration_s: float | None = None
        if len(self._parts) == 1 and not self._parts[0].is_older_than_its_data:
            self.duration_s = self._declared_s()
        self.losses: list[Loss] = []
        self.notes: list[str] = [*_telephone_note(self._stream.rate, sample_rate_hz), *self._track_note()]
        self._unread: list[Loss] = []
        """Where channels begin in the middle."""
        self._position_s = 0.0
        self._cleaner, self._mixer = Cleaner(self._channel), Mixer(sample_rate_hz, mixed)

    @functools.cached_property
    def channels(self) -> int:
        """Return the number of channels of the file; of joined recordings, the largest."""
        most = self._first_channels
        for part in self._parts[1:]:
            try:
                container, stream = self._open_part(part)
            except AudioError:
                break  # nothing is read from there on
            with container:
                most = max(most, stream.codec_context.layout.nb_channels)
        return most

    def blocks(self) -> Iterator[Samples]:
        """Yield mono samples in [-1, 1], at most one second per block: one channel, or the average of all.

        Packets that are damaged or absent (as in the pauses of voice chats) become silence, so that times stay correct.
        So do samples that are not numbers or far too large. Raises AudioError at the end when no sample was decoded.
        """
        decoded = 0
        for number, part in enumerate(self._parts):
            if number and not self._open_next(part, decoded / self.sample_rate_hz):
                break
            begin = decoded
            with self._container:
                for block in self._mixed():
                    for start in range(0, block.size, self.sample_rate_hz):
                        yield block[start : start + self.sample_rate_hz]
                    decoded += block.size
                self._check_completeness(part, begin / self.sample_rate_hz, decoded / self.sample_rate_hz)
        self._finish(decoded / self.sample_rate_hz)
        if decoded == 0:
            raise AudioError(self.path, "it contains no sound at all (zero samples)", _REMEDY)

    def _has_channels(self, count: int) -> bool:
        # To open thousands of joined recordings takes seconds, and most files have all channels in the first one.
        return count <= self._first_channels or count <= self.channels

    def close(self) -> None:
        """Close the file without reading the rest."""
        self._container.close()

    def _open_part(self, part: Part) -> tuple[InputContainer, AudioStream]:
        container = _open(self.path, self._options, part, self._raw)
        try:
            return container, _audio_stream(container, self.path, self._track_number)
        except AudioError:
            container.close()
            raise

    def _open_next(self, part: Part, position_s: float) -> bool:
        try:
            self._container, self._stream = self._open_part(part)
        except AudioError:
            self.losses.append(Loss(start_s=position_s, end_s=None, reason=_DAMAGED))
            return False
        self._position_s = position_s
        return True

    def _declared_s(self) -> float | None:
        return containers.declared_duration_s(self._container, self._stream, self.path)

    def _track_note(self) -> list[str]:
        tracks = list(self._container.streams.audio)
        if len(tracks) == 1:
            return []
        names = ", ".join(_track_name(number, track) for number, track in enumerate(tracks, start=1))
        chosen = tracks.index(self._stream) + 1
        return [f"it has {len(tracks)} sound tracks ({names}), and this is track {chosen}; --track chooses another"]

    def _mixed(self) -> Iterator[Samples]:
        for channels in self._with_silence():
            if self._channel is None:
                yield channels[:, 0] if channels.shape[1] == 1 else self._mixer.mix(channels)
            elif self._channel < channels.shape[1]:
                yield channels[:, self._channel].copy()
            else:
                yield np.zeros(len(channels), dtype=np.float32)

    def _with_silence(self) -> Iterator[Channels]:
        """Resample the frames, with silence where the time stamps of the frames run ahead of their samples."""
        joiner = Joiner(self._cleaner, self._block / self.sample_rate_hz)
        converter = Converter(self.sample_rate_hz, self._block)
        stamps = _Clock(_container_start_s(self._container))
        for frame in self._frames():
            pause_s = stamps.pause_before(frame)
            if pause_s > 0:
                if containers.is_seamless(self._container):
                    self._note_damage(pause_s)
                self._position_s += pause_s
                yield from converter.convert(*joiner.flush())
                yield from converter.flush()
                yield from _silence(round(pause_s * self.sample_rate_hz), self.sample_rate_hz)
            self._note_channels(frame)
            yield from converter.convert(*joiner.add(frame, self._position_s))
            self._position_s += frame.samples / frame.sample_rate
        yield from converter.convert(*joiner.flush())
        yield from converter.flush()

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
        # The packet that could not be decoded, and the pause that it leaves, are one loss.
        _extend(self.losses, self._position_s, self._position_s + length_s, _DAMAGED)

    def _note_channels(self, frame: av.AudioFrame) -> None:
        """Note a frame with more channels than are known: in most kinds of joined files libav reads on."""
        if self._channel is None:
            return
        count = frame.layout.nb_channels
        if not self._has_channels(count):
            reason = f"only {self.channels} of its {count} channels could be read"
            _extend(self._unread, self._position_s, self._position_s + frame.samples / frame.sample_rate, reason)

    def _check_completeness(self, part: Part, begin_s: float, end_s: float) -> None:
        """Compare the decoded duration of a part with the duration that its header states."""
        if part.is_older_than_its_data:
            self._check_old_header(end_s)
            return
        stated_s = self._declared_s()
        declared_s = None if stated_s is None else begin_s + stated_s
        truncated = declared_s is not None and declared_s - end_s > _MISSING_TOLERANCE_S
        if truncated:
            # The last packet of a truncated file is damaged too: that is the same loss.
            self.losses = [loss for loss in self.losses if loss.start_s < end_s - _MISSING_TOLERANCE_S]
        damaged = any(loss.start_s >= begin_s for loss in self.losses)
        if truncated:
            # In a damaged MP3 frames can be missing without any sign of it, so its end comes too early.
            reason = _DAMAGED_OR_TRUNCATED if damaged else _TRUNCATED
            self.losses.append(Loss(start_s=end_s, end_s=declared_s, reason=reason))
        elif not damaged and self._raw is None and self._lacks_bytes(part):
            self.losses.append(Loss(start_s=end_s, end_s=None, reason=_TRUNCATED))

    def _lacks_bytes(self, part: Part) -> bool:
        bytes_per_s = (self._stream.codec_context.bit_rate or 0) / 8
        tolerated = max(1, round(_DAMAGE_TOLERANCE_S * bytes_per_s))
        return part.end is None and containers.is_truncated(self.path, part.start, tolerated)

    def _check_old_header(self, end_s: float) -> None:
        if self._container.format.name == "wav":
            self.notes.append(f"{_OLD_HEADER}, as after a crash of the recorder; all of it was read")
        else:
            self.losses.append(Loss(start_s=end_s, end_s=None, reason=_OLD_HEADER))

    def _finish(self, decoded_s: float) -> None:
        """Complete the losses and the notes."""
        if self.losses and sum(_length_s(loss) for loss in self.losses) < _DAMAGE_TOLERANCE_S:
            self.losses.clear()
            self.notes.append(f"less than {_DAMAGE_TOLERANCE_S} s of it is damaged and was left out")
        spans = self._cleaner.spans
        noted = [span for span in spans if span.silent_s < _DAMAGE_TOLERANCE_S]
        if noted:
            self.notes.append(f"samples that are not numbers or far too large were left out: {_named(noted)}")
        self.losses += [
            Loss(start_s=span.start_s, end_s=span.end_s, reason=_IMPOSSIBLE) for span in spans if span not in noted
        ]
        self.losses += self._unread
        self.losses.sort(key=lambda loss: loss.start_s)
        if self._mixer.turned:
            which = " and ".join(str(channel + 1) for channel in sorted(self._mixer.turned))
            plural = len(self._mixer.turned) > 1
            self.notes.append(
                f"{'channels' if plural else 'channel'} {which} {'are' if plural else 'is'} in opposite phase, "
                f"and {'were' if plural else 'was'} turned"
            )
        self.duration_s = decoded_s


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


def _parts(path: Path) -> list[Part]:
    try:
        return containers.parts(path)
    except OSError:
        return [Part()]  # _open reports the reason
    except ValueError as error:
        raise AudioError(path, str(error), "Join their samples instead of the files") from error


def _open(path: Path, options: Mapping[str, str], part: Part, raw: RawFormat | None) -> InputContainer:
    if not path.exists():
        raise AudioError(path, "there is no such file", "Check its name")
    if path.is_dir():
        raise AudioError(path, "it is a folder", "Name the recordings in it, one by one")
    if path.is_file() and path.stat().st_size == 0:
        raise AudioError(path, "it is empty (zero bytes)", _REMEDY)
    # Without `file:` a colon in a name would choose a protocol; without the list a playlist could use the network.
    url, chosen = f"file:{path}", {"protocol_whitelist": "file,subfile", **options}
    if part.start or part.end is not None:
        url = f"subfile,,start,{part.start},end,{part.end or 0},,:{url}"
    if part.is_older_than_its_data or not path.is_file():
        # What follows in a pipe cannot be looked up: it is sound, but for the few bytes of a trailing chunk.
        chosen["ignore_length"] = "1"
    try:
        if raw is not None:
            return av.open(url, format=raw.name, options=chosen | raw.options)
        return av.open(url, options=chosen, metadata_errors="replace")
    except PermissionError as error:
        raise AudioError(path, "you have no permission to read it", f"Run `chmod u+r {path}` as its owner") from error
    except (av.FFmpegError, OSError) as error:
        cause = "it cannot be decoded as a recording: another kind of file, or a damaged or incomplete one"
        raise AudioError(path, cause, f"{_REMEDY}; for samples without a header use --raw") from error


def _audio_stream(container: InputContainer, path: Path, number: int | None) -> AudioStream:
    tracks = container.streams.audio
    if not tracks:
        raise AudioError(path, "it has no audio stream, only pictures or text", "Choose a file with sound")
    if number is not None and not 1 <= number <= len(tracks):
        cause = f"it has no sound track {number}, only {len(tracks)}"
        raise AudioError(path, cause, "Choose another --track, or leave it out")
    stream = container.streams.best("audio") if number is None else tracks[number - 1]
    if not isinstance(stream, AudioStream) or not stream.rate:
        raise AudioError(path, "its audio stream cannot be decoded", _REMEDY)
    return stream


def _track_name(number: int, track: AudioStream) -> str:
    language = track.metadata.get("language", "und")
    names = [
        *([] if language == "und" else [language]),
        *([track.metadata["title"]] if track.metadata.get("title") else []),
    ]
    return " ".join([f"{number}:", *names]) if names else str(number)


def _container_start_s(container: InputContainer) -> float | None:
    """Return the start of a video, whose sound may begin later: subtitles count from it. None for sound alone."""
    if len(container.streams) == 1 or container.start_time is None or containers.is_seamless(container):
        return None
    return container.start_time / 1e6


def _telephone_note(rate_hz: int, wanted_hz: int) -> list[str]:
    if rate_hz > TELEPHONE_RATE_HZ or rate_hz >= wanted_hz:
        return []
    worse = f"so expect more wrong words than at {wanted_hz / 1000:g} kHz"
    return [f"it is sampled at {rate_hz / 1000:g} kHz (telephone), {worse}"]


def _extend(losses: list[Loss], start_s: float, end_s: float, reason: str) -> None:
    """Add a loss to a list, or lengthen the last one where it reaches to it."""
    last = losses[-1] if losses else None
    if last is not None and last.end_s is not None and start_s <= last.end_s:
        start_s, end_s = last.start_s, max(last.end_s, end_s)
        losses.pop()
    losses.append(Loss(start_s=start_s, end_s=end_s, reason=reason))


def _length_s(loss: Loss) -> float:
    return math.inf if loss.end_s is None else loss.end_s - loss.start_s


def _named(spans: list[Impossible]) -> str:
    named = [f"{clock(span.start_s)} to {clock(span.end_s)}" for span in spans[:_NAMED_SPANS]]
    rest = len(spans) - len(named)
    return ", ".join(named) + (f" and {rest} more" if rest else "")


def _silence(length: int, longest: int) -> Iterator[Channels]:
    for start in range(0, length, longest):
        yield np.zeros((min(longest, length - start), 1), dtype=np.float32)
