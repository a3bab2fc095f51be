"""Compare the searches with an enumeration of all paths, and check the properties of the alignment."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.client import TokenSpec
from tests.unit.transcriber import reference_search
from tests.unit.transcriber.models import BLANK, BOUNDARY, LEVELS, VOCABULARY, token_spec
from tests.unit.transcriber.reference_search import ReferenceNgram
from transcriber import ctc
from transcriber.ctc import Emissions, Fusion, Hypothesis, align, beam, greedy
from transcriber.ngram import Ngram

SPEC = token_spec(14)
NGRAM_SPEC = token_spec()
seeds = st.integers(0, 2**32 - 1)


def emissions(seed: int, frames: int, vocabulary: int, top: int | None = None, scale: float = 2.0) -> Emissions:
    """Draw emissions over blank and the tokens from 3 on, with the best `top` of them in the lists."""
    logits = np.random.default_rng(seed).normal(0, scale, (frames, vocabulary))
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    names = np.array([BLANK, *range(3, vocabulary + 2)])
    order = np.argsort(-log_probs, axis=1)[:, :top]
    return Emissions(
        log_probs=np.take_along_axis(log_probs, order, 1).astype(np.float32), tokens=names[order].astype(np.int32)
    )


def confident(path: list[int]) -> Emissions:
    """Build emissions with a probability of 0.99 for one token in each frame."""
    tokens = np.array([[token, BLANK if token else 9] for token in path], dtype=np.int32)
    return Emissions(log_probs=np.full(tokens.shape, np.log([0.99, 0.009]), dtype=np.float32), tokens=tokens)


def collapsed(path: list[int]) -> tuple[int, ...]:
    """Collapse a path without the code under test."""
    return tuple(token for token, _ in itertools.groupby(path) if token != BLANK)


def enumerated(given_: Emissions) -> dict[tuple[int, ...], float]:
    frames, top = given_.tokens.shape
    found: dict[tuple[int, ...], float] = {}
    for places in itertools.product(range(top), repeat=frames):
        rows = list(enumerate(places))
        sequence = collapsed([int(given_.tokens[row]) for row in rows])
        score = sum(float(given_.log_probs[row]) for row in rows)
        found[sequence] = float(np.logaddexp(found.get(sequence, -math.inf), score))
    return found


@given(seed=seeds, frames=st.integers(1, 5), vocabulary=st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_wide_beam_finds_every_sequence_with_its_probability(seed: int, frames: int, vocabulary: int) -> None:
    given_ = emissions(seed, frames, vocabulary)
    expected = enumerated(given_)
    found = {
        hypothesis.tokens: hypothesis.log_prob for hypothesis in beam(given_, SPEC, width=100_000, negligible=-math.inf)
    }
    assert found.keys() == expected.keys()
    for tokens, log_prob in expected.items():
        assert found[tokens] == pytest.approx(log_prob, abs=1e-4)


@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_narrow_beam_is_sorted_and_does_not_overestimate(seed: int) -> None:
    given_ = emissions(seed, 5, 4)
    expected = enumerated(given_)
    found = beam(given_, SPEC, width=3)
    assert 1 <= len(found) <= 3
    assert [item.log_prob for item in found] == sorted((item.log_prob for item in found), reverse=True)
    assert all(item.log_prob <= expected[item.tokens] + 1e-4 for item in found)


FUSION = Fusion(model=Ngram(LEVELS, VOCABULARY, BOUNDARY), weight=0.7, bonus=0.9)


def fused(tokens: tuple[int, ...]) -> float:
    return 0.7 * Ngram(LEVELS, VOCABULARY, BOUNDARY).log_prob(tokens) + 0.9 * len(tokens)


@given(seed=seeds, frames=st.integers(1, 5), vocabulary=st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_wide_beam_adds_the_language_model_score(seed: int, frames: int, vocabulary: int) -> None:
    given_ = emissions(seed, frames, vocabulary)
    expected = enumerated(given_)
    found = beam(given_, NGRAM_SPEC, width=100_000, negligible=-math.inf, fusion=FUSION)
    assert {hypothesis.tokens for hypothesis in found} == expected.keys()
    for hypothesis in found:
        assert hypothesis.log_prob == pytest.approx(expected[hypothesis.tokens], abs=1e-4)
        assert hypothesis.lm_log_prob == pytest.approx(Ngram(LEVELS, VOCABULARY, BOUNDARY).log_prob(hypothesis.tokens))
        assert hypothesis.lm_score == pytest.approx(fused(hypothesis.tokens))
    assert found[0].score == pytest.approx(max(each + fused(tokens) for tokens, each in expected.items()), abs=1e-4)


@given(seed=seeds, width=st.integers(1, 12), bonus=st.floats(0.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_bound_drops_only_prefixes_outside_the_beam(seed: int, width: int, bonus: float) -> None:
    """Compare the search with one that computes every longer prefix before it drops any."""
    given_ = emissions(seed, 6, 4)
    fusion = Fusion(model=Ngram(LEVELS, VOCABULARY, BOUNDARY), weight=0.7, bonus=bonus)
    hypotheses = beam(given_, NGRAM_SPEC, width=width, negligible=-math.inf, fusion=fusion)
    found = {one.tokens: one.log_prob + one.lm_score for one in hypotheses}
    expected = exhaustively(given_, width, fusion)
    assert found.keys() == expected.keys()
    for tokens, score in expected.items():
        assert found[tokens] == pytest.approx(score, abs=1e-4)


def exhaustively(given_: Emissions, width: int, fusion: Fusion) -> dict[tuple[int, ...], float]:
    """Search with the same width, without a cache and without the bound; return scores by tokens."""

    def lm_score(tokens: tuple[int, ...]) -> float:
        # Without the end, which is scored only after the last frame.
        end = fusion.model.after(state(tokens), BOUNDARY)[0]
        return fusion.weight * (Ngram(LEVELS, VOCABULARY, BOUNDARY).log_prob(tokens) - end) + fusion.bonus * len(tokens)

    def state(tokens: tuple[int, ...]) -> int:
        now = fusion.model.start
        for token in tokens:
            now = fusion.model.after(now, token)[1]
        return now

    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for tokens, log_probs in zip(given_.tokens.tolist(), given_.log_probs.tolist(), strict=True):
        row = dict(zip(tokens, log_probs, strict=True))
        following: dict[tuple[int, ...], list[float]] = {}
        for prefix, (in_blank, in_token) in beams.items():
            either = float(np.logaddexp(in_blank, in_token))
            kept = following.setdefault(prefix, [-math.inf, -math.inf])
            kept[0] = float(np.logaddexp(kept[0], either + row[BLANK]))
            for token, log_prob in row.items():
                if token == BLANK:
                    continue
                if prefix and token == prefix[-1]:
                    kept[1] = float(np.logaddexp(kept[1], in_token + log_prob))
                longer = following.setdefault((*prefix, token), [-math.inf, -math.inf])
                before = in_blank if prefix and token == prefix[-1] else either
                longer[1] = float(np.logaddexp(longer[1], before + log_prob))
        ranked = sorted(
            following,
            key=lambda each: lm_score(each) + np.logaddexp(following[each][0], following[each][1]),
            reverse=True,
        )
        beams = {each: (following[each][0], following[each][1]) for each in ranked[:width]}
    end = {each: fusion.weight * fusion.model.after(state(each), BOUNDARY)[0] for each in beams}
    found = {
        each: float(np.logaddexp(scores[0], scores[1])) + lm_score(each) + end[each] for each, scores in beams.items()
    }
    return {each: score for each, score in found.items() if score > -math.inf}


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 12), max_size=4), with_model=st.booleans())
def test_search_in_pieces_finds_the_same(seed: int, cuts: list[int], with_model: bool) -> None:
    whole = emissions(seed, 12, VOCABULARY - 2)
    fusion = Fusion(model=Ngram(LEVELS, VOCABULARY, BOUNDARY), weight=0.7, bonus=0.5) if with_model else None
    search = ctc.Search(NGRAM_SPEC, width=4, fusion=fusion)
    for first, last in itertools.pairwise([0, *sorted(cuts), 12]):
        search.advance(Emissions(log_probs=whole.log_probs[first:last], tokens=whole.tokens[first:last]))
    assert search.hypotheses() == beam(whole, NGRAM_SPEC, width=4, fusion=fusion)
    if not with_model:
        assert search.best_partial() == search.hypotheses()[0].tokens


def test_search_without_frames() -> None:
    assert ctc.Search(SPEC).best_partial() == ()
    assert [each.tokens for each in ctc.Search(SPEC).hypotheses()] == [()]


def test_beam_sums_over_alignments() -> None:
    """The textbook case: blank is best in each frame, but the letter is more probable over both frames."""
    log_probs = np.log(np.array([[0.6, 0.4], [0.6, 0.4]], dtype=np.float32))
    given_ = Emissions(log_probs=log_probs, tokens=np.array([[0, 5], [0, 5]], dtype=np.int32))
    assert greedy(given_, SPEC).tokens == ()
    assert beam(given_, SPEC)[0].tokens == (5,)
    assert beam(given_, SPEC)[0].log_prob == pytest.approx(math.log(0.64))


@pytest.mark.parametrize("search", [greedy, lambda given_, spec: beam(given_, spec)[0]])
def test_repeated_tokens_need_a_blank_between(search: object) -> None:
    assert callable(search)
    assert search(confident([0, 5, 5, 6, 6, 0, 6, 0]), SPEC).tokens == (5, 6, 6)
    assert search(confident([0, 0, 0]), SPEC).tokens == ()


def test_greedy_merges_letters_that_the_beam_separates() -> None:
    """`this` ends as `sun` begins: where a blank between is only second best, greedy loses one of the two letters."""
    log_probs = np.log(np.array([[0.9, 0.1], [0.5, 0.45], [0.9, 0.1]], dtype=np.float32))
    given_ = Emissions(log_probs=log_probs, tokens=np.array([[7, 0], [7, 0], [7, 0]], dtype=np.int32))
    assert greedy(given_, SPEC).tokens == (7,)
    assert (7, 7) in {hypothesis.tokens for hypothesis in beam(given_, SPEC)}


def test_drops_unknown_and_boundary() -> None:
    assert greedy(confident([1, 5, 2]), SPEC).tokens == (5,)
    assert beam(confident([0, 5, 2]), SPEC)[0].tokens == (5,)


def test_blank_outside_the_list_has_a_floor() -> None:
    """A list of two tokens without blank: the probability of blank is at most what they leave over."""
    tokens = np.array([[5, 6], [0, 5]], dtype=np.int32)
    given_ = Emissions(log_probs=np.log(np.array([[0.7, 0.2], [0.9, 0.1]], dtype=np.float32)), tokens=tokens)
    blanks = ctc._blanks(given_.log_probs, given_.tokens, BLANK)
    assert np.exp(blanks) == pytest.approx([0.1, 0.9], abs=1e-6)
    assert beam(given_, SPEC)[0].tokens == (5,)


@given(seed=seeds, frames=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_alignments_are_ordered(seed: int, frames: int) -> None:
    given_ = emissions(seed, frames, 12, top=4, scale=4.0)
    for hypothesis in beam(given_, SPEC):
        aligned = align(given_, hypothesis.tokens, SPEC)
        assert tuple(each.token for each in aligned) == hypothesis.tokens
        assert all(0 <= each.first <= each.last < frames for each in aligned)
        assert all(0 <= each.confidence <= 1 for each in aligned)
        for before, after in itertools.pairwise(aligned):
            assert before.last < after.first - (before.token == after.token)


@given(seed=seeds, frames=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_alignment_is_the_best_path(seed: int, frames: int) -> None:
    given_ = emissions(seed, frames, 3)
    tokens = beam(given_, SPEC)[0].tokens
    paths = [
        (sum(float(given_.log_probs[row]) for row in enumerate(places)), places)
        for places in itertools.product(range(3), repeat=frames)
        if collapsed([int(given_.tokens[row]) for row in enumerate(places)]) == tokens
    ]
    _, places = max(paths)
    best = [int(given_.tokens[row]) for row in enumerate(places)]
    found = [frame for each in align(given_, tokens, SPEC) for frame in range(each.first, each.last + 1)]
    assert [frame for frame, token in enumerate(best) if token != BLANK] == found


def test_rejects_too_few_frames() -> None:
    with pytest.raises(ValueError, match="2 frames are too few for 2 tokens"):
        align(confident([5, 5]), (5, 5), SPEC)


def normalised(given_: Emissions) -> Emissions:
    sums = np.log(np.exp(given_.log_probs).sum(axis=1, keepdims=True))
    return Emissions(log_probs=given_.log_probs - sums, tokens=given_.tokens)


def renamed(given_: Emissions, names: dict[int, int]) -> Emissions:
    tokens = np.vectorize(names.__getitem__)(given_.tokens).astype(np.int32)
    return Emissions(log_probs=given_.log_probs, tokens=tokens)


@given(seed=seeds, frames=st.integers(1, 30), top=st.integers(2, 9), width=st.integers(1, 20), blank=st.integers(0, 13))
@settings(max_examples=150, deadline=None)
def test_finds_what_the_reference_finds(seed: int, frames: int, top: int, width: int, blank: int) -> None:
    """Whatever the number of blank and of other dropped tokens; the lists may lack blank.

    The lists leave nothing over. A blank that is not in one would otherwise have exactly the probability of its last
    token, and the searches may order equal hypotheses differently.
    """
    names = np.random.default_rng(seed).permutation([number for number in range(14) if number != blank]).tolist()
    spec = token_spec(14, blank=blank, unspoken=(names[2], names[5]), boundary=None)
    drawn = normalised(emissions(seed, frames, 13, top, scale=3.0))
    given_ = renamed(drawn, dict(zip([BLANK, *range(3, 15)], [blank, *names], strict=False)))
    expected = reference_search.beam(given_, spec, width=width, negligible=-8.0)
    same_hypotheses(beam(given_, spec, width=width, negligible=-8.0), expected)
    for hypothesis in expected[:3]:
        same_alignment(given_, hypothesis.tokens, spec)


@given(seed=seeds, frames=st.integers(1, 30), width=st.integers(1, 20), bonus=st.floats(-1.0, 3.0))
@settings(max_examples=100, deadline=None)
def test_finds_what_the_reference_finds_with_ngrams(seed: int, frames: int, width: int, bonus: float) -> None:
    given_ = emissions(seed, frames, 4)
    reference = reference_search.Fusion(model=ReferenceNgram(LEVELS, VOCABULARY, BOUNDARY), weight=0.7, bonus=bonus)
    expected = reference_search.beam(given_, NGRAM_SPEC, width=width, negligible=-7.0, fusion=reference)
    fusion = Fusion(model=Ngram(LEVELS, VOCABULARY, BOUNDARY), weight=0.7, bonus=bonus)
    same_hypotheses(beam(given_, NGRAM_SPEC, width=width, negligible=-7.0, fusion=fusion), expected)


def same_hypotheses(found: tuple[Hypothesis, ...], expected: tuple[Hypothesis, ...]) -> None:
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-5)
        assert one.lm_log_prob == pytest.approx(other.lm_log_prob, abs=1e-5)
        assert one.lm_score == pytest.approx(other.lm_score, abs=1e-5)


def same_alignment(given_: Emissions, tokens: tuple[int, ...], spec: TokenSpec) -> None:
    found, expected = align(given_, tokens, spec), reference_search.align(given_, tokens, spec)
    assert [(one.token, one.first, one.last) for one in found] == [(one.token, one.first, one.last) for one in expected]
    assert [one.confidence for one in found] == pytest.approx([one.confidence for one in expected], abs=1e-6)


def test_blank_may_be_the_last_token() -> None:
    spec = token_spec(14, blank=13, unspoken=(), boundary=None)
    given_ = renamed(confident([9, 5, 5, 0, 5, 9]), {9: 0, 5: 5, 0: 13})
    assert greedy(given_, spec).tokens == beam(given_, spec)[0].tokens == (0, 5, 5, 0)
    assert [(one.first, one.last) for one in align(given_, (0, 5, 5, 0), spec)] == [(0, 0), (1, 2), (4, 4), (5, 5)]


def test_rejects_beam_without_width() -> None:
    with pytest.raises(ValueError, match="a beam of width 0 holds no hypothesis"):
        ctc.Search(SPEC, width=0)


def test_rejects_ngram_model_without_a_token() -> None:
    with pytest.raises(ValueError, match="token 6, '▁g', is not in the n-gram model"):
        ctc.Search(SPEC, fusion=FUSION)


@pytest.mark.parametrize("token", [-1, 14])
def test_rejects_unknown_tokens(token: int) -> None:
    given_ = Emissions(
        log_probs=np.log(np.array([[0.9, 0.05]], dtype=np.float32)), tokens=np.array([[5, token]], dtype=np.int32)
    )
    for search in (beam, lambda *known: align(known[0], (5,), known[1])):
        with pytest.raises(ValueError, match=f"the emissions have token {token}, and the model has 14 tokens"):
            search(given_, SPEC)


def test_threads_search_at_the_same_time() -> None:
    drawn = [emissions(seed, 60, 12, top=8) for seed in range(40)]
    expected = [beam(each, SPEC) for each in drawn]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda each: beam(each, SPEC), drawn)) == expected
