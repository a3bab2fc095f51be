"""Join tokens to words: their text, times and confidences."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.client import CHARACTERS, DELIMITER, AudioSpec, TokenSpec
from transcriber.ctc import AlignedToken
from transcriber.words import join

TOKENS = TokenSpec(
    pieces=("<blank>", "<unk>", "</s>", "\u2581hel", "lo", "\u2581", "w", "orld", "\u2581a"),
    blank=0,
)
AUDIO = AudioSpec(sample_rate_hz=16_000, shortest_samples=1360, hop_s=0.04, first_centre_s=0.0425)


def aligned(*tokens: tuple[int, int, int]) -> tuple[AlignedToken, ...]:
    return tuple(AlignedToken(token=token, first=first, last=last, confidence=0.9) for token, first, last in tokens)


def test_joins_pieces() -> None:
    words = join(aligned((3, 5, 5), (4, 9, 10), (5, 20, 20), (6, 21, 21), (7, 25, 25)), TOKENS, AUDIO, 100.0, 110.0)
    assert [word.content for word in words] == ["hello", "world"]
    # Frame 5 has its middle at 0.2425 s of the segment.
    assert words[0].start_s == pytest.approx(100.0 + 0.2425 - 0.06)
    assert words[0].end_s == pytest.approx(100.0 + 0.4425 + 0.06)
    assert words[0].confidence == pytest.approx(0.9)


def test_word_in_the_last_frame_does_not_end_before_it_begins() -> None:
    """The last frame may be centred behind the end of the segment."""
    (word,) = join(aligned((3, 24, 24)), TOKENS, AUDIO, 0.0, 0.9)
    assert (word.start_s, word.end_s) == (0.9, 0.9)


def test_word_before_the_segment_does_not_end_before_it_begins() -> None:
    """The first frames of a network may be centred before the segment."""
    audio = AudioSpec(sample_rate_hz=16_000, shortest_samples=1, hop_s=0.04, first_centre_s=-0.2)
    words = join(aligned((3, 0, 0), (8, 1, 1), (8, 9, 9)), TOKENS, audio, 5.0, 9.0)
    assert [(word.start_s, word.end_s) for word in words] == [(5.0, 5.0), (5.0, 5.0), pytest.approx((5.1, 5.22))]


def test_first_word_may_lack_its_mark() -> None:
    assert [word.content for word in join(aligned((4, 0, 0), (8, 3, 3)), TOKENS, AUDIO, 0.0, 1.0)] == ["lo", "a"]


def test_drops_mark_without_text() -> None:
    assert [word.content for word in join(aligned((5, 0, 0), (8, 3, 3)), TOKENS, AUDIO, 0.0, 1.0)] == ["a"]


def test_confidence_is_the_geometric_mean() -> None:
    spoken = (
        AlignedToken(token=3, first=0, last=0, confidence=0.9),
        AlignedToken(token=4, first=1, last=1, confidence=0.4),
    )
    assert join(spoken, TOKENS, AUDIO, 0.0, 1.0)[0].confidence == pytest.approx(0.6)


@given(steps=st.lists(st.tuples(st.sampled_from([3, 4, 5, 8]), st.integers(1, 6), st.integers(0, 3)), max_size=12))
def test_words_are_ordered_within_the_segment(steps: list[tuple[int, int, int]]) -> None:
    spoken, frame = [], -1
    for token, gap, length in steps:
        spoken.append((token, frame + gap, frame + gap + length))
        frame += gap + length
    end_s = 5.0 + 0.04 * (frame + 2)
    words = join(aligned(*spoken), TOKENS, AUDIO, 5.0, end_s)
    assert all(5.0 <= word.start_s < word.end_s <= end_s for word in words)
    assert all(before.end_s <= after.start_s + 1e-9 for before, after in pairwise(words))


def test_delimiter_separates_words() -> None:
    tokens = TokenSpec(pieces=("|", "H", "I", "<pad>"), blank=3, style=DELIMITER)
    words = join(aligned((1, 0, 0), (2, 1, 1), (0, 2, 2), (0, 4, 4), (2, 5, 5)), tokens, AUDIO, 0.0, 1.0)
    assert [word.content for word in words] == ["HI", "I"]


def test_every_character_is_a_word() -> None:
    tokens = TokenSpec(pieces=("\u4f60", "\u597d", "<blank>"), blank=2, style=CHARACTERS, word_separator="")
    words = join(aligned((0, 0, 0), (1, 3, 3)), tokens, AUDIO, 0.0, 1.0)
    assert [word.content for word in words] == ["\u4f60", "\u597d"]


def test_times_follow_the_frames_of_the_network() -> None:
    """Parakeet makes a frame every 80 ms, the first one centred on the first sample."""
    audio = AudioSpec(sample_rate_hz=16_000, shortest_samples=160, hop_s=0.08, first_centre_s=0.0)
    (word,) = join(aligned((3, 5, 7)), TOKENS, audio, 10.0, 20.0)
    assert [word.start_s, word.end_s] == pytest.approx([10.34, 10.62])
