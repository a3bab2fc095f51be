"""Samples from the frames of a session: raw audio, and files of many formats in pieces."""

import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from contract.errors import AudioError
from service.realtime.audio import FileDecoder, RawDecoder, _index_place
from service.realtime.spool import Frame, Spool
from tests.unit.transcriber.sounds import burst, encode, silence, wav
from transcriber.audio import Recording, Samples
from transcriber.raw import RawFormat

RATE_HZ = 16_000


def decoded(name: str, rate_hz: int, data: bytes, size: int) -> Samples:
    decoder = RawDecoder(RawFormat(name=name, sample_rate_hz=rate_hz), RATE_HZ)
    parts = [decoder.decode(data[start : start + size]) for start in range(0, len(data), size)]
    return np.concatenate([*parts, decoder.finish()])


@pytest.mark.parametrize(("name", "kind"), [("s16le", "<i2"), ("f32le", "<f4")])
@pytest.mark.parametrize("size", [1, 3, 4096, 100_000])
def test_raw_samples_in_frames_of_any_size(name: str, kind: str, size: int) -> None:
    samples = burst(0.5)
    values = (samples * 32_768).clip(-32_768, 32_767).astype(kind) if name == "s16le" else samples.astype(kind)
    expected = values.astype(np.float32) / (32_768 if name == "s16le" else 1)
    assert np.array_equal(decoded(name, RATE_HZ, values.tobytes(), size), expected)


def test_mulaw_is_that_of_libav(tmp_path: Path) -> None:
    codes = np.arange(256, dtype=np.uint8).tobytes()
    path = tmp_path / "a.mulaw"
    path.write_bytes(codes)
    recording = Recording(path, raw=RawFormat(name="mulaw", sample_rate_hz=RATE_HZ), sample_rate_hz=RATE_HZ)
    assert np.array_equal(decoded("mulaw", RATE_HZ, codes, 10), np.concatenate(list(recording.blocks())))


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_resampling_does_not_depend_on_the_frames(rate_hz: int) -> None:
    data = (burst(1.0, rate_hz) * 32_767).astype("<i2").tobytes()
    whole = decoded("s16le", rate_hz, data, len(data))
    assert whole.size == pytest.approx(RATE_HZ, abs=RATE_HZ // 1000)
    assert np.array_equal(decoded("s16le", rate_hz, data, 999), whole)
    middle = slice(RATE_HZ // 4, 3 * RATE_HZ // 4)
    assert np.corrcoef(whole[middle], burst(1.0)[middle])[0, 1] > 0.95


def test_impossible_samples_become_silence() -> None:
    values = burst(0.1)
    values[100:200] = np.nan
    values[300] = 1e30
    found = decoded("f32le", RATE_HZ, values.astype("<f4").tobytes(), 1000)
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 1.0


class Sent:
    """A file that is sent in frames to a decoder."""

    def __init__(self, data: bytes, *, size: int = 4096, ends: bool = True) -> None:
        self.spool: Spool[str] = Spool()
        self.taken, self.commands = 0, list[str]()
        for start in range(0, len(data), size):
            self.spool.put(Frame(data[start : start + size]))
        if ends:
            self.spool.end()
        self.decoder = FileDecoder(self.spool, RATE_HZ, self._count)
        self.frames = -(-len(data) // size)

    def _count(self) -> None:
        self.taken += 1

    def blocks(self) -> Iterator[Samples]:
        """Yield the samples, and note the commands."""
        for item in self.decoder.items():
            if isinstance(item, str):
                self.commands.append(item)
            else:
                yield item

    def samples(self) -> Samples:
        return np.concatenate([np.empty(0, dtype=np.float32), *self.blocks()])

    def close(self) -> None:
        self.spool.abort()
        self.decoder.close()


@pytest.fixture
def talk() -> Samples:
    return np.concatenate([silence(0.5), burst(3), silence(0.5)])


def mp4(path: Path, samples: Samples, flags: str) -> bytes:
    """Return an MP4 that is written with flags of libav's muxer."""
    with av.open(str(path), "w", options={"movflags": flags}) as container:
        stream = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="fltp", layout="mono")
        frame.sample_rate = RATE_HZ
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE_HZ, frame_size=1024)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(part))
    return path.read_bytes()


