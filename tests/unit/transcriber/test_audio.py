"""Decode every common kind and rate, and report everything that is not a complete recording."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from contract.errors import AudioError, SettingError
from tests.unit.transcriber.sounds import add_audio, burst, encode, silence, wav
from transcriber import containers, raw
from transcriber.audio import Recording
from transcriber.transcript import Loss

CODECS = {
    "wav": "pcm_s16le",
    "flac": "flac",
    "mp3": "libmp3lame",
    "ogg": "vorbis",
    "opus": "libopus",
    "m4a": "aac",
    "webm": "libopus",
}
RATES_HZ = (8_000, 22_050, 44_100, 48_000)
CHECK = "Check that it is a complete sound file, and that a player can play it."
RAW = "Check that it is a complete sound file, and that a player can play it; for samples without a header use --raw."


def read(path: Path) -> tuple[NDArray[np.float32], Recording]:
    recording = Recording(path)
    return np.concatenate(list(recording.blocks())), recording


def refusal(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        read(path)
    assert caught.value.exit_code == 50
    return str(caught.value)


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("kind", CODECS)
def test_decodes_to_16_khz_mono(tmp_path: Path, kind: str, rate_hz: int, layout: str) -> None:
    if CODECS[kind] == "libopus" and rate_hz not in (8_000, 48_000):
        pytest.skip("Opus has no such rate")
    path = encode(tmp_path / f"a.{kind}", burst(1.0, rate_hz), rate_hz, CODECS[kind], layout)
    samples, recording = read(path)
    assert samples.dtype == np.float32
    # AAC and MP3 at low rates carry up to two frames of the encoder's delay.
    assert samples.size / 16_000 == pytest.approx(1.0, abs=0.2)
    assert recording.losses == []
    # The same sound as from lossless 16 kHz, except for a shift that some codecs add.
    expected = burst(1.0)
    spectra = [np.abs(np.fft.rfft(part, 32_768))[200:6_000] for part in (samples, expected)]
    assert np.corrcoef(spectra[0], spectra[1])[0, 1] > (0.7 if (kind, rate_hz) == ("mp3", 8_000) else 0.95)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.12)


def test_lossless_samples_are_kept(tmp_path: Path) -> None:
    expected = burst(0.7)
    samples, _ = read(wav(tmp_path / "a.wav", expected))
    assert samples.shape == expected.shape
    assert np.abs(samples - expected).max() < 1e-4


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = burst(0.5, level=0.8), silence(0.5)
    samples, _ = read(encode(tmp_path / "a.wav", np.stack((left, right)), 16_000, "pcm_s16le", "stereo"))
    assert np.abs(samples - left / 2).max() < 1e-3


def test_blocks_are_at_most_a_second(tmp_path: Path) -> None:
    recording = Recording(wav(tmp_path / "a.wav", burst(3.3)))
    assert recording.duration_s == pytest.approx(3.3)
    assert max(block.size for block in recording.blocks()) <= 16_000


def test_telephone_quality_is_noted(tmp_path: Path) -> None:
    _, recording = read(wav(tmp_path / "a.wav", burst(0.5, 8_000), 8_000))
    assert recording.notes == ["it is sampled at 8 kHz (telephone), so expect more wrong words than at 16 kHz"]


def test_colon_in_a_name_is_not_a_protocol(tmp_path: Path) -> None:
    samples, _ = read(wav(tmp_path / "a.wav", burst(0.5)).rename(tmp_path / "http:10.30.wav"))
    assert samples.size == 8_000


def test_missing(tmp_path: Path) -> None:
    path = tmp_path / "nope.wav"
    assert refusal(path) == f"{path}: there is no such file. Check its name."


def test_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: it is a folder. Name the recordings in it, one by one."


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    path.touch()
    assert refusal(path) == f"{path}: it is empty (zero bytes). {CHECK}"


@pytest.mark.parametrize("content", [b"Dear diary,\n" * 50, bytes(range(256)) * 40, b"RIFF"])
def test_not_audio(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.wav"
    path.write_bytes(content)
    cause = "it cannot be decoded as a recording: another kind of file, or a damaged or incomplete one"
    assert refusal(path) == f"{path}: {cause}. {RAW}"


def test_pictures_only(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for part in (av.VideoFrame(64, 64, "yuv420p"), None):
            container.mux(stream.encode(part))
    assert refusal(path) == f"{path}: it has no audio stream, only pictures or text. Choose a file with sound."


def test_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "header.wav"
    path.write_bytes(wav(tmp_path / "a.wav", burst(0.5)).read_bytes()[:78])
    size = path.stat().st_size
    content = bytearray(path.read_bytes())
    content[4:8] = (size - 8).to_bytes(4, "little")
    content[size - 4 :] = bytes(4)
    path.write_bytes(content)
    assert refusal(path) == f"{path}: it contains no sound at all (zero samples). {CHECK}"


@pytest.mark.parametrize("kind", ["flac", "mp3", "webm"])
def test_truncated_where_the_length_is_known(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"a.{kind}", burst(6.0, 48_000), 48_000, CODECS[kind])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    samples, recording = read(path)
    assert 1.5 < samples.size / 16_000 < 4.5
    loss = recording.losses[-1]
    assert loss.reason == "the file is truncated"
    assert loss.start_s == samples.size / 16_000
    assert loss.end_s == pytest.approx(6.0, abs=0.1)


@pytest.mark.parametrize("kind", ["wav", "ogg", "opus"])
def test_truncated_where_only_bytes_are_known(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"a.{kind}", burst(6.0, 48_000), 48_000, CODECS[kind])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3 + 7])
    samples, recording = read(path)
    assert recording.losses == [Loss(start_s=samples.size / 16_000, end_s=None, reason="the file is truncated")]


def test_accepts_header_without_length(tmp_path: Path) -> None:
    content = bytearray(wav(tmp_path / "a.wav", burst(0.5)).read_bytes())
    content[4:8] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(content)
    assert read(tmp_path / "a.wav")[1].losses == []


@pytest.mark.parametrize("kind", ["flac", "opus"])
def test_damage_becomes_silence_of_the_same_length(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"a.{kind}", burst(6.0, 48_000), 48_000, CODECS[kind])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4_000] = bytes(4_000)
    path.write_bytes(content)
    samples, recording = read(path)
    assert samples.size / 16_000 == pytest.approx(6.0, abs=0.3)
    assert len(recording.losses) == 1
    (loss,) = recording.losses
    assert loss.reason == "its data is damaged"
    assert 1.0 < loss.start_s < 4.0
    assert loss.end_s is not None
    assert 0.1 < loss.end_s - loss.start_s < 3.0


def test_gap_in_time_stamps_becomes_silence(tmp_path: Path) -> None:
    """Voice chats send no packets in pauses: only the time stamps show them."""
    path = tmp_path / "chat.mkv"
    with av.open(str(path), "w") as container:
        stream = add_audio(container, "pcm_s16le", 16_000, "mono")
        for start in (0, 16_000, 64_000):
            values = (burst(1.0) * 32_767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
            container.mux(stream.encode(frame))
    samples, recording = read(path)
    assert samples.size == pytest.approx(80_000, abs=50)
    assert np.abs(samples[33_000:63_000]).max() == 0.0
    assert recording.losses == []


def test_late_sound_keeps_the_time_of_the_film(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        stream = add_audio(container, "pcm_s16le", 16_000, "mono")
        for number in range(50):
            picture = av.VideoFrame(64, 64, "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            container.mux(pictures.encode(picture))
        container.mux(pictures.encode(None))
        frame = av.AudioFrame.from_ndarray((burst(0.5) * 32_767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 16_000, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
    samples, recording = read(path)
    assert samples.size == pytest.approx(24_000, abs=50)
    assert np.abs(samples[:15_900]).max() == 0.0
    assert recording.losses == []


def test_reads_a_pipe(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", burst(0.5))
    script = (
        "from pathlib import Path; from transcriber.audio import Recording;"
        "print(sum(block.size for block in Recording(Path('/dev/stdin')).blocks()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=path.read_bytes(), capture_output=True, check=False, timeout=60
    )
    assert done.stdout == b"8000\n", done.stderr


@pytest.mark.parametrize("channels", [3, 8, 9, 17])
def test_averages_any_number_of_channels(tmp_path: Path, channels: int) -> None:
    samples = np.zeros((16_000, channels), dtype=np.float32)
    samples[:, 0] = burst(1.0)
    path = tmp_path / "talk.wav"
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    decoded = np.concatenate(list(Recording(path).blocks()))
    assert np.abs(decoded - samples[:, 0] / channels).max() < 1e-3


def test_accepts_tags_in_latin_1(tmp_path: Path) -> None:
    """Some recorders write the title in Latin-1."""
    path = wav(tmp_path / "talk.wav", burst(1.0))
    content = path.read_bytes()
    title = b"INFOINAM" + (6).to_bytes(4, "little") + b"caf\xe9\x00\x00"
    path.write_bytes(content + b"LIST" + len(title).to_bytes(4, "little") + title)
    assert sum(block.size for block in Recording(path).blocks()) == 16_000


def by_second(path: Path, channel: int) -> tuple[list[float], Recording]:
    """Return the level of each second of a channel."""
    recording = Recording(path, channel=channel)
    decoded = np.concatenate(list(recording.blocks()))
    return [round(float(np.abs(decoded[start : start + 16_000]).max()), 1) for start in (0, 16_000)], recording


def joined(folder: Path, kind: str, *parts: NDArray[np.float32]) -> Path:
    """Write recordings one after the other to a file."""
    path = folder / f"joined.{kind}"
    for number, samples in enumerate(parts):
        soundfile.write(folder / f"{number}.{kind}", samples, 16_000)
    path.write_bytes(b"".join((folder / f"{number}.{kind}").read_bytes() for number in range(len(parts))))
    return path


@pytest.mark.parametrize("kind", ["wav", "aiff"])
@pytest.mark.parametrize("stereo_first", [True, False])
def test_channels_of_joined_recordings_are_those_of_the_largest(
    tmp_path: Path, kind: str, *, stereo_first: bool
) -> None:
    """A recording with one channel is in the first one alone."""
    mono, stereo = np.full(16_000, 0.2, np.float32), np.tile(np.array([0.4, 0.6], np.float32), (16_000, 1))
    path = joined(tmp_path, kind, *((stereo, mono) if stereo_first else (mono, stereo)))
    assert Recording(path).channels == 2
    expected = ([0.4, 0.2], [0.6, 0.0]) if stereo_first else ([0.2, 0.4], [0.0, 0.6])
    for channel in (1, 2):
        levels, recording = by_second(path, channel)
        assert levels == expected[channel - 1]
        assert (recording.losses, recording.notes) == ([], [])
    with pytest.raises(AudioError, match="it has no channel 3, only 2"):
        Recording(path, channel=3)


def test_channels_that_begin_in_the_middle_are_a_loss(tmp_path: Path) -> None:
    """In a FLAC file libav reads on, and the number of channels is known too late."""
    mono, stereo = np.full(16_000, 0.2, np.float32), np.tile(np.array([0.4, 0.6], np.float32), (16_000, 1))
    path = joined(tmp_path, "flac", mono, stereo)
    levels, recording = by_second(path, 1)
    assert levels == [0.2, 0.4]
    (loss,) = [loss for loss in recording.losses if loss.reason == "only 1 of its 2 channels could be read"]
    assert (loss.start_s, loss.end_s) == pytest.approx((1.0, recording.duration_s))


IMPOSSIBLE = [np.nan, np.inf, -np.inf, 1e30, -1e5]


def floats(path: Path, samples: NDArray[np.float32], subtype: str = "FLOAT", rate_hz: int = 16_000) -> Path:
    """Write samples [n] or [n, channels] as floats, impossible ones included."""
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


@pytest.mark.parametrize("value", IMPOSSIBLE)
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("kind", ["wav", "aiff", "caf", "au", "w64"])
def test_impossible_sample_becomes_silence(tmp_path: Path, kind: str, subtype: str, value: float) -> None:
    samples = burst(2.0)
    samples[17_000] = value
    decoded, recording = read(floats(tmp_path / f"a.{kind}", samples, subtype))
    samples[17_000] = 0.0
    assert np.abs(decoded - samples).max() < 1e-6
    assert recording.losses == []
    assert recording.notes == ["samples that are not numbers or far too large were left out: 0:01.1 to 0:01.1"]


@pytest.mark.parametrize("channels", [2, 6, 9])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_impossible_sample_costs_only_its_channel(tmp_path: Path, rate_hz: int, channels: int) -> None:
    clean = np.repeat(burst(2.0, rate_hz)[:, None], channels, axis=1)
    damaged = clean.copy()
    damaged[rate_hz, 1] = np.nan
    clean[rate_hz, 1] = 0.0
    expected, _ = read(floats(tmp_path / "clean.wav", clean, rate_hz=rate_hz))
    decoded, recording = read(floats(tmp_path / "damaged.wav", damaged, rate_hz=rate_hz))
    assert np.array_equal(decoded, expected)
    assert recording.losses == []
    assert recording.notes[-1] == "samples that are not numbers or far too large were left out: 0:01.0 to 0:01.0"


def test_long_impossible_span_is_a_loss(tmp_path: Path) -> None:
    samples = burst(3.0)
    samples[16_000:24_000] = np.nan
    decoded, recording = read(floats(tmp_path / "a.wav", samples))
    assert np.array_equal(decoded, np.nan_to_num(samples))
    (loss,) = recording.losses
    assert loss.reason == "its samples are not numbers or far too large"
    assert (loss.start_s, loss.end_s) == pytest.approx((1.0, 1.5))
    assert recording.notes == []


def test_impossible_span_in_one_channel_is_no_loss(tmp_path: Path) -> None:
    samples = np.repeat(burst(3.0)[:, None], 2, axis=1)
    samples[16_000:24_000, 0] = np.inf
    decoded, recording = read(floats(tmp_path / "a.wav", samples))
    assert np.array_equal(decoded[16_000:24_000], samples[16_000:24_000, 1] / 2)
    assert recording.losses == []
    assert recording.notes == ["samples that are not numbers or far too large were left out: 0:01.0 to 0:01.5"]


def test_names_five_impossible_spans(tmp_path: Path) -> None:
    samples = burst(8.0)
    samples[8_000::16_000] = np.nan
    _, recording = read(floats(tmp_path / "a.wav", samples))
    spans = ", ".join(f"0:0{second}.5 to 0:0{second}.5" for second in range(5))
    assert recording.notes == [f"samples that are not numbers or far too large were left out: {spans} and 3 more"]


@pytest.mark.parametrize("level", [3.0, 30.0, 20_000.0])
def test_keeps_floats_over_full_scale(tmp_path: Path, level: float) -> None:
    """Recorders that write floats go over full scale; SciPy writes the range of 16-bit integers."""
    samples = burst(1.0, level=level)
    decoded, recording = read(floats(tmp_path / "a.wav", samples))
    assert np.array_equal(decoded, samples)
    assert (recording.notes, recording.losses) == ([], [])


@pytest.mark.parametrize("rate_hz", [8_000, 32_000, 48_000])
def test_decodes_to_another_rate(tmp_path: Path, rate_hz: int) -> None:
    path = encode(tmp_path / "a.flac", burst(2.5, 44_100), 44_100, "flac")
    recording = Recording(path, sample_rate_hz=rate_hz)
    blocks = list(recording.blocks())
    assert sum(block.size for block in blocks) == pytest.approx(2.5 * rate_hz, abs=100)
    assert max(block.size for block in blocks) <= rate_hz
    assert recording.duration_s == pytest.approx(2.5, abs=0.01)
    assert recording.notes == []


@pytest.mark.parametrize("channels", [2, 6])
def test_turns_a_channel_in_opposite_phase(tmp_path: Path, channels: int) -> None:
    samples = np.repeat(burst(2.0)[:, None], channels, axis=1)
    samples[:, 1] *= -0.8
    decoded, recording = read(floats(tmp_path / "a.wav", samples))
    expected = burst(2.0) * (channels - 0.2) / channels
    assert np.abs(decoded - expected).max() < 1e-5
    assert recording.notes == ["channel 2 is in opposite phase, and was turned"]


def test_unrelated_channels_are_not_turned(tmp_path: Path) -> None:
    """Two speakers, each in a channel, and a soft noise in both."""
    noise = np.random.default_rng(1).normal(0, 0.001, (48_000, 2)).astype(np.float32)
    noise[:16_000, 0] += burst(1.0)
    noise[24_000:40_000, 1] += burst(1.0)
    decoded, recording = read(floats(tmp_path / "a.wav", noise))
    assert np.abs(decoded - noise.mean(axis=1)).max() < 1e-6
    assert recording.notes == []


def test_reads_one_channel(tmp_path: Path) -> None:
    samples = np.stack((burst(1.0), burst(1.0, level=0.1), silence(1.0)), axis=1)
    path = floats(tmp_path / "a.wav", samples)
    assert Recording(path).channels == 3
    for channel in (1, 2, 3):
        decoded = np.concatenate(list(Recording(path, channel=channel).blocks()))
        assert np.array_equal(decoded, samples[:, channel - 1])
    with pytest.raises(AudioError) as caught:
        Recording(path, channel=4)
    assert str(caught.value) == f"{path}: it has no channel 4, only 3. Choose another channel."


@pytest.mark.parametrize(("offset", "added"), [(4, 8), (4, 44), (40, 44), (40, 8)])
def test_accepts_sizes_that_count_the_header(tmp_path: Path, offset: int, added: int) -> None:
    path = floats(tmp_path / "a.wav", burst(1.0), "PCM_16")
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[offset : offset + 4], "little") + added
    content[offset : offset + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    decoded, recording = read(path)
    assert decoded.size == 16_000
    assert (recording.notes, recording.losses) == ([], [])


OLD_HEADER = "the file is longer than its header states, as after a crash of the recorder; all of it was read"


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW"])
@pytest.mark.parametrize("riff_is_old", [False, True])
def test_reads_what_an_old_header_omits(tmp_path: Path, subtype: str, *, riff_is_old: bool) -> None:
    path = floats(tmp_path / "a.wav", burst(3.0), subtype)
    expected, _ = read(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    stated = int.from_bytes(content[place : place + 4], "little") // 3
    content[place : place + 4] = stated.to_bytes(4, "little")
    if riff_is_old:
        content[4:8] = (place - 4 + stated).to_bytes(4, "little")
    path.write_bytes(content)
    recording = Recording(path)
    assert recording.duration_s is None
    assert np.array_equal(np.concatenate(list(recording.blocks())), expected)
    assert recording.losses == []
    assert recording.notes == [OLD_HEADER]


def test_reports_what_an_old_header_of_another_kind_omits(tmp_path: Path) -> None:
    path = floats(tmp_path / "a.aiff", burst(3.0), "PCM_16")
    content = bytearray(path.read_bytes())
    place = content.index(b"SSND") + 4
    content[place : place + 4] = (32_008).to_bytes(4, "big")
    path.write_bytes(content)
    decoded, recording = read(path)
    assert decoded.size == 16_000
    assert recording.losses == [Loss(start_s=1.0, end_s=None, reason="the file is longer than its header states")]


@pytest.mark.parametrize("tail", [b"TAGtitle" + bytes(120), b"ID3\x03\x00" + bytes(300), bytes(5_000)])
def test_tags_and_padding_after_the_data_are_no_sound(tmp_path: Path, tail: bytes) -> None:
    path = floats(tmp_path / "a.wav", burst(1.0), "PCM_16")
    path.write_bytes(path.read_bytes() + tail)
    decoded, recording = read(path)
    assert decoded.size == 16_000
    assert (recording.notes, recording.losses) == ([], [])


@pytest.mark.parametrize("kind", [*CODECS, "aiff", "au", "adts"])
def test_reads_files_that_are_joined_end_to_end(tmp_path: Path, kind: str) -> None:
    codec = CODECS.get(kind, "aac" if kind == "adts" else "pcm_s16be")
    first = encode(tmp_path / f"a.{kind}", burst(1.5, 48_000), 48_000, codec)
    second = encode(tmp_path / f"b.{kind}", burst(2.0, 48_000), 48_000, codec)
    joined = tmp_path / f"joined,:.{kind}"
    joined.write_bytes(first.read_bytes() + second.read_bytes() + first.read_bytes())
    decoded, recording = read(joined)
    assert decoded.size / 16_000 == pytest.approx(5.0, abs=0.25)
    assert recording.duration_s == decoded.size / 16_000
    assert recording.losses == []


def test_joined_files_keep_every_sample_and_report_a_truncated_end(tmp_path: Path) -> None:
    """The parts may differ in rate and channels."""
    first = floats(tmp_path / "a.wav", burst(1.0), "PCM_16")
    second = floats(tmp_path / "b.wav", np.stack((burst(4.0, 8_000), burst(4.0, 8_000)), axis=1), "PCM_16", 8_000)
    joined = tmp_path / "joined.wav"
    content = second.read_bytes()
    joined.write_bytes(first.read_bytes() + content[: len(content) // 2 + 22])
    decoded, recording = read(joined)
    assert np.array_equal(decoded[:16_000], read(first)[0])
    assert decoded.size == pytest.approx(3 * 16_000, abs=20)
    assert [loss.reason for loss in recording.losses] == ["the file is truncated"]
    assert recording.losses[0].start_s == pytest.approx(3.0, abs=0.01)


def test_rejects_a_file_of_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = floats(tmp_path / "a.wav", burst(0.01), "PCM_16").read_bytes()
    joined = tmp_path / "joined.wav"
    monkeypatch.setattr(containers, "MOST_PARTS", 100)
    joined.write_bytes(100 * one)
    assert read(joined)[0].size == 100 * 160
    joined.write_bytes(101 * one)
    with pytest.raises(AudioError) as refusal:
        Recording(joined)
    cause = "more than 100 recordings are joined in it"
    assert str(refusal.value) == f"{joined}: {cause}. Join their samples instead of the files."


RAW_FORMATS = {"mulaw": "ULAW", "alaw": "ALAW", "s8": "PCM_S8", "u8": "PCM_U8", "s16le": "PCM_16", "s16be": "PCM_16",
               "s24le": "PCM_24", "s32be": "PCM_32", "f32le": "FLOAT", "f64be": "DOUBLE"}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", RAW_FORMATS)
def test_reads_samples_without_a_header(tmp_path: Path, name: str, channels: int) -> None:
    expected = np.stack([burst(1.0, level=0.5 / number) for number in range(1, channels + 1)], axis=1)
    endian = {"le": "LITTLE", "be": "BIG"}.get(name[-2:], "FILE")
    path = tmp_path / "call"
    soundfile.write(path, expected, 16_000, subtype=RAW_FORMATS[name], format="RAW", endian=endian)
    recording = Recording(path, raw=raw.parse(f"{name}:16000:{channels}"))
    decoded = np.concatenate(list(recording.blocks()))
    assert np.abs(decoded - expected.mean(axis=1)).max() < 0.03
    assert (recording.notes, recording.losses, recording.channels) == ([], [], channels)


def test_cleans_samples_without_a_header(tmp_path: Path) -> None:
    samples = burst(1.0)
    samples[8_000] = np.nan
    path = tmp_path / "call"
    path.write_bytes(samples.tobytes())
    recording = Recording(path, raw=raw.parse("f32le:16000"))
    assert np.array_equal(np.concatenate(list(recording.blocks())), np.nan_to_num(samples))
    assert recording.notes == ["samples that are not numbers or far too large were left out: 0:00.5 to 0:00.5"]


FORMS = "FORMAT:RATE or FORMAT:RATE:CHANNELS. Use for example mulaw:8000 or s16le:16000."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mulaw", f"'mulaw' is not of the form {FORMS}"),
        ("mulaw:8k", f"'mulaw:8k' is not of the form {FORMS}"),
        ("mulaw:8000:2:1", f"'mulaw:8000:2:1' is not of the form {FORMS}"),
        ("gsm:8000", f"'gsm' is not a format. Use one of {', '.join(raw.FORMATS)}."),
        ("alaw:10", "the rate is 10. Use a rate from 1000 to 768000."),
        ("alaw:8000:0", "the number of channels is 0. Use a number of channels from 1 to 64."),
    ],
)
def test_rejects_other_raw_format(text: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        raw.parse(text)
    assert str(caught.value) == f"--raw: {message}"


def two_tracks(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        tracks = [add_audio(container, "pcm_s16le", 16_000, "mono") for _ in range(2)]
        tracks[0].metadata["language"] = "eng"
        for track, level in zip(tracks, (0.5, 0.1), strict=True):
            values = (burst(1.0, level=level) * 32_767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            container.mux(track.encode(frame))
    return path


def test_notes_and_chooses_sound_tracks(tmp_path: Path) -> None:
    path = two_tracks(tmp_path / "film.mkv")
    for number, level in ((None, 0.5), (1, 0.5), (2, 0.1)):
        recording = Recording(path, track=number)
        decoded = np.concatenate(list(recording.blocks()))
        assert np.abs(decoded).max() == pytest.approx(level, abs=1e-3)
        chosen = number or 1
        assert recording.notes == [
            f"it has 2 sound tracks (1: eng, 2), and this is track {chosen}; --track chooses another"
        ]
    with pytest.raises(AudioError) as caught:
        Recording(path, track=3)
    assert str(caught.value) == f"{path}: it has no sound track 3, only 2. Choose another --track, or leave it out."


def test_reads_old_header_and_joined_files_from_a_pipe(tmp_path: Path) -> None:
    content = bytearray(floats(tmp_path / "a.wav", burst(2.0), "PCM_16").read_bytes())
    content[40:44] = (32_000).to_bytes(4, "little")
    script = (
        "from pathlib import Path; from transcriber.audio import Recording;"
        "print(sum(block.size for block in Recording(Path('/dev/stdin')).blocks()))"
    )
    for given, expected in ((content, 32_000), (content * 2, 64_000 + 22)):  # the second header sounds for 22 samples
        done = subprocess.run(
            [sys.executable, "-c", script], input=bytes(given), capture_output=True, check=False, timeout=60
        )
        assert done.stdout == f"{expected}\n".encode(), done.stderr
