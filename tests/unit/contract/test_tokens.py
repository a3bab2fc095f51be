"""Collapse of CTC paths, and the text of tokens, in each style of spelling."""

import pytest

from contract.client import TokenSpec
from contract.tokens import collapse, is_right_to_left, spell, units, word_groups

PIECES = ("<blank>", "<unk>", "</s>", "▁new", "▁s", "on", "s")
SENTENCEPIECE = TokenSpec(pieces=PIECES, blank=0, unspoken=(1, 2), boundary=2)
# A blank at the end, and no token without text.
DELIMITED = TokenSpec(pieces=("|", "n", "e", "w", "▁s", "<pad>"), blank=5, style="delimiter")
CHARACTERS = TokenSpec(pieces=("你", "好", "▁a", "<blank>"), blank=3, style="characters", word_separator="")


@pytest.mark.parametrize(
    ("path", "dropped", "tokens"),
    [
        ((), SENTENCEPIECE.dropped, ()),
        ((0, 0, 0), SENTENCEPIECE.dropped, ()),
        ((3, 3, 0, 4, 4, 5), SENTENCEPIECE.dropped, (3, 4, 5)),
        ((6, 6, 0, 6), SENTENCEPIECE.dropped, (6, 6)),
        ((3, 1, 1, 3, 2), SENTENCEPIECE.dropped, (3, 3)),
        ((3, 1, 1, 0, 2), (0,), (3, 1, 2)),
        # Tokens 0, 1 and 2 are text where the blank is the last token.
        ((0, 1, 1, 5, 1, 2, 5, 5), DELIMITED.dropped, (0, 1, 1, 2)),
    ],
)
def test_collapse(path: tuple[int, ...], dropped: frozenset[int], tokens: tuple[int, ...]) -> None:
    assert collapse(path, dropped) == tokens


@pytest.mark.parametrize(
    ("spec", "tokens", "text"),
    [
        (SENTENCEPIECE, (4, 3, 4, 5), "s new son"),
        (SENTENCEPIECE, (3, 4, 5, 6), "new sons"),
        (SENTENCEPIECE, (5, 3), "on new"),
        (SENTENCEPIECE, (), ""),
        (DELIMITED, (1, 2, 3, 0, 1, 2, 3), "new new"),
        (DELIMITED, (0, 0, 1, 0, 0, 2, 0), "n e"),
        (CHARACTERS, (0, 1), "你好"),
        (CHARACTERS, (0, 2, 1), "你a好"),
    ],
)
def test_spell(spec: TokenSpec, tokens: tuple[int, ...], text: str) -> None:
    assert spell(tokens, spec) == text


def test_spells_bytes_of_characters_outside_the_vocabulary() -> None:
    spec = TokenSpec(pieces=("▁caf", "<0xC3>", "<0xA9>", "s", "<blank>"), blank=4)
    assert spell((0, 1, 2, 3), spec) == "cafés"
    assert spell((0, 1), spec) == "caf\N{REPLACEMENT CHARACTER}"


BYTES = TokenSpec(
    pieces=("東", "<0xE4>", "<0xBA>", "<0xAC>", "<blank>"), blank=4, style="characters", word_separator=""
)


@pytest.mark.parametrize(
    ("tokens", "text", "groups"),
    [
        ((0, 1, 2, 3, 0), "東京東", [[0], [1, 2, 3], [4]]),
        # Each character is a word of its own, also where both are bytes.
        ((1, 2, 3, 1, 2, 3), "京京", [[0, 1, 2], [3, 4, 5]]),
        # What is no whole character.
        ((0, 2, 3), "東\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}", [[0], [1, 2]]),
        ((1, 0), "\N{REPLACEMENT CHARACTER}東", [[0], [1]]),
    ],
)
def test_bytes_of_a_character_are_one_word(tokens: tuple[int, ...], text: str, groups: list[list[int]]) -> None:
    assert word_groups(tokens, BYTES) == groups
    assert spell(tokens, BYTES) == text


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (PIECES, False),
        (("<blank>", "<unk>", "</s>", "▁سلام", "ب", "a"), True),
        (("<blank>", "<unk>", "</s>", "▁שלום", "1", "."), True),
        # Bytes stand for any character.
        (("<blank>", "<unk>", "</s>", "ب", "<0xD8>", "<0xA7>"), True),
        (("<blank>", "<unk>", "</s>", "你", "好"), False),
        (("<blank>", "<unk>", "</s>", "1", "2"), False),
    ],
)
def test_direction_of_writing_is_that_of_most_letters(pieces: tuple[str, ...], *, expected: bool) -> None:
    assert is_right_to_left(TokenSpec(pieces=pieces, blank=0, unspoken=(1, 2))) is expected


@pytest.mark.parametrize(
    ("spec", "tokens", "groups"),
    [
        (SENTENCEPIECE, (4, 5, 3, 6), [[0, 1], [2, 3]]),
        (DELIMITED, (0, 1, 2, 0, 3), [[1, 2], [4]]),
        # In this style a piece with U+2581 is a letter like others.
        (DELIMITED, (1, 4), [[0, 1]]),
        (CHARACTERS, (0, 0, 1), [[0], [1], [2]]),
    ],
)
def test_word_groups(spec: TokenSpec, tokens: tuple[int, ...], groups: list[list[int]]) -> None:
    assert word_groups(tokens, spec) == groups


def test_units_of_errors() -> None:
    assert units("new  sons", SENTENCEPIECE) == ["new", "sons"]
    assert units("你 好", CHARACTERS) == ["你", "好"]
