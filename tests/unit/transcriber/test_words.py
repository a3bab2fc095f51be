"""Tokens to words: where they begin, when they were spoken, how sure they are."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcriber.ctc import Emitted
from transcriber.words import join

PIECES = ("<blank>", "<unk>", "</s>", "\u2581hel", "lo", "\u2581", "w", "orld", "\u2581a")


def emitted(*spoken: tuple[int, int, int]) -> tuple[Emitted, ...]:
    return tuple(Emitted(token=token, first=first, last=last, confidence=0.9) for token, first, last in spoken)


def test_joins_pieces() -> None:
    words = join(emitted((3, 5, 5), (4, 9, 10), (5, 20, 20), (6, 21, 21), (7, 25, 25)), PIECES, 100.0, 110.0)
    assert [word.content for word in words] == ["hello", "world"]
    # Frame 5 has its middle at 0.2425 s of the segment.
    assert words[0].start_s == pytest.approx(100.0 + 0.2425 - 0.06)
    assert words[0].end_s == pytest.approx(100.0 + 0.4425 + 0.06)
    assert words[0].confidence == pytest.approx(0.9)


def test_a_word_may_begin_without_its_mark() -> None:
    assert [word.content for word in join(emitted((4, 0, 0), (8, 3, 3)), PIECES, 0.0, 1.0)] == ["lo", "a"]


def test_a_lone_mark_is_no_word() -> None:
    assert [word.content for word in join(emitted((5, 0, 0), (8, 3, 3)), PIECES, 0.0, 1.0)] == ["a"]


def test_confidence_is_the_geometric_mean() -> None:
    spoken = (
        Emitted(token=3, first=0, last=0, confidence=0.9),
        Emitted(token=4, first=1, last=1, confidence=0.4),
    )
    assert join(spoken, PIECES, 0.0, 1.0)[0].confidence == pytest.approx(0.6)


@given(steps=st.lists(st.tuples(st.sampled_from([3, 4, 5, 8]), st.integers(1, 6), st.integers(0, 3)), max_size=12))
def test_words_follow_one_another_within_the_segment(steps: list[tuple[int, int, int]]) -> None:
    spoken, frame = [], -1
    for token, gap, length in steps:
        spoken.append((token, frame + gap, frame + gap + length))
        frame += gap + length
    end_s = 5.0 + 0.04 * (frame + 2)
    words = join(emitted(*spoken), PIECES, 5.0, end_s)
    assert all(5.0 <= word.start_s < word.end_s <= end_s for word in words)
    assert all(before.end_s <= after.start_s + 1e-9 for before, after in pairwise(words))
