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

from contract.errors import AudioError
from tests.unit.transcriber.sounds import add_audio, burst, encode, silence, wav
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
    assert refusal(path) == f"{path}: {cause}. {CHECK}"


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