FORMATS = {
    "wav": ("a.wav", "pcm_s16le", 16_000),
    "mp3": ("a.mp3", "libmp3lame", 44_100),
    "aac": ("a.aac", "aac", 44_100),
    "ogg": ("a.ogg", "libopus", 48_000),
    "vorbis": ("a.ogg", "vorbis", 44_100),
    "flac": ("a.flac", "flac", 16_000),
    "webm": ("a.webm", "libopus", 48_000),
    "m4a": ("a.m4a", "aac", 44_100),
    "mpeg": ("a.mpg", "mp2", 44_100),
    "aiff": ("a.aiff", "pcm_s16be", 16_000),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [777, 4096, 1 << 20])
def test_decodes_files_in_pieces(name: str, size: int, tmp_path: Path) -> None:
    """As when it is read from the disk; every frame is taken once."""
    file, codec, rate_hz = FORMATS[name]
    sound = np.concatenate([silence(0.5, rate_hz), burst(3, rate_hz), silence(0.5, rate_hz)])
    path = encode(tmp_path / file, sound, rate_hz, codec)
    sent = Sent(path.read_bytes(), size=size)
    found, expected = sent.samples(), np.concatenate(list(Recording(path).blocks()))
    assert found.size == pytest.approx(expected.size, abs=RATE_HZ // 10)
    length = min(found.size, expected.size)
    assert np.abs(found[:length] - expected[:length]).max() < 1e-4
    assert sent.taken == sent.frames


def until_command(items: Iterator[Samples | str]) -> tuple[int, str]:
    """Return the number of samples before the next command, and the command."""
    count = 0
    for item in items:
        if isinstance(item, str):
            return count, item
        count += item.size
    raise AssertionError


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"m4a"}))
def test_command_follows_what_was_sent_before(name: str, tmp_path: Path) -> None:
    """Also where nothing follows it, as in a pause."""
    file, codec, rate_hz = FORMATS[name]
    data = encode(tmp_path / file, burst(12, rate_hz), rate_hz, codec).read_bytes()
    sent = Sent(b"", ends=False)
    items = sent.decoder.items()
    sent.spool.put("first")
    assert until_command(items) == (0, "first")
    for start in range(0, len(data), 4096):
        sent.spool.put(Frame(data[start : start + 4096]))
    sent.spool.put("second")
    count, command = until_command(items)
    assert command == "second"
    # libav keeps the last frames of some formats until the next ones come.
    assert 5 * RATE_HZ < count < 12.2 * RATE_HZ
    sent.spool.put("third")
    assert until_command(items) == (0, "third")
    sent.spool.end()
    rest = sum(item.size for item in items if not isinstance(item, str))
    assert count + rest == pytest.approx(12 * RATE_HZ, abs=RATE_HZ // 5)


def test_commands_follow_a_file_that_is_decoded_at_its_end(tmp_path: Path, talk: Samples) -> None:
    sent = Sent(encode(tmp_path / "a.m4a", talk, RATE_HZ, "aac").read_bytes(), ends=False)
    for command in ("first", "second"):
        sent.spool.put(command)
    sent.spool.end()
    items = sent.decoder.items()
    count, command = until_command(items)
    assert count == pytest.approx(talk.size, abs=RATE_HZ // 10)
    assert [command, *items] == ["first", "second"]


def test_command_after_the_end_of_the_sound(tmp_path: Path, talk: Samples) -> None:
    """Only an index may follow the sound, and the client has not ended the stream."""
    sent = Sent(mp4(tmp_path / "a.mp4", talk, "faststart"), ends=False)
    items = sent.decoder.items()
    count = 0
    for block in items:
        if isinstance(block, str) or not block.size:
            break
        count += block.size
    assert count == pytest.approx(talk.size, abs=RATE_HZ // 5)
    sent.spool.put(Frame(bytes(100_000)))
    sent.spool.put("late")
    assert until_command(items) == (0, "late")
    sent.spool.end()
    assert not list(items)


@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov+default_base_moof"])
def test_streamed_mp4_begins_before_its_end(flags: str, tmp_path: Path, talk: Samples) -> None:
    sent = Sent(mp4(tmp_path / "a.mp4", talk, flags), ends=False)
    blocks = sent.blocks()
    assert next(blocks).size
    sent.close()


def test_index_of_mp4(tmp_path: Path, talk: Samples) -> None:
    """A box of any kind may come before; the index of a plain m4a comes last."""
    plain = encode(tmp_path / "a.m4a", talk, RATE_HZ, "aac").read_bytes()
    assert _index_place(plain) == b"mdat"
    assert _index_place(plain[:30]) is None
    assert _index_place(b"\0\0\0\x08free\0\0\0\x10moov" + bytes(8)) == b"moov"
    assert (
        _index_place(b"\0\0\0\x01free" + (24).to_bytes(8, "big") + bytes(8) + b"\0\0\0\x10moof" + bytes(8)) == b"moof"
    )
    assert _index_place(b"\0\0\0\x00free" + bytes(20)) == b"mdat"


@pytest.mark.parametrize(
    "data",
    [
        bytes(100_000),
        b"this is text, not sound. " * 4000,
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400,
        b"%PDF-1.7 " + bytes(range(256)) * 400,
        b"PK\x03\x04" + bytes(range(256)) * 400,
    ],
    ids=["zeros", "text", "png", "pdf", "zip"],
)
def test_rejects_other_data_before_the_end_of_the_stream(data: bytes) -> None:
    sent = Sent(data, ends=False)
    with pytest.raises(AudioError):
        sent.samples()
    sent.close()


@pytest.mark.parametrize("size", [1, 20, 3000])
def test_rejects_fragment_of_a_file(size: int, tmp_path: Path, talk: Samples) -> None:
    data = encode(tmp_path / "a.flac", talk, RATE_HZ, "flac").read_bytes()[:size]
    with pytest.raises(AudioError):
        Sent(data).samples()


def test_nothing_is_no_error() -> None:
    assert Sent(b"").samples().size == 0


def test_pictures_may_come_before_the_sound(tmp_path: Path) -> None:
    """An MP3 with 200 kB of pictures in its tag."""
    sound = encode(tmp_path / "a.mp3", burst(4, 44_100), 44_100, "libmp3lame").read_bytes()
    size = 200_000
    tag = b"ID3\x04\0\0" + bytes((size >> shift) & 127 for shift in (21, 14, 7, 0)) + bytes(size)
    found = Sent(tag + sound).samples()
    assert found.size == pytest.approx(4 * RATE_HZ, abs=RATE_HZ // 10)


def test_close_ends_all_threads(tmp_path: Path, talk: Samples) -> None:
    """A client leaves in the middle of a file that was not read to its end."""
    before = threading.active_count()
    path = wav(tmp_path / "long.wav", np.tile(talk, 30))
    sent = Sent(path.read_bytes(), ends=False)
    assert next(sent.blocks()).size
    sent.close()
    for thread in threading.enumerate():
        if thread.name in ("pump", "source"):
            thread.join(5)
    assert threading.active_count() <= before


def test_small_bomb_is_decoded_in_blocks(tmp_path: Path) -> None:
    """Two hours of silence in a FLAC of a few hundred kilobytes: never more than a second at a time."""
    path = tmp_path / "bomb.flac"
    soundfile.write(path, np.zeros(16_000 * 600, dtype=np.float32), RATE_HZ)
    sizes = [block.size for block in Sent(path.read_bytes()).blocks()]
    assert max(sizes) <= RATE_HZ
    assert sum(sizes) == 16_000 * 600
