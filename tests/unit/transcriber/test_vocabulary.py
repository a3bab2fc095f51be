"""Phrases in the search: which tokens have the bonus, in every style of spelling, and which phrases are rejected."""

import itertools
import math
import re
import time
from typing import Any, Protocol

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.client import CHARACTERS, DELIMITER, TokenSpec
from contract.errors import SettingError
from tests.unit.transcriber.models import BOUNDARY, LEVELS, VOCABULARY, token_spec
from tests.unit.transcriber.test_ctc import emissions
from transcriber import ctc
from transcriber.ctc import Emissions, Fusion, beam
from transcriber.ngram import Ngram
from transcriber.vocabulary import Vocabulary, _automaton

BONUS = 1.5
END = "(?:[▁,']|$)"
WORDS = TokenSpec(pieces=("<blank>", "▁", "▁a", "a", "b", "▁ab", "ba", ",", "▁B"), blank=0)
LETTERS = TokenSpec(pieces=("|", "A", "B", "'", "<pad>"), blank=4, style=DELIMITER)
HAN = TokenSpec(pieces=("你", "好", "吗", "<blk>"), blank=3, style=CHARACTERS, word_separator="")
phrases_of = {
    "words": st.lists(st.sampled_from(["a", "b", "ab", "ba", "a b", "ab ba", "aba", "b a b"]), min_size=1, max_size=4),
    "han": st.lists(st.sampled_from(["你", "你好", "好你", "好吗你", "你你"]), min_size=1, max_size=4),
}


class Added(Protocol):
    """What the models add to the score of tokens, while more may follow or at the end."""

    def __call__(self, tokens: tuple[int, ...], *, is_open: bool) -> float: ...


def text_of(token: int, spec: TokenSpec) -> str:
    piece = spec.pieces[token]
    return "▁" if spec.style == DELIMITER and piece == spec.delimiter else piece.lower()


def covered(tokens: tuple[int, ...], spec: TokenSpec, phrases: list[str], *, is_open: bool = False) -> set[int]:
    """Return the places of tokens in whole phrases, without an automaton; with `is_open` also in one that may go on."""
    is_spaced = spec.style != CHARACTERS
    owners = [place for place, token in enumerate(tokens) for _ in text_of(token, spec)]
    text = "".join(text_of(token, spec) for token in tokens)
    # A text begins like a word after another one; that begin belongs to no token.
    text, owners = ("▁" + text, [-1, *owners]) if is_spaced else (text, owners)
    found: set[int] = set()
    for phrase in phrases:
        spelled = "▁" + phrase.replace(" ", "▁") if is_spaced else phrase
        for match in re.finditer(f"(?={spelled}{END if is_spaced else ''})", text):
            found |= set(owners[match.start() + is_spaced : match.start() + len(spelled)])
    if is_open:
        found |= open_end(text, owners, phrases, is_spaced=is_spaced)
    return found


def open_end(text: str, owners: list[int], phrases: list[str], *, is_spaced: bool) -> set[int]:
    spelled = ["▁" + phrase.replace(" ", "▁") if is_spaced else phrase for phrase in phrases]
    for begin in range(len(text)):
        if any(each.startswith(text[begin:]) for each in spelled):
            return set(owners[begin + is_spaced :])
    return set()


def listed(seed: int, frames: int, spec: TokenSpec) -> Emissions:
    """Draw emissions over blank and all tokens that are text."""
    drawn = emissions(seed, frames, len(spec.pieces) - len(spec.unspoken))
    names = np.array([spec.blank, -1, -1, *(each for each in range(len(spec.pieces)) if each not in spec.dropped)])
    return Emissions(log_probs=drawn.log_probs, tokens=names[drawn.tokens].astype(np.int32))


@pytest.mark.parametrize(("kind", "spec"), [("words", WORDS), ("words", LETTERS), ("han", HAN)])
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_adds_the_bonus_for_each_token_of_whole_phrases(
    kind: str, spec: TokenSpec, data: st.DataObject, seed: int
) -> None:
    phrases = data.draw(phrases_of[kind])
    vocabulary = Vocabulary(phrases, spec, BONUS)
    found = beam(listed(seed, 4, spec), spec, width=4_000, negligible=-math.inf, vocabulary=vocabulary)
    plain = {one.tokens: one for one in beam(listed(seed, 4, spec), spec, width=4_000, negligible=-math.inf)}
    assert {one.tokens for one in found} == plain.keys()
    for one in found:
        assert one.lm_score == pytest.approx(BONUS * len(covered(one.tokens, spec, phrases))), one.tokens
        assert one.phrase_score == one.lm_score
        assert one.log_prob == pytest.approx(plain[one.tokens].log_prob, abs=1e-5)
        assert one.lm_log_prob is None


