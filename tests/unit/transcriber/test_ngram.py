"""The n-gram model of the search: its probabilities, its bytes, and the data that it rejects."""

import base64
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.transcriber.models import BOUNDARY, LEVELS, VOCABULARY, level, token_spec
from tests.unit.transcriber.reference_search import ReferenceNgram
from transcriber import ngram
from transcriber.ngram import Level, Ngram


def backed_off(past: tuple[int, ...], token: int) -> float:
    """Look up a probability in the tables, without a tree."""
    known = dict(_entries())
    if (*past, token) in known:
        return known[*past, token][0]
    return known.get(past, (0.0, 0.0))[1] + backed_off(past[1:], token)


def _entries() -> list[tuple[tuple[int, ...], tuple[float, float]]]:
    found: list[tuple[tuple[int, ...], tuple[float, float]]] = []
    before: list[tuple[int, ...]] = [()]
    for place, each in enumerate(LEVELS):
        many = [len(each.tokens)] if place == 0 else LEVELS[place - 1].children.tolist()
        pasts = [past for past, count in zip(before, many, strict=True) for _ in range(count)]
        grams = [(*past, token) for past, token in zip(pasts, each.tokens.tolist(), strict=True)]
        found += list(zip(grams, zip(each.log_probs.tolist(), each.backoffs.tolist(), strict=True), strict=True))
        before = grams
    return found


def test_scores_by_the_longest_known_past() -> None:
    model = Ngram(LEVELS, VOCABULARY, BOUNDARY)
    for tokens in itertools.chain.from_iterable(itertools.product(range(3, VOCABULARY), repeat=n) for n in range(5)):
        past: tuple[int, ...] = (BOUNDARY,)
        expected = 0.0
        for token in (*tokens, BOUNDARY):
            expected += backed_off(past[-2:], token)
            past = (*past, token)
        assert model.log_prob(tokens) == pytest.approx(expected), tokens


def test_has_the_states_of_the_reference() -> None:
    model, reference = Ngram(LEVELS, VOCABULARY, BOUNDARY), ReferenceNgram(LEVELS, VOCABULARY, BOUNDARY)
    assert model.start == reference.start
    for state, token in itertools.product(range(len(model) + 1), range(BOUNDARY, VOCABULARY)):
        assert model.after(state, token) == reference.after(state, token)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_random_models_have_the_states_of_the_reference(seed: int) -> None:
    """Also with tokens that no text has, and a boundary that is any of the tokens."""
    levels, known = drawn_levels(np.random.default_rng(seed))
    boundary = int(known[-1])
    model, reference = Ngram(levels, 20, boundary), ReferenceNgram(levels, 20, boundary)
    assert model.start == reference.start
    for state, token in itertools.product(range(len(model) + 1), known.tolist()):
        assert model.after(state, token) == reference.after(state, token)
    with pytest.raises(ValueError, match="token 0, '▁a', is not in the n-gram model"):
        model.check_tokens(token_spec(20, blank=19, unspoken=()))
    model.check_tokens(token_spec(20, blank=0, unspoken=tuple(set(range(20)) - set(known.tolist()))))


def drawn_levels(source: np.random.Generator) -> tuple[list[Level], NDArray[np.int64]]:
    known = np.sort(source.choice(np.arange(1, 20), 8, replace=False))
    grams: list[list[tuple[int, ...]]] = [[(int(token),) for token in known]]
    for _ in range(3):
        longer = [(*gram, int(token)) for gram in grams[-1] for token in known if source.random() < 0.2]
        grams.append(longer)
    levels = []
    for place, each in enumerate(grams):
        after = [gram[:-1] for gram in grams[place + 1]] if place + 1 < len(grams) else []
        log_probs, backoffs = -source.integers(0, 40, (2, len(each))) / 4
        levels.append(level([gram[-1] for gram in each], log_probs, backoffs, [after.count(gram) for gram in each]))
    return levels, known


