"""Tests of transcriber/conversion.py beyond those of whole recordings."""

from typing import Any

import av
import numpy as np
import pytest
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from transcriber import conversion
from transcriber.conversion import Cleaner, Converter, Joiner, Mixer

RATE_HZ = 44_100


def frame(kind: str, values: NDArray[Any]) -> av.AudioFrame:
    """Return a stereo frame of values [count, 2]."""
    array = values.T if kind.endswith("p") else values.reshape(1, -1)
    typed: Any = np.ascontiguousarray(array, dtype=np.float64 if kind.startswith("dbl") else np.float32)
    made = av.AudioFrame.from_ndarray(typed, format=kind, layout="stereo")
    made.sample_rate = RATE_HZ
    return made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the formats of the resamplers that conversion opens."""
    formats: list[str] = []

    def resampler(**options: Any) -> AudioResampler:
        formats.append(str(options["format"]))
        return AudioResampler(**options)

    monkeypatch.setattr(conversion, "AudioResampler", resampler)
    return formats


@pytest.mark.parametrize("kind", ["flt", "fltp", "dbl", "dblp"])
def test_opens_one_resampler_for_all_frames(kind: str, opened: list[str]) -> None:
    """Opening one for each frame takes longer than decoding."""
    cleaner, source = Cleaner(), np.random.default_rng(1)
    for number in range(20):
        values = source.normal(0, 0.1, (1_152, 2))
        if number == 10:
            values[5, 1] = np.nan
        cleaner.clean(frame(kind, values), number * 1_152 / RATE_HZ)
    assert len(opened) <= 1
    assert len(cleaner.spans) == 1


@pytest.mark.parametrize("kind", ["flt", "fltp", "dbl", "dblp"])
def test_impossible_samples_do_not_interrupt_the_resampler(kind: str, opened: list[str]) -> None:
    """A frame that was replaced has the format of the others."""
    cleaner, converter, source = Cleaner(), Converter(16_000), np.random.default_rng(1)
    for number in range(20):
        values = source.normal(0, 0.1, (1_152, 2))
        if number % 3 == 1:
            values[5:9] = 1e9
        converter.convert(cleaner.clean(frame(kind, values), number * 1_152 / RATE_HZ))
    assert len(opened) <= 2


def test_makes_blocks_of_small_frames() -> None:
    """Every block but the last has the wanted size, and the samples are those of the frames."""
    frames = [np.random.default_rng(number).normal(0, 0.1, (160, 2)) for number in range(33)]
    found: dict[int, list[NDArray[Any]]] = {}
    for block in (0, 1_000):
        converter = Converter(16_000, block)
        found[block] = converter.convert(*(frame("fltp", each) for each in frames))
        found[block] += converter.flush()
    assert {len(part) for part in found[1_000][:-1]} == {1_000}
    assert np.array_equal(np.concatenate(found[0]), np.concatenate(found[1_000]))


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_mix_is_the_mean_of_the_channels(channels: int) -> None:
    values = np.random.default_rng(1).normal(0, 0.1, (500, channels)).astype(np.float32)
    mixed = Mixer(16_000).mix(values)
    assert mixed == pytest.approx(values.mean(axis=1), abs=1e-7)


# Types that are read here, and doubles, which the cleaner packs first.
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("kind", ["u8", "u8p", "s16", "s16p", "s32", "s32p", "flt", "fltp", "dbl", "dblp"])
@pytest.mark.parametrize("rate_hz", [16_000, 22_050])
def test_joined_frames_have_the_samples_of_the_resampler(kind: str, channels: int, rate_hz: int) -> None:
    """Frames of varied sizes, joined or one at a time, in blocks or not: bit for bit what libswresample makes."""
    frames = [made(kind, channels, rate_hz, size) for size in (1, 700, 4_096, 160, 9_000, 3, 2_048)]
    expected = resampled([Cleaner().clean(each, 0.0) for each in frames])
    for length_s, block in ((0.0, 0), (0.1, 1_000), (10.0, 4_000)):
        joiner, converter = Joiner(Cleaner(), length_s), Converter(16_000, block)
        found = [part for each in frames for part in converter.convert(*joiner.add(each, 0.0))]
        found += [*converter.convert(*joiner.flush()), *converter.flush()]
        assert np.array_equal(np.concatenate(found), expected)
        assert not block or {len(part) for part in found[:-1]} <= {block}


def test_impossible_samples_are_noted_frame_by_frame() -> None:
    """Whether a value is possible, and the spans, depend on the frames of the file, not on how many are joined."""
    values = np.random.default_rng(1).normal(0, 0.1, (20, 1_152, 2))
    values[3, 5, 1], values[9, 7:900], values[12] = np.nan, np.inf, values[12] * 2e4
    spans, samples = [], []
    for length_s in (0.0, 1.0):
        cleaner, converter = Cleaner(), Converter(RATE_HZ)
        joiner, found = Joiner(cleaner, length_s), []
        for number, each in enumerate(values):
            found += converter.convert(*joiner.add(frame("flt", each), number * 1_152 / RATE_HZ))
        found += converter.convert(*joiner.flush())
        spans.append(cleaner.spans)
        samples.append(np.concatenate(found))
    assert spans[0] == spans[1]
    assert np.array_equal(samples[0], samples[1])
    assert len(spans[0]) == 2


def test_frames_of_several_formats_are_not_joined() -> None:
    frames = [made(kind, 1, rate_hz, 500) for kind in ("s16", "flt") for rate_hz in (16_000, 8_000) for _ in range(2)]
    joiner = Joiner(Cleaner(), 10.0)
    joined = [part for each in frames for part in joiner.add(each, 0.0)] + joiner.flush()
    assert [(part.format.name, part.sample_rate, part.samples) for part in joined] == [
        *(("s16", 16_000, 1_000), ("s16", 8_000, 1_000)),
        *(("flt", 16_000, 1_000), ("flt", 8_000, 1_000)),
    ]


def test_mixes_in_blocks() -> None:
    """The phases are compared in every block, as if the blocks were mixed one after the other."""
    values = np.random.default_rng(1).normal(0, 0.1, (1_000, 2)).astype(np.float32)
    values[300:, 1] = -values[300:, 0]
    one, other = Mixer(16_000, 100), Mixer(16_000)
    expected = np.concatenate([other.mix(values[start : start + 100]) for start in range(0, 1_000, 100)])
    assert np.array_equal(one.mix(values), expected)
    assert one.turned == other.turned == {1}


def made(kind: str, channels: int, rate_hz: int, size: int) -> av.AudioFrame:
    """Return a frame of noise over the full range of its type."""
    source = np.random.default_rng(size)
    full: dict[str, Any] = {"u8": np.uint8, "s16": np.int16, "s32": np.int32}
    packed = kind.removesuffix("p")
    values: Any = source.normal(0, 0.3, (size, channels)).astype("f8" if packed == "dbl" else "f4")
    if packed in full:
        limits = np.iinfo(full[packed])
        values = source.integers(limits.min, limits.max, (size, channels), full[packed], endpoint=True)
    array = values.T if kind.endswith("p") else values.reshape(1, -1)
    one = av.AudioFrame.from_ndarray(np.ascontiguousarray(array), format=kind, layout=f"{channels} channels")
    one.sample_rate = rate_hz
    return one


def resampled(frames: list[av.AudioFrame]) -> NDArray[Any]:
    """Return what libswresample makes of frames, one at a time."""
    resampler = AudioResampler(format="flt", layout=frames[0].layout.name, rate=16_000, frame_size=1_000)
    parts = [part for each in (*frames, None) for part in resampler.resample(each)]
    return np.concatenate([part.to_ndarray().reshape(-1, part.layout.nb_channels) for part in parts])
