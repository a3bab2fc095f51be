"""The weights and the dialogue in the repository: they are what the recipe makes."""

import itertools
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from scipy import signal

from contract.catalogue import read_catalogue
from contract.client import ClientSpec
from contract.tokens import WORD_START
from export.checkpoints import reference
from export.networks.ctc_head import CtcHeadConfig
from export.networks.reserved_tokens import BOUNDARY
from training import card, corpus, dialogue, evaluation, model, reporting, speakers, synthesis, voices
from training.augment import telephone
from training.dataset import TRAINING_PARTS
from training.errors import TrainingError
from training.features import SAMPLE_RATE_HZ, log_mel
from training.language import pad_tokens
from training.recipe import Recipe
from training.synthesis import Utterance
from training.tokenizer import BLANK_PIECE, BOUNDARY_PIECE, Tokenizer
from transcriber import ngram
from transcriber.clustering import NO_LIMITS, find_voices
from transcriber.segments import follow
from transcriber.speakers import with_noise_floor
from transcriber.stream_speakers import StreamSpeakers

RECIPE = Recipe(out=Path("work/training"))
LARGEST_BYTES = 12_000_000
# Size of the n-gram model as text, which every manifest and configuration contains.
LARGEST_PARAMETER = 640_000
FAMILIES = {
    "standard": ("body", "am_en", "decoder", "diar"),
    "enhanced": ("body", "am_en", "decoder", "diar", "lm"),
}
MODELS = [(family, point) for point, families in FAMILIES.items() for family in families]
BLOCKS = {"standard": 5, "enhanced": 12}
LARGEST_WORD_ERROR_RATES = {"standard": 0.15, "enhanced": 0.10}

every_point = pytest.mark.parametrize("point", read_catalogue().operating_points)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(RECIPE.tokenizer)


def test_reference_folder_has_only_these_files() -> None:
    found = {str(path.relative_to(RECIPE.weights)) for path in RECIPE.weights.rglob("*") if path.is_file()}
    models = {f"{point}/{family}.safetensors" for family, point in MODELS}
    ngrams = {f"{point}/am_en.ngram" for point in FAMILIES}
    assert found == {*models, *ngrams, "tokenizer.model", "figures.json", "MODEL_CARD.md"}


def test_tokenizer_round_trip(tokenizer: Tokenizer) -> None:
    source = random.Random(0)
    for _ in range(200):
        text = corpus.grammar_sentence(source).text
        assert tokenizer.decode(tokenizer.encode(text)) == text


@every_point
def test_acoustic_head_has_the_pieces_of_the_tokenizer(tokenizer: Tokenizer, point: str) -> None:
    _, parameters = reference.load(reference.checkpoint_path("am_en", point))
    pieces = json.loads(parameters["tokens"])
    assert pieces == tokenizer.pieces()
    assert len(pieces) == RECIPE.vocabulary
    assert (pieces[0], pieces[BOUNDARY]) == (BLANK_PIECE, BOUNDARY_PIECE)
    assert any(piece.startswith(WORD_START) for piece in pieces)


@every_point
def test_acoustic_head_has_the_ngram_model_of_its_tokens(tokenizer: Tokenizer, point: str) -> None:
    client = _client("am_en", point)
    assert client.tokens is not None
    assert client.search is not None
    assert client.search.ngram is not None
    found = ngram.from_text(client.search.ngram, BOUNDARY)
    found.check_tokens(client.tokens)
    assert found.vocabulary == len(client.tokens.pieces) == RECIPE.vocabulary
    assert len(client.search.ngram) <= LARGEST_PARAMETER
    assert len(found) == reporting.read_figures(RECIPE)[f"ngram_{point}"]["ngrams"]
    right, misspelt = "we will see whether they merge the pictures", "we will see weether they mer ge the picictures"
    assert found.log_prob(tokenizer.encode(right)) > found.log_prob(tokenizer.encode(misspelt)) + 10.0
    others = [family for family in FAMILIES[point] if family != "am_en"]
    assert not [family for family in others if _client(family, point).search is not None]


def _client(family: str, point: str) -> ClientSpec:
    return reference.open_checkpoint(read_catalogue().models()[f"{family}_{point}"]).client


@pytest.mark.parametrize(("family", "point"), MODELS)
def test_weights_are_finite_and_have_the_configuration_of_the_recipe(family: str, point: str) -> None:
    network, _ = reference.load(reference.checkpoint_path(family, point))
    tensors = network.state_dict().values()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    wanted = RECIPE.point(point)
    configs = {
        "body": model.conditioned(wanted.body, RECIPE.vocabulary),
        "decoder": wanted.decoder, "diar": wanted.diarization, "lm": RECIPE.language,
        "am_en": CtcHeadConfig(size=wanted.body.size, vocabulary=RECIPE.vocabulary),
    }  # fmt: skip
    assert network.config == configs[family]


