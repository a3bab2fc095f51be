"""The measurement of voice detection: places of speech, levels of noise, what counts as an error, and the page."""

import random

import numpy as np
import pytest

from benchmarks import voice_detection
from benchmarks.voice_detection import FRAME, Placed, Score, page, place, score, spoken_frames, with_noise
from tests.unit.transcriber.fakes import FakeRecogniser
from tests.unit.transcriber.sounds import burst
from transcriber.audio import Samples


def draw(_: random.Random) -> tuple[Samples, str]:
    return burst(1.0), "loud"


@pytest.fixture
def placed() -> Placed:
    return place(draw, random.Random(1))


def test_places_of_speech_are_known(placed: Placed) -> None:
    assert placed.text.split() == ["loud"] * voice_detection.UTTERANCES
    for begin, end in placed.spans:
        assert end - begin == 16_000
        assert np.abs(placed.samples[begin:end]).max() > 0.4
        assert not placed.samples[begin - 32_000 : begin].any()


def test_noise_is_relative_to_the_speech(placed: Placed) -> None:
    noise = np.random.default_rng(1).normal(0, 1, placed.samples.size).astype(np.float32)
    added = with_noise(placed, noise, 10.0).samples - placed.samples
    speech = np.concatenate([placed.clean[begin:end] for begin, end in placed.spans])
    assert 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(10.0, abs=0.1)


def test_frames_near_speech_are_neither(placed: Placed) -> None:
    speech, silent = spoken_frames(placed)
    assert not (speech & silent).any()
    assert speech.sum() == pytest.approx(50 * voice_detection.UTTERANCES, rel=0.05)
    begin, end = (edge // FRAME for edge in placed.spans[0])
    margin = voice_detection.MARGIN_FRAMES
    assert silent[: begin - margin].all()
    assert not silent[begin - margin : end + margin].any()


def test_scores_segments(placed: Placed) -> None:
    found = score("webrtc", [placed], FakeRecogniser())
    assert (found.missed, found.false, found.wrong_words) == (0.0, 0.0, 0.0)
    # Without sound everything is missed, and every word is wrong.
    nothing = Placed(samples=np.zeros_like(placed.samples), clean=placed.clean, spans=placed.spans, text=placed.text)
    found = score("webrtc", [nothing], FakeRecogniser())
    assert (found.missed, found.false, found.wrong_words) == (1.0, 0.0, 1.0)


def test_page_has_every_figure() -> None:
    first = Score(missed=0.011, false=0.022, wrong_words=0.033, processor_s_per_hour=1.0)
    second = Score(missed=0.044, false=0.055, wrong_words=None, processor_s_per_hour=120.0)
    text = page({"clean": {"webrtc": first, "silero": second}}, 3, 21.0)
    assert "| clean | 1.1 % | 4.4 % | 2.2 % | 5.5 % | 3.3 |  |" in text
    assert "WebRTC 1.0, Silero 120." in text
    assert "benchmarks.voice_detection --count 3 --keep" in text