@pytest.mark.parametrize(("kind", "spec"), [("words", WORDS), ("words", LETTERS), ("han", HAN)])
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), width=st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_narrow_beam_ranks_prefixes_with_the_bonus_of_what_may_follow(
    kind: str, spec: TokenSpec, data: st.DataObject, seed: int, width: int
) -> None:
    """Compare the search with one that computes every longer prefix before it drops any."""
    phrases = data.draw(phrases_of[kind])
    drawn = listed(seed, 7, spec)
    found = beam(drawn, spec, width=width, negligible=-math.inf, vocabulary=Vocabulary(phrases, spec, BONUS))

    def added(tokens: tuple[int, ...], *, is_open: bool) -> float:
        return BONUS * len(covered(tokens, spec, phrases, is_open=is_open))

    expected = exhaustively(drawn, spec, width, added)
    assert {one.tokens for one in found} == expected.keys()
    for one in found:
        assert one.score == pytest.approx(expected[one.tokens], abs=1e-4)


def exhaustively(given_: Emissions, spec: TokenSpec, width: int, added: Added) -> dict[tuple[int, ...], float]:
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for tokens, log_probs in zip(given_.tokens.tolist(), given_.log_probs.tolist(), strict=True):
        row = dict(zip(tokens, log_probs, strict=True))
        following: dict[tuple[int, ...], list[float]] = {}
        for prefix, (in_blank, in_token) in beams.items():
            either = float(np.logaddexp(in_blank, in_token))
            kept = following.setdefault(prefix, [-math.inf, -math.inf])
            kept[0] = float(np.logaddexp(kept[0], either + row[spec.blank]))
            for token, log_prob in row.items():
                if token == spec.blank:
                    continue
                is_same = bool(prefix) and token == prefix[-1]
                if is_same:
                    kept[1] = float(np.logaddexp(kept[1], in_token + log_prob))
                longer = following.setdefault((*prefix, token), [-math.inf, -math.inf])
                longer[1] = float(np.logaddexp(longer[1], (in_blank if is_same else either) + log_prob))
        scores = {
            each: float(np.logaddexp(following[each][0], following[each][1])) + added(each, is_open=True)
            for each in following
        }
        beams = {
            each: (following[each][0], following[each][1]) for each in sorted(scores, key=scores.__getitem__)[-width:]
        }
    found = {each: float(np.logaddexp(*both)) + added(each, is_open=False) for each, both in beams.items()}
    return {each: score for each, score in found.items() if score > -math.inf}


def frames_of(spec: TokenSpec, *frames: dict[str, float]) -> Emissions:
    """Build emissions from the probabilities of pieces; every other piece is negligible, but for blank."""
    rows = [{**dict.fromkeys(spec.pieces, 1e-6), spec.pieces[spec.blank]: 0.01, **frame} for frame in frames]
    ranked = [sorted(row.items(), key=lambda item: -item[1]) for row in rows]
    return Emissions(
        log_probs=np.log(np.array([[prob for _, prob in row] for row in ranked], dtype=np.float32)),
        tokens=np.array([[spec.pieces.index(piece) for piece, _ in row] for row in ranked], dtype=np.int32),
    )


def best(given_: Emissions, spec: TokenSpec, *phrases: str) -> str:
    found = beam(given_, spec, vocabulary=Vocabulary(phrases, spec, BONUS) if phrases else None)[0]
    return "".join(spec.pieces[token] for token in found.tokens)


def test_finds_a_name_instead_of_likelier_tokens() -> None:
    given_ = frames_of(WORDS, {"▁a": 0.6, "▁B": 0.3}, {"b": 0.7, "a": 0.2})
    assert best(given_, WORDS) == "▁ab"
    assert best(given_, WORDS, "ba") == "▁Ba"
    # Only a whole word is a phrase, and the bonus is taken back where it goes on.
    assert best(given_, WORDS, "bab") == best(given_, WORDS, "b") == "▁ab"


