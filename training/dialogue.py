"""The recording of the demonstration: a meeting of two voices, in sentences and voices that are in no training set."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import soundfile
from numpy.typing import NDArray

from contract import files
from export.checkpoints import reference
from training import corpus, dataset, espeak, reporting, speakers, synthesis
from training.augment import Samples, scale
from training.errors import MissingDataError, TrainingError
from training.evaluation import greedy_texts, word_error_rate
from training.features import SAMPLE_RATE_HZ, log_mel
from training.recipe import Recipe
from training.recordings import Turn, trim_silence
from training.tokenizer import Tokenizer
from training.voices import ACCENTS, DIALOGUE_VARIANTS
from transcriber.clustering import NO_LIMITS, find_voices

WORDS_PER_MINUTE = 180
EDGE_SECONDS = 0.4
PAUSE_SECONDS = (0.3, 0.8)
GAIN_DB = -6.0
SAMPLE_EDGE_SECONDS = 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """The voice of one of the two speakers, and its pitch from 0 to 99."""

    voice: str
    pitch: int


ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "A": Role(voice=f"{ACCENTS['american']}+{DIALOGUE_VARIANTS[0]}", pitch=40),
        "B": Role(voice=f"{ACCENTS['british']}+{DIALOGUE_VARIANTS[1]}", pitch=60),
    }
)
SCRIPT = (
    ("A", "Hello Sarah, good to have you back. Did the new speech model pass the tests?"),
    ("B", "Almost. Eleven of them were fine, but the one with the longest recording failed after forty minutes."),
    ("A", "Do you already know why it failed?"),
    ("B", "Daniel found out this morning. The server had no memory left because an old process was still running."),
    ("A", "So there is nothing wrong with the model. How much memory does the engine need for two hours of audio?"),
    ("B", "About six gigabytes, and the machine has sixteen. I would like to restart it after lunch."),
    ("A", "Will the results be there before we talk to our customers on Thursday?"),
    ("B", "If nothing else is broken. They want to see the word error rate and what each hour will cost."),
    ("A", "The error rate went from nine to seven percent, so they should be happy. "
          "What did we say about the price?"),  # words: spoken
    ("B", "Twenty cents an hour, which is half of what they paid in March."),
    ("A", "Perfect, then please write me a short summary. I will show it to everyone in London."),
    ("B", "You will get it tonight. Would you like me to book the big room for ten o'clock?"),
    ("A", "Please do, and invite Martin from the design team. He has some questions about the dashboard."),
    ("B", "Sure, I can call him before I go home. Have a good trip, and see you on Wednesday."),
)  # fmt: skip


def write(recipe: Recipe) -> None:
    """Write the recording and its reference transcript, and record the figures of the weights on it."""
    reject_trained_sentences(recipe)
    samples, turns = synthesise_script()
    recipe.demo.mkdir(parents=True, exist_ok=True)
    soundfile.write(recipe.demo / "dialogue.flac", samples, SAMPLE_RATE_HZ, subtype="PCM_16", compression_level=1.0)
    truth = {"text": " ".join(turn.text for turn in turns), "turns": [asdict(turn) for turn in turns]}
    files.write(recipe.demo / "dialogue.json", json.dumps(truth, indent=2) + "\n")
    measure(recipe)


def sentences() -> tuple[str, ...]:
    """Return the transcript of every sentence of the script."""
    spoken = (one for _, text in SCRIPT for one in re.split(r"(?<=[.?!])\s+", text))
    return tuple(corpus.normalise(one) for one in spoken)


def reject_trained_sentences(recipe: Recipe) -> None:
    """Raise TrainingError when a sentence of the script is in a training set."""
    spoken = (utterance for plan in dataset.plans(recipe).values() for utterance in plan)
    trained = {one.text for each in spoken if each.part in dataset.TRAINING_PARTS for one in each.sentences}
    known = trained & set(sentences())
    if known:
        raise TrainingError(
            f"training/dialogue.py: SCRIPT repeats sentences of the training; reword them: {'; '.join(sorted(known))}"
        )


def synthesise_script() -> tuple[Samples, tuple[Turn, ...]]:
    """Synthesise the script: samples at 16 kHz and the turns in them."""
    synthesis.require_programs()
    source = np.random.default_rng(1)
    pieces, turns = [synthesis.silence(EDGE_SECONDS)], []
    for index, (name, text) in enumerate(SCRIPT):
        if index:
            pieces.append(synthesis.silence(source.uniform(*PAUSE_SECONDS)))
        start = sum(map(len, pieces)) / SAMPLE_RATE_HZ
        pieces.append(_speak(ROLES[name], text))
        end = sum(map(len, pieces)) / SAMPLE_RATE_HZ
        turns.append(Turn(speaker=name, start=round(start, 2), end=round(end, 2), text=corpus.normalise(text)))
    return scale(np.concatenate([*pieces, synthesis.silence(EDGE_SECONDS)]), GAIN_DB), tuple(turns)


def read(folder: Path) -> tuple[NDArray[np.float32], tuple[Turn, ...]]:
    """Read the recording in a folder and its turns. Raises MissingDataError when it was not written."""
    path = folder / "dialogue.flac"
    if not path.is_file():
        raise MissingDataError(path, "dialogue")
    samples, _ = soundfile.read(path, dtype="float32")
    truth = json.loads((folder / "dialogue.json").read_text(encoding="utf-8"))
    return samples, tuple(Turn(**turn) for turn in truth["turns"])


def measure(recipe: Recipe) -> None:
    """Record the word error rate and the speaker clusters of the dialogue at every point, by its reference turns."""
    samples, turns = read(recipe.demo)
    cuts = [log_mel(_cut(samples, [turn])) for turn in turns]
    logger = reporting.open_log(recipe)
    for point in recipe.points:
        folder = recipe.weights / point.name
        body, _ = reference.load(folder / "body.safetensors")
        acoustic, _ = reference.load(folder / "am_en.safetensors")
        diarization, parameters = reference.load(folder / "diar.safetensors")
        texts = greedy_texts(body, acoustic, Tokenizer(recipe.tokenizer), cuts)
        figures: dict[str, float] = {"seconds": round(len(samples) / SAMPLE_RATE_HZ, 1)}
        figures["wer_dialogue"] = word_error_rate([turn.text for turn in turns], texts)
        embedded = speakers.embed_dialogue(diarization, samples, turns)
        clusters = find_voices(embedded.speech, float(parameters["same_speaker_similarity"]), NO_LIMITS)
        figures["clusters"] = len(set(clusters.tolist()))
        figures["windows_right"] = speakers.clustering_accuracy(embedded.speakers, clusters)
        logger.info("dialogue, %s: %s", point.name, figures)
        for turn, text in zip(turns, texts, strict=True):
            if text != turn.text:
                logger.info("%s was recognised as: %s", turn.text, text)
        reporting.record(recipe, f"dialogue_{point.name}", figures)


def _speak(role: Role, text: str) -> Samples:
    spoken = espeak.speak(text, role.voice, words_per_minute=WORDS_PER_MINUTE, pitch=role.pitch)
    return trim_silence(scale(synthesis.resample(spoken.samples, spoken.rate_hz), 0.0))


def _cut(samples: Samples, turns: Sequence[Turn]) -> Samples:
    first = int((turns[0].start - SAMPLE_EDGE_SECONDS) * SAMPLE_RATE_HZ)
    last = int((turns[-1].end + SAMPLE_EDGE_SECONDS) * SAMPLE_RATE_HZ)
    return samples[max(first, 0) : last]
