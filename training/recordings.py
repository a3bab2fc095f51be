"""Recordings to measure the whole pipeline on: held-out sentences, by voices seen and unseen in training.

They are not part of the repository. The same versions of the synthesisers always make the same recordings.
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
from training.features import SAMPLE_RATE_HZ
from training.recipe import Recipe
from training.synthesis import Speech
from training.voices import Voice

TRUTH_FILE = "truth.json"
NOISE_RATIO_DB = 10.0
GAIN_DB = -6.0
DIALOGUES, TURNS, VOICES_IN_A_DIALOGUE = 24, (8, 14), (2, 3, 4)
TURN_PAUSE_SECONDS = (0.3, 0.9)
# Samples below this level are silence.
SILENT_BELOW = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """A set of recordings: its kind of sentences, its voices, and the degradation of its speech."""

    description: str
    prose: bool
    pool: Callable[[], Sequence[Voice]]
    degrade: Callable[[Samples, Generator], Samples] = lambda samples, _: samples
    # Multiplies the recipe's number of recordings, where the difference between the points must be significant.
    size_factor: int = 1


def _noisy(samples: Samples, source: Generator) -> Samples:
    noise = augment.NOISES[source.integers(len(augment.NOISES))](samples, source)
    return augment.mix(samples, noise, NOISE_RATIO_DB)


def _telephone(samples: Samples, _: Generator) -> Samples:
    return augment.telephone(samples)


SETS: Mapping[str, EvaluationSet] = MappingProxyType(
    {
        "grammar": EvaluationSet(
            description="meetings, voices of the training",
            prose=False,
            pool=voices.training_voices,
            size_factor=3,
        ),
        "prose": EvaluationSet(
            description="prose, voices of the training",
            prose=True,
            pool=voices.training_voices,
            size_factor=3,
        ),
        "voices": EvaluationSet(
            description="meetings, unseen voices",
            prose=False,
            pool=voices.unseen_voices,
            size_factor=3,
        ),
        "accent": EvaluationSet(
            description="meetings, unseen accent",
            prose=False,
            pool=voices.unseen_accent,
        ),
        "flite": EvaluationSet(
            description="meetings, unseen voice of flite",
            prose=False,
            pool=voices.unseen_flite,
        ),
        "synthesiser": EvaluationSet(
            description="meetings, unseen synthesiser",
            prose=False,
            pool=voices.festival_voices,
        ),
        "noise": EvaluationSet(
            description="meetings, noise 10 dB below the speech",
            prose=False,
            pool=voices.training_voices,
            degrade=_noisy,
            size_factor=3,
        ),
        "telephone": EvaluationSet(
            description="meetings, 300 to 3400 Hz",
            prose=False,
            pool=voices.training_voices,
            degrade=_telephone,
            size_factor=3,
        ),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One sentence of a dialogue: speaker, start and end in seconds, and transcript."""

    speaker: str
    start: float
    end: float
    text: str


def write(recipe: Recipe) -> None:
    """Write every set and the dialogues, a folder each: FLAC files, and truth.json with their transcripts.

    Raises MissingProgramError when a synthesiser is missing.
    """
    synthesis.require_all_programs()
    for name, chosen in SETS.items():
        _write_set(recipe, name, chosen)
    _write_dialogues(recipe)


def draw_utterance(chosen: EvaluationSet, source: random.Random) -> tuple[tuple[Sentence, ...], Voice]:
    """Draw the sentences of a recording and their voice."""
    return tuple(synthesis.held_out_sentences(source, prose=chosen.prose)), source.choice(chosen.pool())


def _write_set(recipe: Recipe, name: str, chosen: EvaluationSet) -> None:
    source = random.Random(f"{recipe.seed} evaluation {name}")
    truth = []
    for number in track(range(recipe.recordings * chosen.size_factor), description=f"{name:<12}"):
        sentences, voice = draw_utterance(chosen, source)
        random_source = np.random.default_rng(source.getrandbits(32))
        clean = _speak(sentences, voice, random_source)
        samples = augment.scale(chosen.degrade(clean, random_source), GAIN_DB)
        file = f"{number:03d}.flac"
        _save(recipe.evaluation / name / file, samples)
        text = " ".join(one.text for one in sentences)
        truth.append(
            {"file": file, "text": text, "speaker": voice.speaker, "seconds": round(len(samples) / SAMPLE_RATE_HZ, 2)}
        )
    _write_truth(recipe.evaluation / name, chosen.description, truth)


def _write_dialogues(recipe: Recipe) -> None:
    source = random.Random(f"{recipe.seed} evaluation dialogues")
    truth = []
    for number in track(range(min(DIALOGUES, recipe.recordings)), description=f"{'dialogues':<12}"):
        samples, turns = dialogue(source)
        file = f"{number:03d}.flac"
        _save(recipe.evaluation / "dialogues" / file, samples)
        truth.append({"file": file, "turns": [asdict(turn) for turn in turns]})
    description = f"dialogues of {VOICES_IN_A_DIALOGUE[0]} to {VOICES_IN_A_DIALOGUE[-1]} unseen voices"
    _write_truth(recipe.evaluation / "dialogues", description, truth)


def dialogue(source: random.Random) -> tuple[Samples, list[Turn]]:
    """Draw a dialogue of two to four unseen voices in unseen sentences; return its samples at 16 kHz and its turns."""
    # One variant at two pitches does not sound like two persons: each speaker of a dialogue has its own variant.
    by_variant: dict[str, list[Voice]] = {}
    for voice in voices.held_out_voices():
        by_variant.setdefault(voice.name.partition("+")[2], []).append(voice)
    variants = source.sample(sorted(by_variant), source.choice(VOICES_IN_A_DIALOGUE))
    speakers = [source.choice(by_variant[variant]) for variant in variants]
    random_source = np.random.default_rng(source.getrandbits(32))
    pieces, turns, last = [synthesis.silence(0.4)], list[Turn](), -1
    for number in range(source.randint(*TURNS)):
        # First every speaker once, then any speaker except the last one.
        place = number if number < len(speakers) else source.choice([x for x in range(len(speakers)) if x != last])
        last = place
        # A pause between two sentences of one voice is not speech: every sentence has its own times.
        for _ in range(source.choice((1, 1, 2))):
            sentence = corpus.draw_from_grammar(source, held_out=True)
            if turns:
                pieces.append(synthesis.silence(source.uniform(*TURN_PAUSE_SECONDS)))
            start = sum(map(len, pieces)) / SAMPLE_RATE_HZ
            pieces.append(trim_silence(_speak([sentence], speakers[place], random_source)))
            end = sum(map(len, pieces)) / SAMPLE_RATE_HZ
            name = speakers[place].speaker
            turns.append(Turn(speaker=name, start=round(start, 2), end=round(end, 2), text=sentence.text))
    return augment.scale(np.concatenate([*pieces, synthesis.silence(0.4)]), GAIN_DB), turns


def _speak(sentences: Sequence[Sentence], voice: Voice, source: Generator) -> Samples:
    speech: Speech = synthesis.join(sentences, [voice] * len(sentences), source)
    return speech.samples


def trim_silence(samples: Samples) -> Samples:
    """Remove the silence at both ends."""
    loud = np.flatnonzero(np.abs(samples) > SILENT_BELOW)
    return samples[loud[0] : loud[-1] + 1]


def _write_truth(folder: Path, description: str, truth: Sequence[Mapping[str, Any]]) -> None:
    files.write(folder / TRUTH_FILE, json.dumps({"what": description, "recordings": truth}, indent=1) + "\n")


def _save(path: Path, samples: Samples) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
