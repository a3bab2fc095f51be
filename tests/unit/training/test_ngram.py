"""The n-gram model of the search: counts, probabilities, pruning, and its file."""

import itertools
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from export.networks.reserved_tokens import BOUNDARY
from tests.unit.training import tiny
from training import corpus, language, ngram, reporting, tokenizer
from training.ngram import Model
from training.tokenizer import Tokenizer
from transcriber import ngram as searched

VOCABULARY = 9
TOKENS = range(BOUNDARY, VOCABULARY)


def drawn(seed: int, texts: int = 300) -> list[list[int]]:
    """Draw texts in which each token depends on the two before it."""
    source = random.Random(seed)
    found = []
    for _ in range(texts):
        text = [source.choice(TOKENS[1:])]
        while len(text) < 12 and source.random() < 0.85:
            text.append(TOKENS[1 + (sum(text[-2:]) + source.choice((0, 0, 0, 1, 3))) % (len(TOKENS) - 1)])
        found.append(text)
    return found


def model(order: int = 3, seed: int = 1) -> Model:
    return ngram.estimate(ngram.count(drawn(seed), order, VOCABULARY), VOCABULARY)


def key(tokens: tuple[int, ...], bits: int = 4) -> int:
    return sum(token << bits * place for place, token in enumerate(reversed(tokens)))


def total_after(made: Model, past: tuple[int, ...]) -> float:
    keys = np.array([key((*past, token)) for token in TOKENS])
    return float(np.exp(made.log_probs(keys, len(past) + 1)).sum())


def test_counts_every_ngram_within_a_text() -> None:
    texts = [[3, 4, 3, 4], [5], [], [3, 4]]
    expected: list[Counter[int]] = [Counter(), Counter(), Counter()]
    for text in texts:
        whole = (BOUNDARY, *text, BOUNDARY)
        for order, start in itertools.product((1, 2, 3), range(len(whole))):
            gram = whole[start : start + order]
            # The opening boundary is given, not counted.
            if len(gram) == order and not (order == 1 and start == 0):
                expected[order - 1][key(gram)] += 1
    for (keys, counts), wanted in zip(ngram.count(texts, 3, VOCABULARY), expected, strict=True):
        assert dict(zip(keys.tolist(), counts.tolist(), strict=True)) == wanted
        assert keys.tolist() == sorted(keys.tolist())


def test_probabilities_follow_the_formula() -> None:
    """After 3: 4 twice and 5 once, so c = 3 and T = 2; of eight single tokens, four kinds."""
    counted = ngram.count([[3, 4], [3, 4], [3, 5]], 2, VOCABULARY)
    made = ngram.estimate(counted, VOCABULARY)
    four = (2 + 4 / len(TOKENS)) / (9 + 4)
    six = (0 + 4 / len(TOKENS)) / (9 + 4)
    probabilities = np.exp(made.log_probs(np.array([key((3, 4)), key((3, 6))]), 2))
    assert probabilities.tolist() == pytest.approx([(2 + 2 * four) / (3 + 2), 2 * six / (3 + 2)])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("threshold", [None, 1e-4, 1e-2])
def test_probabilities_sum_to_one_after_every_history(order: int, threshold: float | None) -> None:
    made = model(order)
    if threshold is not None:
        made = ngram.prune(made, ngram.pruning_losses(made), threshold)
    for length in range(len(made.orders)):
        for past in itertools.product(TOKENS, repeat=length):
            assert total_after(made, past) == pytest.approx(1.0), past


def test_pruning_keeps_a_tree_and_the_unigrams() -> None:
    made = model(4)
    lost = ngram.pruning_losses(made)
    sizes = []
    for threshold in (1e-5, 1e-4, 1e-3, 1.0):
        pruned = ngram.prune(made, lost, threshold)
        sizes.append(sum(len(grams.keys) for grams in pruned.orders))
        for shorter, longer in itertools.pairwise(pruned.orders):
            assert np.isin(longer.keys >> pruned.bits, shorter.keys).all()
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == len(TOKENS)


