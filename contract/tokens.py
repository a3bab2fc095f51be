"""Collapse CTC paths and spell tokens as words, by the TokenSpec of their model."""

import functools
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby

from contract.client import CHARACTERS, DELIMITER, TokenSpec

WORD_START = "\u2581"
"""A piece that begins with this character (SentencePiece's) begins a word."""
# SentencePiece spells a character outside its vocabulary as the bytes of its UTF-8 form.
_BYTES = re.compile(r"(?:<0x[0-9A-F]{2}>)+")
_CONTINUATION = re.compile(r"<0x[89AB][0-9A-F]>")
"""A byte of a character that is not its first one (RFC 3629, section 3)."""
# Unicode's classes of letters of scripts that are written from right to left.
_RIGHT_TO_LEFT = frozenset({"R", "AL"})


def collapse(path: Iterable[int], dropped: Collection[int]) -> tuple[int, ...]:
    """Return the tokens of a CTC path, which has one token per frame: merge repeats, then drop tokens without text.

    Source: Graves et al., "Connectionist Temporal Classification" (ICML 2006), the map B of section 3.1.
    """
    return tuple(token for token, _ in groupby(path) if token not in dropped)


def spell(tokens: Iterable[int], spec: TokenSpec) -> str:
    """Return the text of tokens, its words separated as the language is written."""
    return spec.word_separator.join(word for word in spell_words(tokens, spec) if word)


def spell_words(tokens: Iterable[int], spec: TokenSpec) -> list[str]:
    """Return the text of each group of `word_groups`; that of a group without letters is empty."""
    chosen = list(tokens)
    return [spell_word([chosen[place] for place in group], spec) for group in word_groups(chosen, spec)]


def spell_word(tokens: Iterable[int], spec: TokenSpec) -> str:
    """Return the text of tokens that are one of the groups of `word_groups`."""
    joined = "".join(spec.pieces[token] for token in tokens)
    return _BYTES.sub(_decoded, joined).replace(WORD_START, " ").strip()


def word_groups(tokens: Sequence[int], spec: TokenSpec) -> list[list[int]]:
    """Return the places of the tokens of each word, in order. A delimiter belongs to no word.

    Where every character is a word, the bytes of a character are one word.
    """
    groups: list[list[int]] = []
    is_delimited, is_character, begins, before = spec.style == DELIMITER, spec.style == CHARACTERS, True, ""
    for place, token in enumerate(tokens):
        piece = spec.pieces[token]
        if is_delimited and piece == spec.delimiter:
            begins = True
        elif begins or (not _continues(before, piece) if is_character else _begins_word(piece, spec)):
            groups.append([place])
            begins = False
        else:
            groups[-1].append(place)
        before = piece
    return groups


@functools.lru_cache(maxsize=16)
def is_right_to_left(spec: TokenSpec) -> bool:
    """Return whether most letters of the tokens are of a script that is written from right to left."""
    pieces = (_BYTES.sub("", piece) for token, piece in enumerate(spec.pieces) if token not in spec.dropped)
    directions = [unicodedata.bidirectional(each) for piece in pieces for each in piece if each.isalpha()]
    return 2 * sum(each in _RIGHT_TO_LEFT for each in directions) > len(directions)


def units(text: str, spec: TokenSpec) -> list[str]:
    """Return what errors are counted in: the words of a text, or its characters where words are not separated."""
    return text.split() if spec.word_separator.isspace() else [one for one in text if not one.isspace()]


def _begins_word(piece: str, spec: TokenSpec) -> bool:
    return spec.style != DELIMITER and piece.startswith(WORD_START)


def _continues(before: str, piece: str) -> bool:
    """Return whether a piece is a further byte of the character of the piece before it."""
    return _BYTES.fullmatch(before) is not None and _CONTINUATION.fullmatch(piece) is not None


def _decoded(run: re.Match[str]) -> str:
    # A character's bytes are several tokens, so that only the whole run can be decoded.
    return bytes.fromhex("".join(_hexadecimal(run.group()))).decode("utf-8", errors="replace")


def _hexadecimal(run: str) -> Iterator[str]:
    yield from re.findall(r"<0x([0-9A-F]{2})>", run)
