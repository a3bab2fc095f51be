"""A recipe that runs in seconds: networks of a few thousand parameters, and shards of noise instead of speech."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from export.networks.conformer_encoder import ConformerEncoderConfig
from export.networks.decoder import DecoderConfig
from export.networks.speaker_encoder import SpeakerEncoderConfig
from export.networks.transformer_lm import TransformerLmConfig
from training import corpus
from training.recipe import Point, Recipe
from training.synthesis import EVALUATION_PARTS

VOCABULARY = 64
SPEAKERS = 5
# Three seconds and a little more: equal error rates are taken over crops of three.
FRAMES = range(305, 340)
PHONEMES = ("?", "_", "a", "b")


def recipe(out: Path, seconds: float = 1.0) -> Recipe:
    """Return a recipe whose every training takes some seconds, in one process."""
    return Recipe(
        out=out,
        weights=out / "weights",
        demo=out / "demo",
        evaluation=out / "recordings",
        utterances=4,
        library_utterances=4,
        meetings_utterances=4,
        evaluation_utterances=4,
        recordings=1,
        processes=1,
        vocabulary=VOCABULARY,
        points=(_point("standard", layers=1, seconds=seconds), _point("enhanced", layers=2, seconds=seconds)),
        language=TransformerLmConfig(size=16, layers=1, heads=2, hidden=16, vocabulary=VOCABULARY),
        language_minutes=seconds / 60,
        ngram_sentences=200,
        batch_frames=800,
    )


def write_data(recipe: Recipe) -> None:
    """Write a shard of each kind, and the sentences of the libraries."""
    source = random.Random(1)
    kinds = {"shard": (*EVALUATION_PARTS, "train"), "library": ("library",), "meetings": ("meetings",)}
    for name, parts in kinds.items():
        texts = [(part, corpus.grammar_sentence(source).text) for part in parts for _ in range(2 * SPEAKERS)]
        _write_shard(recipe.shards / f"{name}-0000", texts)
    recipe.library.write_text("A sentence of a library.\nAnother one without new content.\n")


def _point(name: str, *, layers: int, seconds: float) -> Point:
    point = Point(
        name=name,
        body=ConformerEncoderConfig(size=16, layers=layers, heads=2, hidden=16, kernel=3, channels=8),
        decoder=DecoderConfig(size=16, encoder_size=16, layers=layers, heads=2, hidden=16, vocabulary=VOCABULARY),
        diarization=SpeakerEncoderConfig(size=16, dilations=(1, 2), attention=8, embedding=8),
        recogniser_minutes=seconds / 60,
        speakers_minutes=seconds / 60,
        peak_learning_rate=1e-3,
        warm_up_steps=10,
        ngram_bytes=5_000,
    )
    if name == "standard":
        return point
    return replace(point, body=replace(point.body, conditioned=(layers - 1,)), starts_from="standard")


def _write_shard(folder: Path, texts: list[tuple[str, str]]) -> None:
    source = np.random.default_rng(len(texts))
    lengths = source.integers(FRAMES.start, FRAMES.stop, len(texts)).tolist()
    folder.mkdir(parents=True)
    np.save(folder / "features.npy", source.standard_normal((sum(lengths), 80)).astype(np.float16))
    np.save(folder / "labels.npy", source.integers(0, len(PHONEMES), sum(lengths)).astype(np.uint8))
    utterances = [
        {"part": part, "text": text, "speaker": f"speaker {index % SPEAKERS}", "frames": frames}
        for index, ((part, text), frames) in enumerate(zip(texts, lengths, strict=True))
    ]
    (folder / "index.json").write_text(json.dumps({"phonemes": PHONEMES, "utterances": utterances}))
