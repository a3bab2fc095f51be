import hashlib
import random
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from training import augment, corpus, synthesis, voices
from training.corpus import sentence
from training.errors import PACKAGES, MissingProgramError
from training.recipe import Recipe
from training.voices import Voice

needs_espeak = pytest.mark.skipif(which("espeak-ng") is None, reason="espeak-ng is not installed")


def test_same_seed_makes_same_plan() -> None:
    assert synthesis.plan(50, 5, 1) == synthesis.plan(50, 5, 1)
    assert synthesis.plan(50, 5, 1) != synthesis.plan(50, 5, 2)


def test_development_sentences_and_voices_are_not_trained_on() -> None:
    utterances = synthesis.plan(400, 30, 3)
    training = [each for each in utterances if each.part == "train"]
    evaluation = [each for each in utterances if each.part != "train"]
    assert {each.part for each in evaluation} == set(synthesis.EVALUATION_PARTS)
    trained = {one.text for each in training for one in each.sentences}
    assert not trained & {one.text for each in evaluation for one in each.sentences}
    used = {voice for each in training for voice in each.voices}
    assert not used & {voice for each in evaluation if each.part == "voices" for voice in each.voices}


def test_library_plan_is_reproducible_and_has_library_sentences() -> None:
    library = [sentence(f"Number {word} comes next.") for word in ("one", "two", "three", "four", "five")]
    library = [one for one in library if not corpus.is_held_out(one.text)]
    plan = synthesis.library_plan(library, 300, 1)
    assert plan == synthesis.library_plan(library, 300, 1)
    assert plan != synthesis.library_plan(library, 300, 2)
    assert {each.part for each in plan} == {"library"}
    sentences = [one for each in plan for one in each.sentences]
    assert not any(corpus.is_held_out(one.text) for one in sentences)
    share = sum(one in library for one in sentences) / len(sentences)
    assert share == pytest.approx(synthesis.LIBRARY_SHARE, abs=0.08)


def test_meetings_plan_is_reproducible_and_has_no_random_words() -> None:
    plan = synthesis.meetings_plan(300, 1)
    assert plan == synthesis.meetings_plan(300, 1)
    assert plan != synthesis.meetings_plan(300, 2)
    assert {each.part for each in plan} == {"meetings"}
    sentences = [one for each in plan for one in each.sentences]
    assert not any(corpus.is_held_out(one.text) for one in sentences)
    prose = set(corpus.prose())
    share = sum(one in prose for one in sentences) / len(sentences)
    assert share == pytest.approx(synthesis.MEETINGS_PROSE_SHARE, abs=0.06)
    known = [each.voices[0] in voices.training_voices() for each in plan if each.voices[0].synthesiser == "espeak"]
    assert sum(known) / len(known) == pytest.approx(synthesis.KNOWN_VOICE_SHARE, abs=0.1)


def test_utterances_have_a_maximum_length() -> None:
    more = (*synthesis.library_plan([sentence("Just one.")], 300, 4), *synthesis.meetings_plan(300, 4))
    plan = (*synthesis.plan(300, 0, 4), *more)
    assert all(each.sentences for each in plan)
    assert all(len(each.text.split()) <= synthesis.LONGEST_WORDS for each in plan if len(each.sentences) > 1)


def test_variants_of_training_and_evaluation_are_disjoint() -> None:
    sides = (voices.VARIANTS, voices.HELD_OUT_VARIANTS, voices.DIALOGUE_VARIANTS)
    names = [name for side in sides for name in side]
    assert len(names) == len(set(names))
    assert voices.HELD_OUT_FLITE_VOICE not in voices.FLITE_VOICES
    assert voices.HELD_OUT_ACCENT not in voices.ACCENTS.values()


def test_training_draws_no_unseen_voice() -> None:
    source = random.Random(8)
    drawn = [voices.any_voice(source) for _ in range(3000)]
    variants = {voice.name.partition("+")[2] for voice in (*drawn, *voices.training_voices())}
    accents = {voice.name.partition("+")[0] for voice in (*drawn, *voices.training_voices())}
    assert variants == set(voices.VARIANTS)
    assert accents == set(voices.ACCENTS.values())
    unseen = {voice.name.partition("+")[2] for voice in (*voices.held_out_voices(), *voices.unseen_voices())}
    assert not variants & {*unseen, *voices.DIALOGUE_VARIANTS}
    assert all(voices.PITCH_RANGE[0] <= voice.pitch <= voices.PITCH_RANGE[1] for voice in drawn)
    used = {voice.synthesiser for voice in (*drawn, *voices.training_voices(), *voices.flite_voices())}
    assert used == {"espeak", "flite"}