def test_every_spelling_of_a_phrase_has_the_bonus() -> None:
    vocabulary = Vocabulary(["Ab ba"], WORDS, BONUS)
    scores = {}
    for pieces in itertools.product(["▁ab", "▁a b", "▁ a b"], ["▁B a", "▁ ba", "▁ b a"]):
        names = " ".join(pieces).split(" ")
        given_ = frames_of(WORDS, *({name: 0.98} for each in names for name in (each, "<blank>")))
        found = beam(given_, WORDS, vocabulary=vocabulary)[0]
        assert [WORDS.pieces[token] for token in found.tokens] == names
        scores[" ".join(names)] = found.lm_score / BONUS
    # A token that is only the begin of a word belongs to a phrase within it, not before it.
    expected = {
        "▁ab ▁B a": 3,
        "▁ab ▁ ba": 3,
        "▁ab ▁ b a": 4,
        "▁a b ▁B a": 4,
        "▁a b ▁ ba": 4,
        "▁a b ▁ b a": 5,
        "▁ a b ▁B a": 4,
        "▁ a b ▁ ba": 4,
        "▁ a b ▁ b a": 5,
    }
    assert scores == pytest.approx(expected)


def test_partials_hold_a_phrase_that_may_still_be_completed() -> None:
    first, second = {"▁a": 0.6, "▁B": 0.3}, {"b": 0.9}
    search = ctc.Search(WORDS, vocabulary=Vocabulary(["ba"], WORDS, BONUS))
    search.advance(frames_of(WORDS, first))
    assert [WORDS.pieces[token] for token in search.best_partial()] == ["▁B"]
    assert search.hypotheses()[0].lm_score == 0.0
    search.advance(frames_of(WORDS, second))
    assert [WORDS.pieces[token] for token in search.best_partial()] == ["▁a", "b"]


@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 12), max_size=4))
@settings(max_examples=30, deadline=None)
def test_search_in_pieces_finds_the_same(seed: int, cuts: list[int]) -> None:
    whole, vocabulary = listed(seed, 12, WORDS), Vocabulary(["ab ba", "a"], WORDS, BONUS)
    search = ctc.Search(WORDS, width=4, vocabulary=vocabulary)
    for first, last in itertools.pairwise([0, *sorted(cuts), 12]):
        search.advance(Emissions(log_probs=whole.log_probs[first:last], tokens=whole.tokens[first:last]))
    assert search.hypotheses() == beam(whole, WORDS, width=4, vocabulary=vocabulary)


def test_many_and_long_phrases() -> None:
    """A phrase of more tokens than the search keeps in mind has the bonus for the last 64 of them."""
    long = " ".join(["ab"] * 70)
    vocabulary = Vocabulary([long, *(f"{'ab' * number}" for number in range(1, 300))], WORDS, BONUS)
    given_ = frames_of(WORDS, *({name: 0.98} for _ in range(70) for name in ("▁ab", "<blank>")))
    found = beam(given_, WORDS, vocabulary=vocabulary)[0]
    assert len(found.tokens) == 70
    assert found.lm_score == pytest.approx(70 * BONUS)
    alone = beam(given_, WORDS, vocabulary=Vocabulary([long], WORDS, BONUS))[0]
    assert alone.lm_score == pytest.approx(64 * BONUS)


