"""Read and write an n-gram language model of tokens or of words, compact enough for a parameter of the acoustic head.

It is a tree: the children of a node are the tokens or words that were seen after it. The model of a language is stored
as text next to the token list that it was counted on. `training.ngram` makes one of tokens.
"""

import base64
import binascii
import ctypes
import functools
import lzma
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.client import TokenSpec
from transcriber import native
from transcriber.lexicon import Lexicon
from transcriber.native import Tree, pointer

# A log-probability is a whole number of these steps, in eight bits. With steps of 0.5 a tenth more n-grams fit into the
# same bytes, and the error rate is no lower.
STEP_NATS = 0.25
_LARGEST_CODE, _ZERO_BACKOFF = 255, 128
_MAGIC = b"VXN1"
_HEAD = struct.Struct("<4sHB")
LARGEST_VOCABULARY = 65_535
"""The number of tokens or words that the bytes of a model can state."""
# A service checks its server every two seconds, and reads the same models each time.
_KEPT = 4
# Neighbouring bytes are hardly correlated here: lzma's usual contexts cost 3 %.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Level:
    """The n-grams of one order: those with the same beginning follow one another, in the order of their last token.

    For each: that token, its log-probability after the others, and the log of the factor for tokens that were never
    seen after all of them. `children` is for each n-gram the number of longer ones that begin with it.
    """

    tokens: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    backoffs: NDArray[np.float64]
    children: NDArray[np.int64]


class Ngram:
    """A model that scores a text token by token. A state stands for the part of the past that the model can use."""

    def __init__(self, levels: Sequence[Level], vocabulary: int, boundary: int, lexicon: Lexicon | None = None) -> None:
        """Build the tree from the levels, from order 1 on; `boundary` begins and ends every text.

        With a lexicon the model is one of words: its labels are the numbers of words.

        Raises ValueError when the levels do not make a tree.
        """
        self.order, self.vocabulary, self.boundary = len(levels), vocabulary, boundary
        first, self._labels = _tree(levels, vocabulary, boundary)
        self._log_probs = np.concatenate([[0.0], *(level.log_probs for level in levels)])
        self._backoffs = np.concatenate([[0.0], *(level.backoffs for level in levels)])
        self._shorter, self._states = np.zeros_like(self._labels), np.zeros_like(self._labels)
        self._library, tree = native.library(), Tree(first=pointer(first), labels=pointer(self._labels))
        self._library.link_ngram(
            len(self._labels), tree.first, tree.labels, pointer(self._shorter), pointer(self._states)
        )
        self.native = native.Ngram(
            tree=tree,
            log_probs=pointer(self._log_probs),
            backoffs=pointer(self._backoffs),
            shorter=pointer(self._shorter),
            states=pointer(self._states),
            start=0,
            boundary=boundary,
            lexicon=None if lexicon is None else ctypes.pointer(lexicon.native),
        )
        """The model for the compiled search; it is valid as long as this object."""
        self._first, self.lexicon = first, lexicon
        # Every segment has a search of its own, with the same tokens.
        self._checked: TokenSpec | None = None
        self.start = self.native.start = self.after(0, boundary)[1]

    def __len__(self) -> int:
        """Return the number of n-grams."""
        return len(self._labels) - 1

    def after(self, state: int, token: int) -> tuple[float, int]:
        """Return the log-probability of a token in a state, and the state after it; ValueError for an unknown token."""
        following = ctypes.c_int32(state)
        log_prob = self._library.ngram_after(self.native, following, token)
        if math.isnan(log_prob):
            raise ValueError(f"token {token} is not in the n-gram model")
        return log_prob, following.value

    def log_prob(self, tokens: Sequence[int]) -> float:
        """Return the log-probability of a whole text, with its end."""
        total, state = 0.0, self.start
        for token in (*tokens, self.boundary):
            log_prob, state = self.after(state, token)
            total += log_prob
        return total

    def check_tokens(self, spec: TokenSpec) -> None:
        """Raise ValueError when the model lacks a token, or a word of its lexicon, that a search may find."""
        if spec is self._checked:
            return
        known = set(self._labels[1 : self._first[1]].tolist())
        if self.lexicon is not None:
            if not known >= set(range(self.lexicon.unknown + 1)):
                raise ValueError("it lacks words of its lexicon")
        elif lacking := set(range(len(spec.pieces))) - spec.dropped - known:
            token = min(lacking)
            raise ValueError(f"token {token}, {spec.pieces[token]!r}, is not in the n-gram model")
        self._checked = spec


def encode(levels: Sequence[Level], vocabulary: int) -> bytes:
    """Return a model as bytes: log-probabilities in steps, and backoff factors only for n-grams with children.

    Raises ValueError for a larger vocabulary than LARGEST_VOCABULARY.
    """
    if vocabulary > LARGEST_VOCABULARY:
        raise ValueError(f"it has {vocabulary} tokens, and an n-gram model has at most {LARGEST_VOCABULARY}")
    columns = []
    for place, level in enumerate(levels):
        is_last = place == len(levels) - 1
        columns += [_as_bytes(level.tokens, vocabulary), _codes(-level.log_probs)]
        if not is_last:
            followed = level.children > 0
            columns += [_as_bytes(level.children, vocabulary), _codes(level.backoffs[followed], _ZERO_BACKOFF)]
    sizes = np.array([len(level.tokens) for level in levels], dtype="<u4")
    head = _HEAD.pack(_MAGIC, vocabulary, len(levels)) + sizes.tobytes()
    return head + lzma.compress(b"".join(columns), format=lzma.FORMAT_RAW, filters=_FILTERS)