def test_evaluation_voices_differ_in_one_thing() -> None:
    """Either an unseen variant with accents of the training, or the unseen accent with variants of the training."""
    assert {voice.name.partition("+")[2] for voice in voices.unseen_voices()} == set(voices.HELD_OUT_VARIANTS)
    assert {voice.name.partition("+")[0] for voice in voices.unseen_voices()} <= set(voices.ACCENTS.values())
    assert {voice.name.partition("+")[2] for voice in voices.unseen_accent()} == set(voices.VARIANTS)
    assert {voice.name.partition("+")[0] for voice in voices.unseen_accent()} == {voices.HELD_OUT_ACCENT}
    assert voices.unseen_flite() == (Voice(synthesiser="flite", name=voices.HELD_OUT_FLITE_VOICE),)
    assert {voice.synthesiser for voice in voices.festival_voices()} == {"festival"}


def test_labels_are_the_phonemes_at_the_middle_of_frames() -> None:
    inventory = {"?": 0}
    labels = synthesis.frame_labels([(0.0, "_"), (0.025, "h"), (0.05, "@")], 6, inventory)
    # Middles: 12.5, 22.5, 32.5, 42.5, 52.5 and 62.5 ms.
    assert labels.tolist() == [1, 1, 2, 2, 3, 3]
    assert inventory == {"?": 0, "_": 1, "h": 2, "@": 3}


@pytest.mark.parametrize("ratio_db", [0.0, 20.0])
def test_mixes_noise_at_the_wanted_ratio(ratio_db: float) -> None:
    source = np.random.default_rng(0)
    speech = np.sin(np.arange(16_000) / 20).astype(np.float32)
    noise = augment.white(speech, source)
    added = augment.mix(speech, noise, ratio_db) - speech
    measured = 10 * np.log10(np.mean(speech**2) / np.mean(added**2))
    assert measured == pytest.approx(ratio_db, abs=0.01)


@pytest.mark.parametrize("size", [16_000, 399])
def test_degradation_keeps_length_and_range(size: int) -> None:
    source = np.random.default_rng(1)
    speech = np.random.default_rng(2).standard_normal(size).astype(np.float32) * np.float32(0.1)
    for _ in range(20):
        degraded = augment.degrade(speech, source)
        assert degraded.shape == speech.shape
        assert degraded.dtype == np.float32
        assert np.abs(degraded).max() <= augment.PEAK + 1e-6


def test_reverberation_does_not_shift_speech() -> None:
    click = np.zeros(8000, dtype=np.float32)
    click[1000] = 1.0
    assert np.argmax(np.abs(augment.reverberate(click, np.random.default_rng(0)))) == 1000


def test_missing_program_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "which", lambda _: None)
    with pytest.raises(MissingProgramError) as caught:
        synthesis.require_programs()
    assert str(caught.value) == f"espeak-ng is not installed; install it with: apt-get install {PACKAGES}"


@needs_espeak
def test_espeak_reports_phoneme_times() -> None:
    utterance = synthesis.Utterance(
        part="train",
        seed=1,
        sentences=(sentence("Hello."),),
        voices=(Voice(synthesiser="espeak", name="en-us+f1", pitch=50),),
        degraded=False,
    )
    speech = synthesis.render(utterance)
    names = [name for _, name in speech.phonemes]
    starts = [start for start, _ in speech.phonemes]
    assert [name for name in names if not name.startswith("_")] == ["h", "@", "l", "oU"]
    assert starts == sorted(starts)
    assert 0.5 < len(speech.samples) / 16_000 < 3.0


@needs_espeak
def test_variants_sound_different() -> None:
    source = random.Random(0)
    names = [*source.sample(voices.VARIANTS, 12), "caleb", *voices.DIALOGUE_VARIANTS]
    sounds = {name: _hash_of(name) for name in sorted(set(names))}
    assert len(set(sounds.values())) == len(sounds)


def test_recipe_has_its_own_folder_of_shards() -> None:
    assert Recipe(out=Path("somewhere")).shards == Path("somewhere/shards")


def _hash_of(variant: str) -> str:
    command = ["espeak-ng", "-v", f"en-us+{variant}", "--stdout", "We have to move it."]
    return hashlib.sha256(subprocess.run(command, check=True, capture_output=True).stdout).hexdigest()