@given(seed=st.integers(0, 2**32 - 1), bonus=st.floats(-1.0, 3.0), width=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_tokens_of_phrases_lose_nothing_by_the_ngram_model(seed: int, bonus: float, width: int) -> None:
    spec, phrases = token_spec(pieces=("<blank>", "<unk>", "</s>", "▁a", "b", "▁b")), ["ab", "b b"]
    model = Ngram(LEVELS, VOCABULARY, BOUNDARY)

    def added(tokens: tuple[int, ...], *, is_open: bool) -> float:
        state, fused = model.start, []
        for token in tokens:
            log_prob, state = model.after(state, token)
            fused.append(0.7 * log_prob + bonus)
        end = 0.0 if is_open else 0.7 * model.after(state, BOUNDARY)[0]
        places = covered(tokens, spec, phrases, is_open=is_open)
        return sum(fused) + end + sum(BONUS + max(0.0, -fused[place]) for place in places)

    drawn, fusion = listed(seed, 6, spec), Fusion(model=model, weight=0.7, bonus=bonus)
    vocabulary = Vocabulary(phrases, spec, BONUS)
    found = beam(drawn, spec, width=width, negligible=-math.inf, fusion=fusion, vocabulary=vocabulary)
    expected = exhaustively(drawn, spec, width, added)
    assert {one.tokens for one in found} == expected.keys()
    for one in found:
        assert one.score == pytest.approx(expected[one.tokens], abs=1e-4)
        assert one.lm_score == pytest.approx(added(one.tokens, is_open=False), abs=1e-6)
        assert one.lm_log_prob == pytest.approx(model.log_prob(one.tokens))
        plain = 0.7 * model.log_prob(one.tokens) + bonus * len(one.tokens)
        assert one.phrase_score == pytest.approx(one.lm_score - plain, abs=1e-6)


def test_without_phrases_it_changes_nothing() -> None:
    given_ = listed(5, 9, WORDS)
    assert beam(given_, WORDS, vocabulary=Vocabulary([], WORDS, BONUS)) == beam(given_, WORDS)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"phrases": ["ab", "abc"]}, "no tokens of the model spell the phrase 'abc': none has 'c'"),
        ({"phrases": ["a", " \t"]}, "it has an empty phrase"),
        ({"phrases": ["a"], "bonus": 0.0}, "the bonus of its phrases is 0"),
        ({"phrases": ["a"], "bonus": math.inf}, "the bonus of its phrases is inf"),
        ({"phrases": ["a"], "bonus": math.nan}, "the bonus of its phrases is nan"),
    ],
)
def test_rejects(arguments: dict[str, Any], cause: str) -> None:
    with pytest.raises(SettingError) as caught:
        Vocabulary(**{"spec": WORDS, "bonus": BONUS, "source": "names.txt", **arguments})
    assert (caught.value.subject, caught.value.cause) == ("names.txt", cause)


def test_rejects_phrase_whose_characters_are_in_longer_tokens_only() -> None:
    spec = TokenSpec(pieces=("<blank>", "▁ab", "b"), blank=0)
    with pytest.raises(SettingError) as caught:
        Vocabulary(["b a"], spec, BONUS)
    assert caught.value.cause == "no tokens of the model spell the phrase 'b a'"


def test_rejects_phrases_of_another_model() -> None:
    with pytest.raises(ValueError, match="the vocabulary is spelled with the tokens of another model"):
        ctc.Search(LETTERS, vocabulary=Vocabulary(["a"], WORDS, BONUS))


def plain_automaton(phrases: set[str], leading: int) -> dict[str, list[int]]:
    """Return the automaton of phrases by its definition: every beginning is a node, and all of its ends are tried."""
    nodes = sorted({text[:size] for text in phrases for size in range(len(text) + 1)} | {""}, key=lambda t: (len(t), t))
    number = {text: place for place, text in enumerate(nodes)}
    labels = {each: label for label, each in enumerate(sorted(set().union(*phrases)))}
    ends = [[text[begin:] for begin in range(1, len(text) + 1) if text[begin:] in number] for text in nodes]
    shorter = [number[found[0]] if found else 0 for found in ends]
    ended = [
        next((len(each) - leading for each in (text, *found) if each in phrases), 0)
        for text, found in zip(nodes, ends, strict=True)
    ]
    children = np.bincount([number[text[:-1]] for text in nodes[1:]], minlength=len(nodes))
    return {
        "first": [1, *(1 + np.cumsum(children)).tolist()],
        "labels": [-1, *(labels[text[-1]] for text in nodes[1:])],
        "shorter": shorter,
        "letters": [max(0, len(text) - leading) for text in nodes],
        "ended": ended,
    }


@given(phrases=st.sets(st.text("ab▁é", min_size=1, max_size=8), max_size=12), leading=st.sampled_from([0, 1]))
@settings(max_examples=300, deadline=None)
def test_automaton_is_that_of_its_definition(phrases: set[str], leading: int) -> None:
    labels = {each: label for label, each in enumerate(sorted(set().union(*phrases)))}
    found = _automaton(phrases, labels, leading)
    assert {name: array.tolist() for name, array in found.items()} == plain_automaton(phrases, leading)
    assert {array.dtype for array in found.values()} == {np.dtype(np.int32)}


def test_time_grows_with_the_characters() -> None:
    """It would grow with the cube of a text's length if each end of each beginning was looked up."""
    text = "".join(np.random.default_rng(1).choice(list("abc"), 5000))
    began_s = time.process_time()
    _automaton({text}, {"a": 0, "b": 1, "c": 2}, 0)
    assert time.process_time() - began_s < 1.0
