"""Read and write a token n-gram language model, compact enough for a parameter of the acoustic head.

It is a tree: the children of a node are the tokens that were seen after it. The model of a language is stored as text
next to the token list that it was counted on. `training.ngram` makes it.
"""

import base64
import binascii
import itertools
import lzma
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.tokens import BOUNDARY

# A log-probability is a whole number of these steps, in eight bits. With steps of 0.5 a tenth more n-grams fit into the
# same bytes, and the error rate is no lower.
STEP_NATS = 0.25
_LARGEST_CODE, _ZERO_BACKOFF = 255, 128
_MAGIC = b"VXN1"
_HEAD = struct.Struct("<4sHB")
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

    def __init__(self, levels: Sequence[Level], vocabulary: int) -> None:
        """Build the tree from the levels, from order 1 on; the first one has every token from the boundary on.

        Raises ValueError when the levels do not make a tree.
        """
        if levels[0].tokens.tolist() != list(range(BOUNDARY, vocabulary)):
            raise ValueError("the n-grams of order 1 are not the tokens")
        self.order, self.vocabulary = len(levels), vocabulary
        self._children = _tree(levels, vocabulary)
        self._log_probs = [0.0, *(value for level in levels for value in level.log_probs.tolist())]
        self._backoffs = [0.0, *(value for level in levels for value in level.backoffs.tolist())]
        self._shorter, self._states = self._find_links(
            [1, *(each for level in levels for each in level.children.tolist())]
        )
        self.start = self.after(0, BOUNDARY)[1]

    def __len__(self) -> int:
        """Return the number of n-grams."""
        return len(self._children)

    def after(self, state: int, token: int) -> tuple[float, int]:
        """Return the log-probability of a token in a state, and the state after it; ValueError for an unknown token."""
        log_prob = 0.0
        node = self._children.get(state * self.vocabulary + token)
        while node is None:
            if not state:
                raise ValueError(f"token {token} is not in the n-gram model")
            log_prob += self._backoffs[state]
            state = self._shorter[state]
            node = self._children.get(state * self.vocabulary + token)
        # With rounded values the sum may be a little above 0.
        return min(log_prob + self._log_probs[node], 0.0), self._states[node]

    def log_prob(self, tokens: Sequence[int]) -> float:
        """Return the log-probability of a whole text, with its end."""
        total, state = 0.0, self.start
        for token in (*tokens, BOUNDARY):
            log_prob, state = self.after(state, token)
            total += log_prob
        return total

    def _find_links(self, children: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return for each node the longest shorter past in the tree, and the longest past that has children."""
        shorter, states = [0] * len(children), [0] * len(children)
        # Parents come before their children.
        for key, node in self._children.items():
            parent, token = divmod(key, self.vocabulary)
            past = parent
            while past:
                past = shorter[past]
                found = self._children.get(past * self.vocabulary + token)
                if found is not None:
                    shorter[node] = found
                    break
            states[node] = node if children[node] else states[shorter[node]]
        return shorter, states


def encode(levels: Sequence[Level], vocabulary: int) -> bytes:
    """Return a model as bytes: log-probabilities in steps, and backoff factors only for n-grams with children."""
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


def decode(data: bytes) -> Ngram:
    """Read a model that `encode` wrote; raise ValueError when the bytes are not a model."""
    try:
        magic, vocabulary, order = _HEAD.unpack_from(data)
        if magic != _MAGIC or order < 1:
            raise ValueError("it does not begin with VXN1")
        sizes = np.frombuffer(data, dtype="<u4", count=order, offset=_HEAD.size).tolist()
        packed = data[_HEAD.size + 4 * order :]
        columns = _Columns(lzma.decompress(packed, format=lzma.FORMAT_RAW, filters=_FILTERS), vocabulary)
        levels = [columns.level(size, is_last=place == order - 1) for place, size in enumerate(sizes)]
        return Ngram(levels, vocabulary)
    except (struct.error, lzma.LZMAError, EOFError, IndexError) as error:
        raise ValueError(str(error)) from error


def from_text(text: str) -> Ngram:
    """Read a model from its text in a configuration, base85 of the bytes; raise ValueError when it is not a model."""
    try:
        data = base64.b85decode(text)
    except (ValueError, binascii.Error) as error:
        raise ValueError(str(error)) from error
    return decode(data)


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


def _tree(levels: Sequence[Level], vocabulary: int) -> dict[int, int]:
    """Return the node for each (node, token), numbered in order from 1 on; keys are node * vocabulary + token."""
    keys, first = [levels[0].tokens], 1
    for before, level in itertools.pairwise(levels):
        if int(before.children.sum()) != len(level.tokens):
            raise ValueError("the number of n-grams differs from the counts of children")
        parents = np.repeat(np.arange(first, first + len(before.tokens)), before.children)
        keys.append(parents * vocabulary + level.tokens)
        first += len(before.tokens)
    return {key: node for node, key in enumerate(np.concatenate(keys).tolist(), start=1)}


def _type(vocabulary: int) -> np.dtype[Any]:
    return np.dtype(np.uint8 if vocabulary <= _LARGEST_CODE + 1 else "<u2")


def _as_bytes(numbers: NDArray[np.int64], vocabulary: int) -> bytes:
    return numbers.astype(_type(vocabulary)).tobytes()


def _codes(values: NDArray[np.float64], zero: int = 0) -> bytes:
    codes: NDArray[np.uint8] = np.clip(np.rint(values / STEP_NATS) + zero, 0, _LARGEST_CODE).astype(np.uint8)
    return codes.tobytes()
