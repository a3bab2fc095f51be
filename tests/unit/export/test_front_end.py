"""The filter bank in the graphs, held against kaldi-native-fbank on the demonstration's dialogue."""

from dataclasses import replace

import kaldi_native_fbank as knf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.networks.front_end import FULL_SCALE, FilterBank, FilterBankConfig, FromAudio, kernels
from export.speech import read_demo
from tests.unit.export import small

CONFIGS = {
    "povey at 16 kHz": FilterBankConfig(),
    "hamming at 16 kHz": FilterBankConfig(window="hamming"),
    "povey at 8 kHz": FilterBankConfig(sample_rate_hz=8_000),
    "hamming at 8 kHz, 40 bands, cut at 3.6 kHz": FilterBankConfig(
        sample_rate_hz=8_000, window="hamming", bands=40, high_hz=-400.0, low_hz=64.0
    ),
}
# Of a log-mel value; the values lie between -16 and 25. Kaldi itself computes in FP32.
LARGEST, MEAN = 0.03, 1e-5


def reference(config: FilterBankConfig, audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the features that kaldi-native-fbank computes."""
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = config.sample_rate_hz
    options.frame_opts.frame_length_ms = 1000 * config.window_s
    options.frame_opts.frame_shift_ms = 1000 * config.hop_s
    options.frame_opts.dither = 0.0
    options.frame_opts.preemph_coeff = config.preemphasis
    options.frame_opts.window_type = config.window
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = config.bands
    options.mel_opts.low_freq = config.low_hz
    options.mel_opts.high_freq = config.high_hz
    options.energy_floor = 0.0
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(config.sample_rate_hz, audio * np.float32(config.scale))
    bank.input_finished()
    return np.stack([bank.get_frame(index) for index in range(bank.num_frames_ready)])


def exact(config: FilterBankConfig, audio: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the features by Kaldi's definition in FP64."""
    size = config.window_samples
    frames = np.lib.stride_tricks.sliding_window_view(audio.astype(np.float64) * config.scale, size)
    frames = frames[:: config.hop_samples]
    frames = frames - frames.mean(axis=1, keepdims=True)
    # The first sample of a frame stands for the one before it.
    frames = frames - config.preemphasis * np.hstack((frames[:, :1], frames[:, :-1]))
    phase = 2 * np.pi * np.arange(size) / (size - 1)
    windows = {"povey": (0.5 - 0.5 * np.cos(phase)) ** 0.85, "hamming": 0.54 - 0.46 * np.cos(phase)}
    mel, padded = kernels(config)[2].astype(np.float64), 1 << (size - 1).bit_length()
    powers = np.abs(np.fft.rfft(frames * windows[config.window], padded)) ** 2
    # The filters begin with the first frequency above the lower end of the lowest band.
    first = int(config.low_hz * padded / config.sample_rate_hz) + 1
    energies = powers[:, first : first + mel.shape[1]] @ mel.T
    return np.asarray(np.log(np.maximum(energies, np.finfo(np.float32).eps)))


def features(config: FilterBankConfig, audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the features that a network computes."""
    found: NDArray[np.float32] = FilterBank(config)(torch.from_numpy(audio[None]))[0].numpy()
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_features_equal_those_of_kaldi(name: str) -> None:
    """All turns of the dialogue, with a part of the pauses around them.

    In a band with a ten-billionth of the power of the loudest one, Kaldi itself differs from its definition by 0.02. So
    both are compared with the definition.
    """
    config = CONFIGS[name]
    differences = []
    for turn in read_demo().transcribed:
        audio = turn.at(config.sample_rate_hz)
        definition = exact(config, audio)
        pair = [found(config, audio) - definition for found in (features, reference)]
        differences.append(np.abs(pair).reshape(2, -1))
    ours, theirs = np.concatenate(differences, axis=1)
    assert theirs.max() < LARGEST
    assert theirs.mean() < MEAN
    assert ours.max() <= theirs.max()
    assert ours.mean() < MEAN


def test_digital_silence_is_the_floor_of_kaldi() -> None:
    audio = np.zeros(1_000, dtype=np.float32)
    assert np.array_equal(features(FilterBankConfig(), audio), reference(FilterBankConfig(), audio))
    assert features(FilterBankConfig(), audio).max() == np.float32(np.log(np.finfo(np.float32).eps))


@pytest.mark.parametrize("rate", [8_000, 16_000])
@pytest.mark.parametrize("hops", [-1.1, -1.0, 0.0, 0.99, 1.0, 57.5])
def test_length_is_the_number_of_whole_windows(rate: int, hops: float) -> None:
    """A window is 25 ms, the next begins 10 ms later; audio of less than a window makes no frame."""
    config = FilterBankConfig(sample_rate_hz=rate)
    samples = round(rate * (0.025 + 0.010 * hops))
    expected = max(0, int(hops + 1))
    assert FilterBank(config).lengths(torch.tensor([samples])).tolist() == [expected]
    if expected:
        assert len(features(config, np.ones(samples, dtype=np.float32))) == expected


def test_conversion_to_fp16_leaves_the_kernels_in_fp32() -> None:
    """They are constants: no conversion rounds them, and no checkpoint holds them."""
    audio = torch.from_numpy(read_demo().segments[0].samples[None])
    bank = FilterBank(FilterBankConfig())
    exact = bank(audio)
    assert torch.equal(bank.half()(audio), exact)
    assert exact.dtype == torch.float32
    assert bank.state_dict() == {}


def test_network_in_fp16_takes_audio_in_fp32() -> None:
    network = small.whole("diar")
    assert isinstance(network, FromAudio)
    assert set(network.half().state_dict()) == {f"network.encoder.{key}" for key in small.network("diar").state_dict()}
    audio = torch.from_numpy(read_demo().segments[0].samples[None])
    with torch.no_grad():
        exact, rounded = (each(audio, torch.tensor([audio.shape[1]])) for each in (small.whole("diar"), network))
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=-1).min() > 0.999


def test_leaves_out_frequencies_that_no_band_uses() -> None:
    """Of the frequencies from 0 to 257 half the sampling rate is in no band, and so is 0 with bands from 20 Hz."""
    real, imaginary, mel = kernels(FilterBankConfig())
    assert (real.shape, imaginary.shape, mel.shape) == ((255, 201), (255, 201), (80, 255))
    assert real.dtype == imaginary.dtype == mel.dtype == np.float32
    assert mel.any(axis=0).all()


def test_rejects_unknown_window() -> None:
    with pytest.raises(ValueError, match="'hann' is neither povey nor hamming"):
        FilterBank(replace(FilterBankConfig(), window="hann"))


def test_full_scale_is_that_of_16_bit_integers() -> None:
    """The same audio at full scale and as integers has the same features."""
    audio = read_demo().segments[0].samples[:4_000]
    integers = replace(FilterBankConfig(), scale=1.0)
    assert np.abs(features(FilterBankConfig(), audio) - features(integers, audio * np.float32(FULL_SCALE))).max() < 1e-3
