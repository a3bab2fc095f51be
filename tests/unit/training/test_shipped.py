import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open

from export.checkpoints import reference
from training import card, corpus, dialogue, reporting, scores
from training.recipe import Recipe
from training.tokenizer import BLANK_PIECE, BOUNDARY, BOUNDARY_PIECE, WORD_START, Tokenizer
from transcriber.features import log_mel

RECIPE = Recipe(out=Path("work/training"))
LARGEST_BYTES = 12 * 2**20
FAMILIES = ("body", "am_en", "decoder", "diar")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(RECIPE.weights / "tokenizer.model")


def test_the_tokenizer_gives_back_what_it_is_given(tokenizer: Tokenizer) -> None:
    source = random.Random(0)
    for _ in range(200):
        text = corpus.grammar_sentence(source).text
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_pieces_are_those_of_the_acoustic_head(tokenizer: Tokenizer) -> None:
    _, parameters = reference.load(RECIPE.weights / "am_en.safetensors")
    pieces = json.loads(parameters["tokens"])
    assert pieces == tokenizer.pieces()
    assert len(pieces) == RECIPE.vocabulary
    assert (pieces[0], pieces[BOUNDARY]) == (BLANK_PIECE, BOUNDARY_PIECE)
    assert any(piece.startswith(WORD_START) for piece in pieces)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_finite_and_of_their_network(family: str) -> None:
    network, _ = reference.load(reference.checkpoint_path(family, "standard"))
    tensors = network.state_dict().values()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def test_a_segment_is_heard_and_scored() -> None:
    body, _ = reference.load(reference.checkpoint_path("body", "standard"))
    acoustic, _ = reference.load(reference.checkpoint_path("am_en", "standard"))
    decoder, _ = reference.load(reference.checkpoint_path("decoder", "standard"))
    with torch.inference_mode():
        encoded, lengths = body(torch.randn(2, 131, 80), torch.tensor([131, 77]))
        log_probs, _ = acoustic(encoded, lengths)
        hypotheses = torch.tensor([[[5, 6, 7], [8, 0, 0]], [[5, 9, 0], [8, 8, 8]]])
        scored = decoder(encoded, lengths, hypotheses, torch.tensor([[3, 1], [2, 3]]))
    assert bool(torch.isfinite(log_probs).all())
    assert scored.shape == (2, 2)
    assert bool((scored < 0).all())


def test_a_voice_is_a_unit_vector_with_a_threshold_beside_it() -> None:
    network, parameters = reference.load(reference.checkpoint_path("diar", "standard"))
    with torch.inference_mode():
        embedding = network(torch.randn(2, 150, 80), torch.tensor([150, 80]))
    assert torch.allclose(embedding.norm(dim=-1), torch.ones(2), atol=1e-4)
    assert 0.0 < float(parameters["same_speaker_similarity"]) < 1.0


def test_the_weights_are_small_enough_for_a_repository() -> None:
    assert sum(path.stat().st_size for path in reference.REFERENCE_FOLDER.rglob("*") if path.is_file()) <= LARGEST_BYTES


def test_the_card_is_drawn_from_the_figures() -> None:
    text = (RECIPE.weights.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert text == card.render(RECIPE, reporting.read_figures(RECIPE))


def test_no_sentence_of_the_dialogue_is_trained_on() -> None:
    dialogue.refuse_known_sentences(RECIPE)


def test_the_dialogue_uses_words_that_the_training_knows() -> None:
    words = {word for text in dialogue.sentences() for word in text.split()}
    assert not words - set(corpus.vocabulary())


def test_the_dialogue_and_its_truth_agree() -> None:
    samples, turns = dialogue.read()
    info = soundfile.info(dialogue.DEMO_FOLDER / "dialogue.flac")
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    assert 45 <= len(samples) / 16_000 <= 75
    assert [turn.speaker for turn in turns] == ["A", "B"] * (len(turns) // 2)
    assert " ".join(turn.text for turn in turns) == " ".join(dialogue.sentences())
    pauses = [after.start - before.end for before, after in itertools.pairwise(turns)]
    assert all(0.29 <= pause <= 0.81 for pause in pauses)
    assert (dialogue.DEMO_FOLDER / "dialogue.flac").stat().st_size <= 1.2 * 2**20


def test_the_dialogue_is_understood_greedily() -> None:
    samples, turns = dialogue.read()
    body, _ = reference.load(reference.checkpoint_path("body", "standard"))
    acoustic, _ = reference.load(reference.checkpoint_path("am_en", "standard"))
    cuts = [log_mel(samples[int((turn.start - 0.1) * 16_000) : int((turn.end + 0.1) * 16_000)]) for turn in turns]
    texts = scores.greedy_texts(body, acoustic, Tokenizer(RECIPE.weights / "tokenizer.model"), cuts)
    assert scores.word_error_rate([turn.text for turn in turns], texts) <= 0.15


def test_the_feature_samples_are_cut_from_the_dialogue() -> None:
    with safe_open(dialogue.DEMO_FOLDER / "features.safetensors", framework="np") as file:
        segments = [file.get_tensor(f"segment_{index}") for index in range(4)]
        texts = json.loads(file.metadata()["texts"])
    _, turns = dialogue.read()
    assert [round(len(segment) / 100) for segment in segments] == pytest.approx([2, 4, 7, 11], abs=2)
    assert all(segment.dtype == np.float16 and segment.shape[1] == 80 for segment in segments)
    assert all(text in " ".join(turn.text for turn in turns) for text in texts)
