import itertools
import random
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import soundfile

from tests.unit.training import tiny
from training import augment, corpus, evaluation, synthesis, voices
from training.augment import Samples
from training.evaluation import SETS

needs_espeak = pytest.mark.skipif(which("espeak-ng") is None, reason="espeak-ng is not installed")
needs_festival = pytest.mark.skipif(which("text2wave") is None, reason="festival (text2wave) is not installed")


def _tone(seconds: float) -> Samples:
    return np.asarray(np.sin(np.arange(int(16_000 * seconds)) / 9), dtype=np.float32)


@pytest.mark.parametrize("name", SETS)
def test_a_set_holds_held_out_sentences_of_its_voices(name: str) -> None:
    chosen, source = SETS[name], random.Random(name)
    for _ in range(30):
        sentences, voice = evaluation.utterance(chosen, source)
        assert 1 <= len(sentences) <= 2
        assert all(corpus.is_held_out(one.text) for one in sentences)
        assert voice in chosen.pool()
        assert all(one in corpus.prose() for one in sentences) or not chosen.prose


@pytest.mark.parametrize("name", ["voices", "accent", "flite", "synthesiser"])
def test_a_set_of_unseen_voices_is_unseen(name: str) -> None:
    seen = {*voices.training_voices(), *voices.flite_voices()}
    assert not seen & set(SETS[name].pool())


@pytest.mark.parametrize("name", SETS)
def test_what_happens_on_the_way_keeps_the_length(name: str) -> None:
    clean = _tone(1.0)
    heard = SETS[name].disturb(clean, np.random.default_rng(0))
    assert heard.shape == clean.shape
    assert bool((heard != clean).any()) == (name in ("noise", "telephone"))


def test_noise_lies_ten_decibels_below() -> None:
    clean = _tone(1.0)
    noise = SETS["noise"].disturb(clean, np.random.default_rng(0)) - clean
    assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(10.0, abs=0.01)


def test_silence_is_trimmed_off_both_ends() -> None:
    quiet, loud = np.full(100, 0.005, np.float32), np.full(50, 0.5, np.float32)
    assert evaluation.trimmed(np.concatenate([quiet, loud, quiet, loud, quiet])).tolist() == [
        *loud.tolist(), *quiet.tolist(), *loud.tolist(),
    ]  # fmt: skip


def test_the_voices_of_a_dialogue_are_of_different_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_said", lambda sentences, voice, source: _tone(0.5))
    counts, source = set(), random.Random(0)
    for _ in range(20):
        samples, turns = evaluation._dialogue(source)
        speakers = {turn.speaker for turn in turns}
        counts.add(len(speakers))
        assert len({speaker.split("+")[1].split(":")[0] for speaker in speakers}) == len(speakers)
        assert speakers <= {voice.speaker for voice in voices.held_out_voices()}
        # A turn is one or two sentences of a voice, each with its own times.
        sentences = [len(list(group)) for _, group in itertools.groupby(turns, key=lambda turn: turn.speaker)]
        assert evaluation.TURNS[0] <= len(sentences) <= evaluation.TURNS[1]
        assert set(sentences) <= {1, 2}
        assert all(first.end < second.start for first, second in itertools.pairwise(turns))
        assert turns[-1].end < len(samples) / 16_000
        assert all(turn.text for turn in turns)
    assert counts == set(evaluation.VOICES_IN_A_DIALOGUE)


def test_the_same_seed_writes_the_same_recordings(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "require_all_programs", lambda: None)
        patch.setattr(evaluation, "_said", lambda sentences, voice, source: _tone(0.1 + source.random()))
        folders = [tmp_path_factory.mktemp("recordings") for _ in range(2)]
        for folder in folders:
            evaluation.write(tiny.recipe(folder))
    files = [sorted(path for path in folder.rglob("*") if path.is_file()) for folder in folders]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert {path.parent.name for path in files[0]} == {*SETS, "dialogues"}
    recordings = sum(chosen.times for chosen in SETS.values()) + 1
    assert len(files[0]) == recordings + len(SETS) + 1
    assert all(path.parent.parent == folders[0] / "recordings" for path in files[0])


@needs_espeak
def test_a_dialogue_is_spoken() -> None:
    samples, turns = evaluation._dialogue(random.Random(1))
    assert np.abs(samples).max() == pytest.approx(augment.PEAK * 10 ** (evaluation.GAIN_DB / 20), abs=1e-3)
    for turn in turns:
        said = samples[int(turn.start * 16_000) : int(turn.end * 16_000)]
        assert len(said) / 16_000 > 0.2
        assert np.abs(said).max() > 0.05


@needs_festival
def test_festival_speaks() -> None:
    synthesis.require_all_programs()
    (voice,) = voices.festival_voices()
    speech = synthesis.speak("We have to move it.", voice, np.random.default_rng(0))
    assert 0.8 < len(speech.samples) / 16_000 < 3.0
    assert np.abs(speech.samples).max() > 0.05
    assert speech.phonemes == ((0.0, synthesis.UNKNOWN_PHONEME),)


def test_recordings_are_flac_of_16_khz(tmp_path: Path) -> None:
    path = tmp_path / "set" / "000.flac"
    evaluation._save(path, _tone(0.5))
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.subtype, info.format) == (16_000, 1, "PCM_16", "FLAC")