def decode(data: bytes, boundary: int) -> Ngram:
    """Read a model that `encode` wrote; raise ValueError when the bytes are not a model with this boundary."""
    return Ngram(*decode_levels(data), boundary)


@functools.lru_cache(maxsize=_KEPT)
def of_words(text: str, words: str, spec: TokenSpec) -> Ngram:
    """Read a model of words, which are separated by blanks, from its text; raise ValueError as `decode` does."""
    lexicon = Lexicon(words.split(" ") if words else [], spec)
    return Ngram(*decode_levels(_bytes(text)), lexicon.boundary, lexicon)


def decode_levels(data: bytes) -> tuple[list[Level], int]:
    """Return the levels that `encode` wrote, and the size of the vocabulary; raise ValueError for other bytes."""
    try:
        magic, vocabulary, order = _HEAD.unpack_from(data)
        if magic != _MAGIC or order < 1:
            raise ValueError("it does not begin with VXN1")
        sizes = np.frombuffer(data, dtype="<u4", count=order, offset=_HEAD.size).tolist()
        packed = data[_HEAD.size + 4 * order :]
        columns = _Columns(lzma.decompress(packed, format=lzma.FORMAT_RAW, filters=_FILTERS), vocabulary)
        return [columns.level(size, is_last=place == order - 1) for place, size in enumerate(sizes)], vocabulary
    except (struct.error, lzma.LZMAError, EOFError, IndexError) as error:
        raise ValueError(str(error)) from error


@functools.lru_cache(maxsize=_KEPT)
def from_text(text: str, boundary: int) -> Ngram:
    """Read a model from its text in a configuration, base85 of the bytes; raise ValueError as `decode` does."""
    return decode(_bytes(text), boundary)


def _bytes(text: str) -> bytes:
    try:
        return base64.b85decode(text)
    except (ValueError, binascii.Error) as error:
        raise ValueError(str(error)) from error


class _Columns:
    """Read the columns of a model, one after the other."""

    def __init__(self, data: bytes, vocabulary: int) -> None:
        self._data, self._vocabulary, self._place = data, vocabulary, 0

    def level(self, size: int, *, is_last: bool) -> Level:
        tokens = self._numbers(size, _type(self._vocabulary))
        log_probs = -STEP_NATS * self._numbers(size, np.dtype(np.uint8))
        backoffs, children = np.zeros(size), np.zeros(size, dtype=np.int64)
        if not is_last:
            children = self._numbers(size, _type(self._vocabulary))
            followed = children > 0
            codes = self._numbers(int(followed.sum()), np.dtype(np.uint8))
            backoffs[followed] = STEP_NATS * (codes - _ZERO_BACKOFF)
        return Level(tokens=tokens, log_probs=log_probs, backoffs=backoffs, children=children)

    def _numbers(self, count: int, kind: np.dtype[Any]) -> NDArray[np.int64]:
        found = np.frombuffer(self._data, dtype=kind, count=count, offset=self._place)
        self._place += count * kind.itemsize
        return found.astype(np.int64)


def _tree(levels: Sequence[Level], vocabulary: int, boundary: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the first child of each node, and its token; node 0 is the empty past. ValueError if they are no tree."""
    sizes = [1, *(len(level.tokens) for level in levels)]
    children = np.concatenate([[sizes[1]], *(level.children for level in levels)])
    made = [int(each.sum()) for each in np.split(children, np.cumsum(sizes)[:-1])]
    if made != [*sizes[1:], 0] or int(children.min()) < 0:
        raise ValueError("the number of n-grams differs from the counts of children")
    tokens = np.concatenate([[-1], *(level.tokens for level in levels)])
    first = np.concatenate([[1], 1 + np.cumsum(children)])
    rises = np.diff(tokens) > 0
    # The tokens of a node's children rise; those of the next node need not be larger.
    rises[first[first < len(tokens)] - 1] = True
    single = levels[0].tokens
    if not rises.all() or int(tokens.max()) >= vocabulary or int(single.min()) < 0 or boundary not in single:
        raise ValueError("its n-grams are not in order, or not of its tokens")
    return first.astype(np.int32), tokens.astype(np.int32)


def _type(vocabulary: int) -> np.dtype[Any]:
    return np.dtype(np.uint8 if vocabulary <= _LARGEST_CODE + 1 else "<u2")


def _as_bytes(numbers: NDArray[np.int64], vocabulary: int) -> bytes:
    return numbers.astype(_type(vocabulary)).tobytes()


def _codes(values: NDArray[np.float64], zero: int = 0) -> bytes:
    codes: NDArray[np.uint8] = np.clip(np.rint(values / STEP_NATS) + zero, 0, _LARGEST_CODE).astype(np.uint8)
    return codes.tobytes()