@every_point
def test_body_has_its_blocks(point: str) -> None:
    body, _ = reference.load(reference.checkpoint_path("body", point))
    blocks: Any = body.blocks
    assert len(blocks) == BLOCKS[point]


def test_language_model_prefers_the_right_word_order(tokenizer: Tokenizer) -> None:
    language, _ = reference.load(reference.checkpoint_path("lm", "enhanced"))
    right, reversed_text = "we have to move the meeting to thursday", "thursday the to meeting move to have we"
    tokens, lengths = pad_tokens([tokenizer.encode(text) for text in (right, reversed_text)])
    with torch.inference_mode():
        scored = language(tokens[None], lengths[None])[0].tolist()
    assert scored[0] > scored[1] + 5.0


@every_point
def test_networks_recognise_and_score_a_segment(point: str) -> None:
    body, _ = reference.load(reference.checkpoint_path("body", point))
    acoustic, _ = reference.load(reference.checkpoint_path("am_en", point))
    decoder, _ = reference.load(reference.checkpoint_path("decoder", point))
    with torch.inference_mode():
        encoded, lengths = body(torch.randn(2, 131, 80), torch.tensor([131, 77]))
        log_probs, _ = acoustic(encoded, lengths)
        hypotheses = torch.tensor([[[5, 6, 7], [8, 0, 0]], [[5, 9, 0], [8, 8, 8]]])
        scored = decoder(encoded, lengths, hypotheses, torch.tensor([[3, 1], [2, 3]]))
    assert bool(torch.isfinite(log_probs).all())
    assert scored.shape == (2, 2)
    assert bool((scored < 0).all())


@every_point
def test_embedding_is_a_unit_vector_with_a_threshold(point: str) -> None:
    network, parameters = reference.load(reference.checkpoint_path("diar", point))
    with torch.inference_mode():
        embedding = network(torch.randn(2, 150, 80), torch.tensor([150, 80]))
    assert torch.allclose(embedding.norm(dim=-1), torch.ones(2), atol=1e-4)
    assert 0.0 < float(parameters["same_speaker_similarity"]) < 1.0


@every_point
@pytest.mark.parametrize("line", ["full band", "telephone"])
def test_two_voices_are_two_speakers_in_recordings_and_streams(point: str, line: str) -> None:
    """The stream repeats the dialogue, which moves the segments: several of them have both voices."""
    network, parameters = reference.load(reference.checkpoint_path("diar", point))
    threshold = float(parameters["same_speaker_similarity"])
    samples, turns = dialogue.read(RECIPE.demo)
    if line == "telephone":
        narrow = signal.resample_poly(telephone(samples), 1, 2)
        samples = with_noise_floor(signal.resample_poly(narrow, 2, 1).astype(np.float32), SAMPLE_RATE_HZ)
    embedded = speakers.embed_dialogue(network, samples, turns)
    assert speakers.clustering_accuracy(embedded.speakers, find_voices(embedded.speech, threshold, NO_LIMITS)) > 0.9
    known, labels = StreamSpeakers(threshold), set[str | None]()
    blocks = iter(np.array_split(np.tile(samples, 2), 300))
    for number, update in enumerate(follow(blocks, sample_rate_hz=SAMPLE_RATE_HZ)):
        if update.ended:
            labels |= set(known.label(*speakers.embed_segment(network, number, update.segment)))
    assert labels == {"S1", "S2"}


def test_weights_are_small_enough_for_a_repository() -> None:
    assert sum(path.stat().st_size for path in reference.REFERENCE_FOLDER.rglob("*") if path.is_file()) <= LARGEST_BYTES


