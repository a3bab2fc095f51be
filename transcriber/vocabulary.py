"""Phrases that the search prefers: names and terms that the weights do not know or rarely find.

A phrase is text. Every spelling of it with the model's tokens counts: the search follows the characters of the tokens
through an automaton of all phrases. Each token of a phrase has a bonus, and what it loses by the n-gram model is added
again. The search takes both back where the phrase does not go on, or where the word does not end with the phrase. A
token that belongs to several phrases has them once. Characters are compared without case.
"""

import bisect
import math
import re
import unicodedata
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from contract.client import CHARACTERS, DELIMITER, TokenSpec
from contract.errors import SettingError
from contract.tokens import WORD_START
from transcriber import native
from transcriber.native import pointer

DEFAULT_BONUS = 3.0
"""Found with made-up names: more names, and no other words in the place of right ones (docs/architecture)."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_NO_LABEL = -1


class Vocabulary:
    """Phrases for the searches of one model."""

    def __init__(
        self,
        phrases: Iterable[str],
        spec: TokenSpec,
        bonus: float = DEFAULT_BONUS,
        source: object = "vocabulary",
    ) -> None:
        """Spell the phrases; `bonus` is added for each of their tokens, in the unit of a log-probability.

        Raises SettingError with `source` as its subject for a bonus that is not above 0, and for a phrase that the
        model's tokens cannot spell.
        """
        if not (0.0 < bonus < math.inf):
            raise SettingError(source, f"the bonus of its phrases is {bonus:g}", "Choose a finite number above 0")
        self.spec = spec
        pieces = _pieces(spec)
        known = _Known(pieces)
        spelled = {_spelled(phrase, spec, known, source) for phrase in phrases}
        labels = {each: label for label, each in enumerate(sorted(set().union(*spelled)))}
        characters = [each for piece in pieces for each in piece]
        self._arrays = {
            **_automaton(spelled, labels, leading=int(_has_words(spec))),
            "piece_first": _int32s(np.cumsum([0, *map(len, pieces)])),
            "characters": _int32s([labels.get(each, _NO_LABEL) for each in characters]),
        }
        self._ends = np.array([not _has_words(spec) or _ends_word(each) for each in characters], dtype=np.uint8)
        pointers = {name: pointer(array) for name, array in self._arrays.items()}
        self.native = native.Phrases(
            tree=native.Tree(first=pointers.pop("first"), labels=pointers.pop("labels")),
            **pointers,
            ends_word=pointer(self._ends),
            # A text begins like a word after another one. All phrases begin with WORD_START then, which is node 1.
            start=int(bool(spelled) and _has_words(spec)),
            bonus=bonus,
        )
        """The phrases for the compiled search; they are valid as long as this object."""


class _Known:
    """The texts that single tokens spell."""

    def __init__(self, pieces: Iterable[tuple[str, ...]]) -> None:
        self._texts = {"".join(piece) for piece in pieces if piece}
        # Once for all phrases: a model may have 65,536 tokens.
        self._longest = max(map(len, self._texts), default=0)

    def spell(self, text: str) -> bool:
        """Return whether a sequence of tokens spells a text."""
        reached = [True] + [False] * len(text)
        for end in range(1, len(text) + 1):
            begins = range(max(0, end - self._longest), end)
            reached[end] = any(reached[begin] and text[begin:end] in self._texts for begin in begins)
        return reached[-1]


def spellable(phrases: Iterable[str], spec: TokenSpec) -> list[str]:
    """Return the phrases that the tokens of a model spell, in their order."""
    known = _Known(_pieces(spec))
    return [phrase for phrase in phrases if (text := _text_of(phrase, spec)) and known.spell(text)]


def _pieces(spec: TokenSpec) -> list[tuple[str, ...]]:
    """Return the characters of every token."""
    return [_characters(token, spec) for token in range(len(spec.pieces))]


def _has_words(spec: TokenSpec) -> bool:
    """Return whether words are separated, so that a phrase begins and ends with a word."""
    return spec.style != CHARACTERS and bool(spec.word_separator)


def _characters(token: int, spec: TokenSpec) -> tuple[str, ...]:
    """Return the characters of a token, in lower case; WORD_START is the begin of a word in every style."""
    piece = spec.pieces[token]
    if token in spec.dropped:
        return ()
    if spec.style == DELIMITER and piece == spec.delimiter:
        return (WORD_START,)
    # The byte of a character is none itself.
    return (piece,) if _BYTE.fullmatch(piece) else tuple(piece.lower())


def _ends_word(character: str) -> bool:
    # Punctuation and symbols are in Unicode's categories P and S.
    return character == WORD_START or (len(character) == 1 and unicodedata.category(character)[0] in "PS")


def _spelled(phrase: str, spec: TokenSpec, known: _Known, source: object) -> str:
    """Return the characters of a phrase as the automaton reads them; raise SettingError when no tokens spell them."""
    text = _text_of(phrase, spec)
    if not text:
        raise SettingError(source, "it has an empty phrase", "Remove it")
    if not known.spell(text):
        alphabet = {each for piece in _pieces(spec) for each in piece}
        foreign = next((each for each in text if each not in alphabet), None)
        cause = f"no tokens of the model spell the phrase {phrase!r}" + (f": none has {foreign!r}" if foreign else "")
        raise SettingError(source, cause, "Write the phrase as the model writes words, for example numbers in letters")
    return text


def _text_of(phrase: str, spec: TokenSpec) -> str:
    words = phrase.lower().split()
    return "".join(WORD_START + word for word in words) if _has_words(spec) else "".join(words)


def _automaton(phrases: Collection[str], labels: Mapping[str, int], leading: int) -> dict[str, NDArray[np.int32]]:
    """Return the arrays of an automaton whose nodes are the beginnings of phrases; `leading` characters are no letters.

    Time and memory grow with the characters. Source: Aho and Corasick, "Efficient string matching" (CACM 1975).
    """
    first, own, sizes, whole = _tree(sorted(phrases), labels)
    shorter, ended = _shorter(first, own), array("i")
    for node, size in enumerate(sizes):
        ended.append(size - leading if whole[node] else ended[shorter[node]] if node else 0)
    return {
        "first": _int32s(first),
        "labels": _int32s(own),
        "shorter": _int32s(shorter),
        "letters": np.maximum(0, _int32s(sizes) - leading),
        "ended": _int32s(ended),
    }


def _tree(texts: Sequence[str], labels: Mapping[str, int]) -> tuple[Sequence[int], ...]:
    """Return the beginnings of sorted texts as nodes, level by level, and the children of a node by their labels.

    For each node: its first child (and an end), its last label, its number of characters, and whether it is a text.
    """
    # Lists would take eight times the memory of arrays.
    first, own, sizes, whole = array("i", [1]), array("i", [_NO_LABEL]), array("i", [0]), array("i", [0])
    # The texts that begin like a node are neighbours.
    begins, ends = array("i", [0]), array("i", [len(texts)])
    node = 0
    while node < len(own):
        # A text that ends here is in front of those that go on.
        place, end, size = begins[node] + whole[node], ends[node], sizes[node]
        while place < end:
            begin, character = place, texts[place][size]
            while place < end and texts[place][size] == character:
                place += 1
            begins.append(begin)
            ends.append(place)
            own.append(labels[character])
            sizes.append(size + 1)
            whole.append(len(texts[begin]) == size + 1)
        first.append(len(own))
        node += 1
    return first, own, sizes, whole


def _shorter(first: Sequence[int], own: Sequence[int]) -> Sequence[int]:
    """Return for each node of a tree the longest end of its text that is a node too."""
    shorter = array("i", [0])
    for node in range(len(own)):
        for child in range(first[node], first[node + 1]):
            # The ends of a text have fewer characters, so their nodes and those after them are known.
            shorter.append(_after(first, own, shorter, shorter[node], own[child]) if node else 0)
    return shorter


def _after(first: Sequence[int], own: Sequence[int], shorter: Sequence[int], node: int, label: int) -> int:
    """Return the child with a label of a node or, where it has none, of its longest end that has one; 0 for none."""
    while True:
        place = bisect.bisect_left(own, label, first[node], first[node + 1])
        if place < first[node + 1] and own[place] == label:
            return place
        if not node:
            return 0
        node = shorter[node]


def _int32s(numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int32]:
    return np.array(numbers, dtype=np.int32)
