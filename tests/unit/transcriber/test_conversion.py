"""Tests of transcriber/conversion.py beyond those of whole recordings."""

from typing import Any

import av
import numpy as np
import pytest
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from transcriber import conversion
from transcriber.conversion import Cleaner, Converter, Mixer

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
        found[block] = [part for each in frames for part in converter.convert(frame("fltp", each))]
        found[block] += converter.flush()
    assert {len(part) for part in found[1_000][:-1]} == {1_000}
    assert np.array_equal(np.concatenate(found[0]), np.concatenate(found[1_000]))


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_mix_is_the_mean_of_the_channels(channels: int) -> None:
    values = np.random.default_rng(1).normal(0, 0.1, (500, channels)).astype(np.float32)
    mixed = Mixer(16_000).mix(values)
    assert mixed == pytest.approx(values.mean(axis=1), abs=1e-7)