def test_card_is_rendered_from_the_figures() -> None:
    text = (RECIPE.weights / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert text == card.render(RECIPE, reporting.read_figures(RECIPE))


def _may_contain(path: Path, sentences: Iterable[str]) -> bool:
    """Return whether a Python file contains the words of one of the sentences in order, with no word between them."""
    source = path.read_bytes().lower()
    for sentence in sentences:
        words = [word.encode() for word in re.split("[ ']", sentence)]
        # Long words are rare, and most files lack one of them. Line breaks may be written as escapes.
        if all(word in source for word in sorted(words, key=len, reverse=True)) and re.search(
            rb"(?:\\.|[^a-z])+".join(words), source
        ):
            return True
    return False


@pytest.mark.slow
def test_no_sentence_of_the_dialogue_is_trained_on(tmp_path: Path) -> None:
    """Draw all three training sets as the recipe does; parsing all sources of the libraries takes most of the time.

    The three tests after this one check the same within seconds. Only they skip what the library set draws from
    elsewhere: grammar and random words.
    """
    dialogue.reject_trained_sentences(Recipe(out=tmp_path))


def test_no_sentence_of_the_dialogue_is_in_the_sets_without_libraries() -> None:
    plans = (
        synthesis.plan(RECIPE.utterances, RECIPE.evaluation_utterances, RECIPE.seed),
        synthesis.meetings_plan(RECIPE.meetings_utterances, RECIPE.seed),
    )
    trained = {one.text for plan in plans for each in plan if each.part in TRAINING_PARTS for one in each.sentences}
    assert len(trained) > 10_000
    assert not trained & set(dialogue.sentences())


def test_no_sentence_of_the_dialogue_is_prose_or_in_a_library() -> None:
    """All prose and all libraries, not only what the sets draw; files without the words need no parsing."""
    wanted = set(dialogue.sentences())
    assert not wanted & {one.text for one in corpus.prose()}
    sources = corpus.library_sources()
    assert len(sources) > 5_000
    # Shorter sentences are never taken from a library.
    possible = [text for text in wanted if len(text.split()) in corpus.PROSE_WORDS]
    candidates = [path for path in sources if _may_contain(path, possible)]
    assert not wanted & {one.text for one in corpus.sentences_of(candidates)}


def test_finds_a_sentence_in_a_library(tmp_path: Path) -> None:
    path = tmp_path / "library.py"
    path.write_text('def f():\n    """Other text.  About six gigabytes,\n    and the Machine has sixteen. More."""\n')
    text = "about six gigabytes and the machine has sixteen"
    assert text in dialogue.sentences()
    assert _may_contain(path, dialogue.sentences())
    assert text in {one.text for one in corpus.sentences_of([path])}
    assert not _may_contain(path, ["about seven gigabytes"])


@pytest.mark.parametrize("part", TRAINING_PARTS)
def test_rejects_dialogue_that_repeats_the_training(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (voice,) = voices.unseen_flite()
    repeated = corpus.sentence("So there is nothing wrong with the model.")
    one = Utterance(part=part, seed=1, sentences=(repeated,), voices=(voice,), degraded=False)
    monkeypatch.setattr(synthesis, "plan", lambda *_: (one,) if part == "train" else ())
    monkeypatch.setattr(synthesis, "library_plan", lambda *_: (one,) if part == "library" else ())
    monkeypatch.setattr(synthesis, "meetings_plan", lambda *_: (one,) if part == "meetings" else ())
    (tmp_path / "library.txt").write_text("Nothing.\n")
    with pytest.raises(TrainingError) as caught:
        dialogue.reject_trained_sentences(Recipe(out=tmp_path))
    assert str(caught.value) == (
        "training/dialogue.py: SCRIPT repeats sentences of the training; reword them: "
        "so there is nothing wrong with the model"
    )


def test_dialogue_has_only_words_of_the_grammar() -> None:
    words = {word for text in dialogue.sentences() for word in text.split()}
    assert not words - set(corpus.vocabulary())


def test_dialogue_has_the_turns_of_its_reference() -> None:
    samples, turns = dialogue.read(RECIPE.demo)
    info = soundfile.info(RECIPE.demo / "dialogue.flac")
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    assert 45 <= len(samples) / 16_000 <= 75
    assert [turn.speaker for turn in turns] == ["A", "B"] * (len(turns) // 2)
    assert " ".join(turn.text for turn in turns) == " ".join(dialogue.sentences())
    pauses = [after.start - before.end for before, after in itertools.pairwise(turns)]
    assert all(0.29 <= pause <= 0.81 for pause in pauses)
    assert (RECIPE.demo / "dialogue.flac").stat().st_size <= 1.2 * 2**20


@every_point
def test_greedy_word_error_rate_of_the_dialogue(tokenizer: Tokenizer, point: str) -> None:
    samples, turns = dialogue.read(RECIPE.demo)
    body, _ = reference.load(reference.checkpoint_path("body", point))
    acoustic, _ = reference.load(reference.checkpoint_path("am_en", point))
    cuts = [log_mel(samples[int((turn.start - 0.1) * 16_000) : int((turn.end + 0.1) * 16_000)]) for turn in turns]
    texts = evaluation.greedy_texts(body, acoustic, tokenizer, cuts)
    assert evaluation.word_error_rate([turn.text for turn in turns], texts) <= LARGEST_WORD_ERROR_RATES[point]


@every_point
def test_figures_of_the_dialogue(point: str) -> None:
    figures = reporting.read_figures(RECIPE)[f"dialogue_{point}"]
    assert figures["wer_dialogue"] <= LARGEST_WORD_ERROR_RATES[point]
    assert figures["clusters"] == 2


def test_small_body_refers_to_the_large_one() -> None:
    with safe_open(reference.checkpoint_path("body", "standard"), framework="pt") as file:
        assert list(file.keys()) == []
        assert json.loads(file.metadata()["within"])["file"] == "enhanced/body.safetensors"
