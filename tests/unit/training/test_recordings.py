import itertools
import random
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import soundfile

from tests.unit.training import tiny
from training import augment, corpus, recordings, synthesis, voices
from training.augment import Samples
from training.recordings import SETS

needs_espeak = pytest.mark.skipif(which("espeak-ng") is None, reason="espeak-ng is not installed")
needs_festival = pytest.mark.skipif(which("text2wave") is None, reason="festival (text2wave) is not installed")


def _tone(seconds: float) -> Samples:
    return np.asarray(np.sin(np.arange(int(16_000 * seconds)) / 9), dtype=np.float32)


@pytest.mark.parametrize("name", SETS)
def test_set_has_held_out_sentences_and_its_voices(name: str) -> None:
    chosen, source = SETS[name], random.Random(name)
    for _ in range(30):
        sentences, voice = recordings.draw_utterance(chosen, source)
        assert 1 <= len(sentences) <= 2
        assert all(corpus.is_held_out(one.text) for one in sentences)
        assert voice in chosen.pool()
        assert all(one in corpus.prose() for one in sentences) or not chosen.prose


@pytest.mark.parametrize("name", ["voices", "accent", "flite", "synthesiser"])
def test_unseen_voices_are_not_trained_on(name: str) -> None:
    seen = {*voices.training_voices(), *voices.flite_voices()}
    assert not seen & set(SETS[name].pool())


@pytest.mark.parametrize("name", SETS)
def test_degradation_keeps_the_length(name: str) -> None:
    clean = _tone(1.0)
    degraded = SETS[name].degrade(clean, np.random.default_rng(0))
    assert degraded.shape == clean.shape
    assert bool((degraded != clean).any()) == (name in ("noise", "telephone"))


def test_noise_is_ten_decibels_below_speech() -> None:
    clean = _tone(1.0)
    noise = SETS["noise"].degrade(clean, np.random.default_rng(0)) - clean
    assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(10.0, abs=0.01)


def test_trims_silence_at_both_ends() -> None:
    quiet, loud = np.full(100, 0.005, np.float32), np.full(50, 0.5, np.float32)
    assert recordings.trim_silence(np.concatenate([quiet, loud, quiet, loud, quiet])).tolist() == [
        *loud.tolist(), *quiet.tolist(), *loud.tolist(),
    ]  # fmt: skip


def test_speakers_of_a_dialogue_have_different_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "_speak", lambda sentences, voice, source: _tone(0.5))
    counts, source = set(), random.Random(0)
    for _ in range(20):
        samples, turns = recordings.dialogue(source)
        speakers = {turn.speaker for turn in turns}
        counts.add(len(speakers))
        assert len({speaker.split("+")[1].split(":")[0] for speaker in speakers}) == len(speakers)
        assert speakers <= {voice.speaker for voice in voices.held_out_voices()}
        # A turn has one or two sentences of a voice, each with its own times.
        sentences = [len(list(group)) for _, group in itertools.groupby(turns, key=lambda turn: turn.speaker)]
        assert recordings.TURNS[0] <= len(sentences) <= recordings.TURNS[1]
        assert set(sentences) <= {1, 2}
        assert all(first.end < second.start for first, second in itertools.pairwise(turns))
        assert turns[-1].end < len(samples) / 16_000
        assert all(turn.text for turn in turns)
    assert counts == set(recordings.VOICES_IN_A_DIALOGUE)


def test_same_seed_writes_same_recordings(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "require_all_programs", lambda: None)
        patch.setattr(recordings, "_speak", lambda sentences, voice, source: _tone(0.1 + source.random()))
        folders = [tmp_path_factory.mktemp("recordings") for _ in range(2)]
        for folder in folders:
            recordings.write(tiny.recipe(folder))
    files = [sorted(path for path in folder.rglob("*") if path.is_file()) for folder in folders]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert {path.parent.name for path in files[0]} == {*SETS, "dialogues"}
    count = sum(chosen.size_factor for chosen in SETS.values()) + 1
    assert len(files[0]) == count + len(SETS) + 1
    assert all(path.parent.parent == folders[0] / "recordings" for path in files[0])


@needs_espeak
def test_synthesises_dialogue() -> None:
    samples, turns = recordings.dialogue(random.Random(1))
    assert np.abs(samples).max() == pytest.approx(augment.PEAK * 10 ** (recordings.GAIN_DB / 20), abs=1e-3)
    for turn in turns:
        speech = samples[int(turn.start * 16_000) : int(turn.end * 16_000)]
        assert len(speech) / 16_000 > 0.2
        assert np.abs(speech).max() > 0.05


@needs_festival
def test_synthesises_with_festival() -> None:
    synthesis.require_all_programs()
    (voice,) = voices.festival_voices()
    speech = synthesis.speak("We have to move it.", voice, np.random.default_rng(0))
    assert 0.8 < len(speech.samples) / 16_000 < 3.0
    assert np.abs(speech.samples).max() > 0.05
    assert speech.phonemes == ((0.0, synthesis.UNKNOWN_PHONEME),)


def test_writes_flac_at_16_khz(tmp_path: Path) -> None:
    path = tmp_path / "set" / "000.flac"
    recordings._save(path, _tone(0.5))
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.subtype, info.format) == (16_000, 1, "PCM_16", "FLAC")
