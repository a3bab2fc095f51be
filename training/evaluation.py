"""Recordings to measure the whole pipeline on: sentences that no training holds, by voices seen and unseen.

They are made anew by anyone, the same for the same versions of the synthesisers, and are not part of the repository.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import soundfile
from numpy.random import Generator
from rich.progress import track

from contract import files
from training import augment, corpus, synthesis, voices
from training.augment import Samples
from training.corpus import Sentence
from training.recipe import Recipe
from training.synthesis import Speech
from training.voices import Voice
from transcriber.features import SAMPLE_RATE_HZ

TRUTH = "truth.json"
NOISE_RATIO_DB = 10.0
GAIN_DB = -6.0
DIALOGUES, TURNS, VOICES_IN_A_DIALOGUE = 24, (8, 14), (2, 3, 4)
TURN_PAUSE_SECONDS = (0.3, 0.9)
# Below this share of the peak a synthesiser says nothing.
SILENT_BELOW = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """What is said, by whom, and what happens to it on the way."""

    what: str
    prose: bool
    pool: Callable[[], Sequence[Voice]]
    disturb: Callable[[Samples, Generator], Samples] = lambda samples, _: samples
    # So many times as many recordings as the recipe says: where the points are to be told apart beyond chance.
    times: int = 1


def _noisy(samples: Samples, source: Generator) -> Samples:
    noise = augment.NOISES[source.integers(len(augment.NOISES))](samples, source)
    return augment.mix(samples, noise, NOISE_RATIO_DB)


def _through_a_telephone(samples: Samples, _: Generator) -> Samples:
    return augment.telephone(samples)


SETS: Mapping[str, EvaluationSet] = MappingProxyType(
    {
        "grammar": EvaluationSet(
            what="meetings, voices of the training", prose=False, pool=voices.training_voices, times=3
        ),
        "prose": EvaluationSet(what="prose, voices of the training", prose=True, pool=voices.training_voices, times=3),
        "voices": EvaluationSet(what="meetings, unseen voices", prose=False, pool=voices.unseen_voices, times=3),
        "accent": EvaluationSet(what="meetings, unseen accent", prose=False, pool=voices.unseen_accent),
        "flite": EvaluationSet(what="meetings, unseen voice of flite", prose=False, pool=voices.unseen_flite),
        "synthesiser": EvaluationSet(what="meetings, unseen synthesiser", prose=False, pool=voices.festival_voices),
        "noise": EvaluationSet(
            what="meetings, noise 10 dB below the speech",
            prose=False,
            pool=voices.training_voices,
            disturb=_noisy,
            times=3,
        ),
        "telephone": EvaluationSet(
            what="meetings, 300 to 3400 Hz",
            prose=False,
            pool=voices.training_voices,
            disturb=_through_a_telephone,
            times=3,
        ),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Who says what in a dialogue, from `start` to `end` in seconds."""

    speaker: str
    start: float
    end: float
    text: str


def write(recipe: Recipe) -> None:
    """Write every set and the dialogues, a folder each: FLAC files, and truth.json that says what is in them.

    Raises MissingProgramError where a synthesiser is missing.
    """
    synthesis.require_all_programs()
    for name, chosen in SETS.items():
        _write_set(recipe, name, chosen)
    _write_dialogues(recipe)


def utterance(chosen: EvaluationSet, source: random.Random) -> tuple[tuple[Sentence, ...], Voice]:
    """Draw what is said, and by whom."""
    return tuple(synthesis.held_out_sentences(source, prose=chosen.prose)), source.choice(chosen.pool())


def _write_set(recipe: Recipe, name: str, chosen: EvaluationSet) -> None:
    source = random.Random(f"{recipe.seed} evaluation {name}")
    truth = []
    for number in track(range(recipe.recordings * chosen.times), description=f"{name:<12}"):
        sentences, voice = utterance(chosen, source)
        random_source = np.random.default_rng(source.getrandbits(32))
        clean = _said(sentences, voice, random_source)
        samples = augment.scale(chosen.disturb(clean, random_source), GAIN_DB)
        file = f"{number:03d}.flac"
        _save(recipe.evaluation / name / file, samples)
        text = " ".join(one.text for one in sentences)
        truth.append(
            {"file": file, "text": text, "speaker": voice.speaker, "seconds": round(len(samples) / SAMPLE_RATE_HZ, 2)}
        )
    _write_truth(recipe.evaluation / name, chosen.what, truth)


def _write_dialogues(recipe: Recipe) -> None:
    source = random.Random(f"{recipe.seed} evaluation dialogues")
    truth = []
    for number in track(range(min(DIALOGUES, recipe.recordings)), description=f"{'dialogues':<12}"):
        samples, turns = _dialogue(source)
        file = f"{number:03d}.flac"
        _save(recipe.evaluation / "dialogues" / file, samples)
        truth.append({"file": file, "turns": [asdict(turn) for turn in turns]})
    what = f"dialogues of {VOICES_IN_A_DIALOGUE[0]} to {VOICES_IN_A_DIALOGUE[-1]} unseen voices"
    _write_truth(recipe.evaluation / "dialogues", what, truth)


def _dialogue(source: random.Random) -> tuple[Samples, list[Turn]]:
    # One variant at two pitches is hardly two persons: every voice of a dialogue is another variant.
    by_variant: dict[str, list[Voice]] = {}
    for voice in voices.held_out_voices():
        by_variant.setdefault(voice.name.partition("+")[2], []).append(voice)
    variants = source.sample(sorted(by_variant), source.choice(VOICES_IN_A_DIALOGUE))
    speakers = [source.choice(by_variant[variant]) for variant in variants]
    random_source = np.random.default_rng(source.getrandbits(32))
    pieces, turns, last = [synthesis.silence(0.4)], list[Turn](), -1
    for number in range(source.randint(*TURNS)):
        # All are heard at first; then anyone but the one who has just spoken.
        place = number if number < len(speakers) else source.choice([x for x in range(len(speakers)) if x != last])
        last = place
        # A pause between two sentences of one voice is no speech either: every sentence has its own times.
        for _ in range(source.choice((1, 1, 2))):
            sentence = corpus.drawn_from_grammar(source, held_out=True)
            if turns:
                pieces.append(synthesis.silence(source.uniform(*TURN_PAUSE_SECONDS)))
            start = sum(map(len, pieces)) / SAMPLE_RATE_HZ
            pieces.append(trimmed(_said([sentence], speakers[place], random_source)))
            end = sum(map(len, pieces)) / SAMPLE_RATE_HZ
            name = speakers[place].speaker
            turns.append(Turn(speaker=name, start=round(start, 2), end=round(end, 2), text=sentence.text))
    return augment.scale(np.concatenate([*pieces, synthesis.silence(0.4)]), GAIN_DB), turns


def _said(sentences: Sequence[Sentence], voice: Voice, source: Generator) -> Samples:
    speech: Speech = synthesis.join(sentences, [voice] * len(sentences), source)
    return speech.samples


def trimmed(samples: Samples) -> Samples:
    """Cut the silence off both ends."""
    loud = np.flatnonzero(np.abs(samples) > SILENT_BELOW)
    return samples[loud[0] : loud[-1] + 1]


def _write_truth(folder: Path, what: str, truth: Sequence[Mapping[str, Any]]) -> None:
    files.write(folder / TRUTH, json.dumps({"what": what, "recordings": truth}, indent=1) + "\n")


def _save(path: Path, samples: Samples) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