def test_pruning_loss_is_the_divergence_of_the_pruned_model() -> None:
    """Prune one n-gram of the highest order, and compare both models after its history by the definition."""
    made = model(3)
    lost = ngram.pruning_losses(made)
    top = made.orders[-1]
    tokens = made.orders[0].counts.sum()
    for place in range(0, len(top.keys), 7):
        only = [np.full(len(each), math.inf) for each in lost]
        only[-1][place] = -math.inf
        without = ngram.prune(made, only, 0.0)
        past = int(top.keys[place] >> made.bits)
        keys = np.array([past << made.bits | token for token in TOKENS])
        before, after = made.log_probs(keys, 3), without.log_probs(keys, 3)
        seen = top.counts[top.keys >> made.bits == past].sum() / tokens
        assert lost[-1][place] == pytest.approx(seen * float((np.exp(before) * (before - after)).sum()), abs=1e-12)


def test_search_reads_estimated_probabilities() -> None:
    made = model(3)
    found = searched.Ngram(ngram.levels(made), VOCABULARY, BOUNDARY)
    for text in drawn(2, 40):
        whole = (BOUNDARY, *text, BOUNDARY)
        total = 0.0
        for end in range(2, len(whole) + 1):
            gram = whole[max(0, end - 3) : end]
            total += float(made.log_probs(np.array([key(gram)]), len(gram))[0])
        assert found.log_prob(text) == pytest.approx(total)


def test_quantisation_changes_perplexity_little() -> None:
    made = model(3)
    exact = searched.Ngram(ngram.levels(made), VOCABULARY, BOUNDARY)
    rounded = searched.decode(searched.encode(ngram.levels(made), VOCABULARY), BOUNDARY)
    texts = drawn(3)
    assert ngram.perplexity(rounded, texts) == pytest.approx(ngram.perplexity(exact, texts), rel=0.03)


def test_larger_files_have_lower_perplexity() -> None:
    texts = drawn(1)
    made, perplexities = model(4), []
    for largest in (150, 400, 2_000):
        data = ngram.prune_to_size(made, largest)
        assert len(data) <= largest
        perplexities.append(ngram.perplexity(searched.decode(data, BOUNDARY), texts))
    assert perplexities == sorted(perplexities, reverse=True)
    assert perplexities[0] > 1.1 * perplexities[-1]


def test_perplexity_of_uniform_model_is_its_vocabulary() -> None:
    level = searched.Level(
        tokens=np.array(TOKENS),
        log_probs=np.full(len(TOKENS), -math.log(len(TOKENS))),
        backoffs=np.zeros(len(TOKENS)),
        children=np.zeros(len(TOKENS), dtype=np.int64),
    )
    assert ngram.perplexity(searched.Ngram([level], VOCABULARY, BOUNDARY), drawn(4)) == pytest.approx(len(TOKENS))


def test_counts_no_held_out_text(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path)
    tiny.write_data(recipe)
    texts = list(ngram.texts(recipe))
    # Four of ten sentences are a text of their own, so a held-out one would be found.
    assert not [text for text in texts if corpus.is_held_out(text) and text in prose_texts()]
    assert any("a sentence of a library" in text for text in texts)
    words = sum(len(text.split()) for text in texts)
    prose = sum(len(text.split()) for text in prose_texts() if not corpus.is_held_out(text))
    assert 0 < words - prose < 40 * recipe.ngram_sentences


def prose_texts() -> set[str]:
    return {one.text for one in corpus.prose()}


def test_stage_needs_only_a_tokenizer(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path)
    tiny.write_data(recipe)
    tokenizer.train(language.held_out_texts(recipe)["prose"], recipe.tokenizer, recipe.vocabulary)
    ngram.build(recipe)
    for point in recipe.points:
        path = recipe.ngram(point)
        found = searched.decode(path.read_bytes(), BOUNDARY)
        figures = reporting.read_figures(recipe)[f"ngram_{point.name}"]
        assert found.vocabulary == len(Tokenizer(recipe.tokenizer).pieces())
        assert path.stat().st_size == figures["bytes"] <= point.ngram_bytes
        assert figures["ngrams"] == len(found) < figures["counted"]
        assert figures["perplexity_prose"] < recipe.vocabulary / 2
