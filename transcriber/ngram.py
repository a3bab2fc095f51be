"""A token n-gram language model, as compact as a parameter of the acoustic head must be.

It is a tree: the children of a node are the tokens that were seen after it. The model of a language travels as text
beside the token list that it was counted on, and `training.ngram` makes it.
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

from transcriber.ctc import BOUNDARY

# A log-probability is a whole number of these steps, in eight bits. With steps of 0.5 a tenth more n-grams fit into the
# same bytes, and make no fewer mistakes.
STEP_NATS = 0.25
_LARGEST_CODE, _ZERO_BACKOFF = 255, 128
_MAGIC = b"VXN1"
_HEAD = struct.Struct("<4sHB")
# Neighbouring bytes tell little of one another here: lzma's usual contexts cost 3 %.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Level:
    """The n-grams of one order, those with the same beginning side by side and in the order of their last token.

    For each: that token, its log-probability after the others, and the log of the factor for tokens that were never
    seen after all of them. `children` has for each n-gram how many longer ones begin with it.
    """

    tokens: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    backoffs: NDArray[np.float64]
    children: NDArray[np.int64]


class Ngram:
    """A model that reads a text token by token. A state stands for as much of the past as it can make use of."""

    def __init__(self, levels: Sequence[Level], vocabulary: int) -> None:
        """Take the levels from order 1 on, the first with every token from the boundary on.

        Raises ValueError where they make no tree.
        """
        if levels[0].tokens.tolist() != list(range(BOUNDARY, vocabulary)):
            raise ValueError("the n-grams of order 1 are not the tokens")
        self.order, self.vocabulary = len(levels), vocabulary
        self._children = _tree(levels, vocabulary)
        self._log_probs = [0.0, *(value for level in levels for value in level.log_probs.tolist())]
        self._backoffs = [0.0, *(value for level in levels for value in level.backoffs.tolist())]
        self._shorter, self._states = self._links([1, *(each for level in levels for each in level.children.tolist())])
        self.start = self.after(0, BOUNDARY)[1]

    def __len__(self) -> int:
        """Count the n-grams."""
        return len(self._children)

    def after(self, state: int, token: int) -> tuple[float, int]:
        """Give the log-probability of a token in a state, and the state after it; ValueError below the boundary."""
        log_prob = 0.0
        node = self._children.get(state * self.vocabulary + token)
        while node is None:
            if not state:
                raise ValueError(f"token {token} is none of the model")
            log_prob += self._backoffs[state]
            state = self._shorter[state]
            node = self._children.get(state * self.vocabulary + token)
        # What is rounded may come to a little more than certainty.
        return min(log_prob + self._log_probs[node], 0.0), self._states[node]

    def log_prob(self, tokens: Sequence[int]) -> float:
        """Give the log-probability of a whole text, its end included."""
        total, state = 0.0, self.start
        for token in (*tokens, BOUNDARY):
            log_prob, state = self.after(state, token)
            total += log_prob
        return total

    def _links(self, children: Sequence[int]) -> tuple[list[int], list[int]]:
        """Find for each node the longest shorter past that is in the tree, and the longest that anything follows."""
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
    """Write a model compactly: log-probabilities in steps, and factors only where something follows."""
    columns = []
    for place, level in enumerate(levels):
        is_last = place == len(levels) - 1
        columns += [_small(level.tokens, vocabulary), _codes(-level.log_probs)]
        if not is_last:
            followed = level.children > 0
            columns += [_small(level.children, vocabulary), _codes(level.backoffs[followed], _ZERO_BACKOFF)]
    sizes = np.array([len(level.tokens) for level in levels], dtype="<u4")
    head = _HEAD.pack(_MAGIC, vocabulary, len(levels)) + sizes.tobytes()
    return head + lzma.compress(b"".join(columns), format=lzma.FORMAT_RAW, filters=_FILTERS)


def decode(data: bytes) -> Ngram:
    """Read a model that `encode` wrote; raise ValueError where the bytes are none."""
    try:
        magic, vocabulary, order = _HEAD.unpack_from(data)
        if magic != _MAGIC or order < 1:
            raise ValueError("it does not begin like one")
        sizes = np.frombuffer(data, dtype="<u4", count=order, offset=_HEAD.size).tolist()
        packed = data[_HEAD.size + 4 * order :]
        columns = _Columns(lzma.decompress(packed, format=lzma.FORMAT_RAW, filters=_FILTERS), vocabulary)
        levels = [columns.level(size, is_last=place == order - 1) for place, size in enumerate(sizes)]
        return Ngram(levels, vocabulary)
    except (struct.error, lzma.LZMAError, EOFError, IndexError) as error:
        raise ValueError(str(error)) from error


def from_text(text: str) -> Ngram:
    """Read a model from the text that stands for its bytes in a configuration; raise ValueError where it is none."""
    try:
        data = base64.b85decode(text)
    except (ValueError, binascii.Error) as error:
        raise ValueError(str(error)) from error
    return decode(data)


class _Columns:
    """What is written of a model, one column after the other."""

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
    """Give the node for each (node, token): keys node * vocabulary + token, nodes numbered as they come from 1 on."""
    keys, first = [levels[0].tokens], 1
    for before, level in itertools.pairwise(levels):
        if int(before.children.sum()) != len(level.tokens):
            raise ValueError("its n-grams are not as many as their beginnings say")
        parents = np.repeat(np.arange(first, first + len(before.tokens)), before.children)
        keys.append(parents * vocabulary + level.tokens)
        first += len(before.tokens)
    return {key: node for node, key in enumerate(np.concatenate(keys).tolist(), start=1)}


def _type(vocabulary: int) -> np.dtype[Any]:
    return np.dtype(np.uint8 if vocabulary <= _LARGEST_CODE + 1 else "<u2")


def _small(numbers: NDArray[np.int64], vocabulary: int) -> bytes:
    return numbers.astype(_type(vocabulary)).tobytes()


def _codes(values: NDArray[np.float64], zero: int = 0) -> bytes:
    codes: NDArray[np.uint8] = np.clip(np.rint(values / STEP_NATS) + zero, 0, _LARGEST_CODE).astype(np.uint8)
    return codes.tobytes()