def test_reads_what_was_written() -> None:
    model = ngram.decode(ngram.encode(LEVELS, VOCABULARY), BOUNDARY)
    again = ngram.from_text(base64.b85encode(ngram.encode(LEVELS, VOCABULARY)).decode(), BOUNDARY)
    plain = Ngram(LEVELS, VOCABULARY, BOUNDARY)
    assert (len(model), model.order, model.vocabulary) == (len(plain), 3, VOCABULARY)
    for tokens in itertools.product(range(3, VOCABULARY), repeat=3):
        # Every number of these tables is a whole number of steps.
        assert model.log_prob(tokens) == again.log_prob(tokens) == pytest.approx(plain.log_prob(tokens))


def test_rounds_to_steps_within_bounds() -> None:
    tokens = np.arange(BOUNDARY, 5)
    odd = level(tokens, [-0.6 * ngram.STEP_NATS, -1e9, 0.0])
    found = ngram.decode(ngram.encode([odd], 5), BOUNDARY)
    log_probs = [found.after(0, token)[0] for token in tokens.tolist()]
    assert log_probs == [-ngram.STEP_NATS, -255 * ngram.STEP_NATS, 0.0]


def test_rejects_vocabulary_that_the_bytes_cannot_state() -> None:
    unigrams = level(range(ngram.LARGEST_VOCABULARY), [-1.0] * ngram.LARGEST_VOCABULARY)
    assert len(ngram.decode(ngram.encode([unigrams], ngram.LARGEST_VOCABULARY), BOUNDARY)) == 65_535
    expected = "^it has 65536 tokens, and an n-gram model has at most 65535$"
    with pytest.raises(ValueError, match=expected):
        ngram.encode([unigrams], 65_536)


def test_large_vocabulary_takes_two_bytes_per_token() -> None:
    tokens = np.arange(BOUNDARY, 1000)
    one = level(tokens, [-6.0] * len(tokens), children=[1] * len(tokens))
    two = level([999 - place for place in range(len(tokens))], [-1.0] * len(tokens))
    found = ngram.decode(ngram.encode([one, two], 1000), BOUNDARY)
    assert found.log_prob([500]) == pytest.approx(found.after(found.start, 500)[0] + found.after(500 - 1, BOUNDARY)[0])
    assert found.after(found.start, 999)[0] == -1.0


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "unpack_from requires a buffer of at least 7 bytes for unpacking 7 bytes at offset 0"),
        (b"something else", "it does not begin with VXN1"),
        (ngram.encode(LEVELS, VOCABULARY)[:-9], "Compressed data ended before the end-of-stream marker was reached"),
        (ngram.encode(LEVELS, VOCABULARY)[:10], "buffer is smaller than requested size"),
        (ngram.encode([LEVELS[0], LEVELS[2]], VOCABULARY), "the number of n-grams differs from the counts of children"),
        (ngram.encode([level([3, 4], [-1.0, -1.0])], VOCABULARY), "its n-grams are not in order, or not of its tokens"),
        (ngram.encode([level([2, 6], [-1.0, -1.0])], VOCABULARY), "its n-grams are not in order, or not of its tokens"),
        (ngram.encode([level([3, 2], [-1.0, -1.0])], VOCABULARY), "its n-grams are not in order, or not of its tokens"),
    ],
    ids=["nothing", "something else", "cut", "cut in the head", "torn", "no boundary", "unknown token", "unsorted"],
)
def test_rejects_other_data(data: bytes, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        ngram.decode(data, BOUNDARY)


@pytest.mark.parametrize("token", [0, 1, VOCABULARY])
def test_rejects_unknown_token(token: int) -> None:
    model = Ngram(LEVELS, VOCABULARY, BOUNDARY)
    with pytest.raises(ValueError, match=f"token {token} is not in the n-gram model"):
        model.after(0, token)


def test_rejects_other_text() -> None:
    with pytest.raises(ValueError, match="bad base85 character at position 0"):
        ngram.from_text('"not base85"', BOUNDARY)


def test_log_probabilities_are_at_most_zero() -> None:
    """With rounding, a factor times a probability can be above one; the search relies on at most one."""
    unigrams = level(range(BOUNDARY, 5), [-0.25, -3.0, -3.0], [0.0, 2.0, 0.0], [1, 0, 0])
    model = Ngram([unigrams, level([3], [-1.0])], 5, BOUNDARY)
    assert model.after(0, 3)[0] == -3.0
    assert all(model.after(state, token)[0] <= 0.0 for state in range(3) for token in range(BOUNDARY, 5))
