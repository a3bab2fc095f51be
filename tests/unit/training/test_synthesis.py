import hashlib
import random
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from training import augment, synthesis, voices
from training.corpus import sentence
from training.errors import MissingProgramError
from training.recipe import Recipe
from training.voices import Voice

needs_espeak = pytest.mark.skipif(which("espeak-ng") is None, reason="espeak-ng is not installed")


def test_a_plan_is_the_same_for_the_same_seed() -> None:
    assert synthesis.plan(50, 5, 1) == synthesis.plan(50, 5, 1)
    assert synthesis.plan(50, 5, 1) != synthesis.plan(50, 5, 2)


def test_a_plan_keeps_sentences_and_voices_of_the_evaluation_from_the_training() -> None:
    utterances = synthesis.plan(400, 30, 3)
    training = [each for each in utterances if each.part == "train"]
    evaluation = [each for each in utterances if each.part != "train"]
    assert {each.part for each in evaluation} == set(synthesis.EVALUATION_PARTS)
    trained = {one.text for each in training for one in each.sentences}
    assert not trained & {one.text for each in evaluation for one in each.sentences}
    heard = {voice for each in training for voice in each.voices}
    assert not heard & {voice for each in evaluation if each.part == "voices" for voice in each.voices}


def test_no_variant_is_on_two_sides() -> None:
    sides = (voices.VARIANTS, voices.HELD_OUT_VARIANTS, voices.DIALOGUE_VARIANTS)
    names = [name for side in sides for name in side]
    assert len(names) == len(set(names))
    assert voices.HELD_OUT_FLITE_VOICE not in voices.FLITE_VOICES
    assert voices.HELD_OUT_ACCENT not in voices.ACCENTS.values()


def test_labels_say_what_sounds_in_the_middle_of_a_frame() -> None:
    inventory = {"?": 0}
    labels = synthesis.frame_labels([(0.0, "_"), (0.025, "h"), (0.05, "@")], 6, inventory)
    # Middles: 12.5, 22.5, 32.5, 42.5, 52.5 and 62.5 ms.
    assert labels.tolist() == [1, 1, 2, 2, 3, 3]
    assert inventory == {"?": 0, "_": 1, "h": 2, "@": 3}


@pytest.mark.parametrize("ratio_db", [0.0, 20.0])
def test_noise_is_mixed_at_the_wanted_ratio(ratio_db: float) -> None:
    source = np.random.default_rng(0)
    speech = np.sin(np.arange(16_000) / 20).astype(np.float32)
    noise = augment.white(speech, source)
    added = augment.mix(speech, noise, ratio_db) - speech
    measured = 10 * np.log10(np.mean(speech**2) / np.mean(added**2))
    assert measured == pytest.approx(ratio_db, abs=0.01)


@pytest.mark.parametrize("size", [16_000, 399])
def test_no_disturbance_changes_length_or_leaves_the_range(size: int) -> None:
    source = np.random.default_rng(1)
    speech = np.random.default_rng(2).standard_normal(size).astype(np.float32) * np.float32(0.1)
    for _ in range(20):
        disturbed = augment.disturb(speech, source)
        assert disturbed.shape == speech.shape
        assert disturbed.dtype == np.float32
        assert np.abs(disturbed).max() <= augment.PEAK + 1e-6


def test_a_room_does_not_move_what_is_said() -> None:
    click = np.zeros(8000, dtype=np.float32)
    click[1000] = 1.0
    assert np.argmax(np.abs(augment.reverberate(click, np.random.default_rng(0)))) == 1000


def test_missing_programs_are_named_with_their_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "which", lambda _: None)
    with pytest.raises(MissingProgramError) as caught:
        synthesis.require_programs()
    assert str(caught.value) == "espeak-ng is not installed; get it with: apt-get install espeak-ng flite"


@needs_espeak
def test_espeak_tells_when_its_phonemes_sound() -> None:
    utterance = synthesis.Utterance(
        part="train",
        seed=1,
        sentences=(sentence("Hello."),),
        voices=(Voice(synthesiser="espeak", name="en-us+f1", pitch=50),),
        disturbed=False,
    )
    speech = synthesis.render(utterance)
    names = [name for _, name in speech.phonemes]
    starts = [start for start, _ in speech.phonemes]
    assert [name for name in names if not name.startswith("_")] == ["h", "@", "l", "oU"]
    assert starts == sorted(starts)
    assert 0.5 < len(speech.samples) / 16_000 < 3.0


@needs_espeak
def test_no_two_variants_sound_alike() -> None:
    source = random.Random(0)
    names = [*source.sample(voices.VARIANTS, 12), "caleb", *voices.DIALOGUE_VARIANTS]
    sounds = {name: _hash_of(name) for name in sorted(set(names))}
    assert len(set(sounds.values())) == len(sounds)


def test_the_recipe_has_its_own_folder_of_shards() -> None:
    assert Recipe(out=Path("somewhere")).shards == Path("somewhere/shards")


def _hash_of(variant: str) -> str:
    command = ["espeak-ng", "-v", f"en-us+{variant}", "--stdout", "We have to move it."]
    return hashlib.sha256(subprocess.run(command, check=True, capture_output=True).stdout).hexdigest()
