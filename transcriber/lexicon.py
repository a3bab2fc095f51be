"""The words of an n-gram model of words: how the search finds them in the tokens of a hypothesis.

The search follows the bytes of the tokens through a tree of all words. So every spelling of a word counts, also that of
SentencePiece's bytes, and a word that is not in the tree is an unknown one as soon as no word begins like it.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from contract.client import CHARACTERS, DELIMITER, TokenSpec
from contract.tokens import WORD_START
from transcriber import native
from transcriber.native import pointer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_NO_LABEL = -1


class Lexicon:
    """The words of a model, numbered in their order, for the tokens of a spec."""

    def __init__(self, words: Sequence[str], spec: TokenSpec) -> None:
        """Build the tree; the number of an unknown word is that behind the boundary, which is behind all words."""
        self.boundary, self.unknown = len(words), len(words) + 1
        pieces = [list(_labels(token, spec)) for token in range(len(spec.pieces))]
        self._arrays = {
            **_tree(words),
            "piece_first": _int32s(np.cumsum([0, *map(len, pieces)])),
            "characters": _int32s([label for piece in pieces for label in piece]),
        }
        pointers = {name: pointer(array) for name, array in self._arrays.items()}
        self.native = native.Lexicon(
            tree=native.Tree(first=pointers.pop("first"), labels=pointers.pop("labels")),
            **pointers,
            unknown=self.unknown,
        )
        """The words for the compiled search; they are valid as long as this object."""


def _labels(token: int, spec: TokenSpec) -> Iterator[int]:
    """Yield the bytes of a token, and WORD_BREAK where a word ends or begins."""
    piece = spec.pieces[token]
    if token in spec.dropped:
        return
    if spec.style == CHARACTERS or (spec.style == DELIMITER and piece == spec.delimiter):
        yield native.WORD_BREAK
    if spec.style == DELIMITER and piece == spec.delimiter:
        return
    single = _BYTE.fullmatch(piece)
    if single:
        yield int(single[1], 16)
        return
    begins = spec.style != DELIMITER
    for character in piece:
        if begins and character == WORD_START:
            yield native.WORD_BREAK
        else:
            yield from character.encode()


def _tree(words: Sequence[str]) -> dict[str, NDArray[np.int32]]:
    """Return the arrays of a tree whose nodes are the beginnings of words; each with the number of the word, or -1."""
    numbers = {word.encode(): number for number, word in enumerate(words)}
    nodes = sorted({word[:size] for word in numbers for size in range(len(word) + 1)} | {b""}, key=_breadth_first)
    places = {text: place for place, text in enumerate(nodes)}
    children = np.bincount([places[text[:-1]] for text in nodes[1:]], minlength=len(nodes))
    return {
        "first": _int32s([1, *(1 + np.cumsum(children))]),
        "labels": _int32s([_NO_LABEL, *(text[-1] for text in nodes[1:])]),
        "words": _int32s([numbers.get(text, _NO_LABEL) for text in nodes]),
    }


def _breadth_first(text: bytes) -> tuple[int, bytes]:
    return len(text), text


def _int32s(numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int32]:
    return np.array(numbers, dtype=np.int32)
