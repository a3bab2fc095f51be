"""A small n-gram model for tests: three orders over six tokens, numbers in whole steps."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from contract.client import TokenSpec
from transcriber.ngram import Level, Ngram

BLANK, UNKNOWN, BOUNDARY = 0, 1, 2
VOCABULARY = 6


def token_spec(size: int = VOCABULARY, **fields: Any) -> TokenSpec:
    """Build the tokens of a model like the reference networks': three that are not text, then single letters."""
    pieces = tuple("\u2581" + chr(ord("a") + place) for place in range(size))
    reserved = {"blank": BLANK, "unspoken": (UNKNOWN, BOUNDARY), "boundary": BOUNDARY}
    return TokenSpec(**{"pieces": pieces, **reserved, **fields})


def level(
    tokens: Iterable[int],
    log_probs: Iterable[float],
    backoffs: Iterable[float] | None = None,
    children: Iterable[int] | None = None,
) -> Level:
    """Build a level; without longer n-grams by default."""
    names = np.array(list(tokens), dtype=np.int64)
    return Level(
        tokens=names,
        log_probs=np.array(list(log_probs), dtype=np.float64),
        backoffs=np.zeros(len(names)) if backoffs is None else np.array(list(backoffs), dtype=np.float64),
        children=np.zeros(len(names), dtype=np.int64) if children is None else np.array(list(children)),
    )


def single_tokens(vocabulary: int, *, unlikely: int) -> Ngram:
    """Build a model of single tokens, of which one is unlikely."""
    tokens = range(BOUNDARY, vocabulary)
    return Ngram([level(tokens, [-20.0 if token == unlikely else -4.0 for token in tokens])], vocabulary, BOUNDARY)


# After the start 4 is likely; after 4 comes 5, and after 3 4 the end. No longer n-gram begins with `4 5`.
LEVELS = (
    level(range(BOUNDARY, VOCABULARY), [-2.0, -1.0, -1.5, -3.0], [-0.5, -1.0, -0.5, 0.0], [1, 2, 2, 0]),
    level([4, 3, 4, 3, 5], [-0.5, -2.5, -1.0, -2.0, -0.5], [-1.5, 0.0, -0.5, 0.0, 0.0], [1, 0, 2, 0, 0]),
    level([5, 2, 4], [-1.0, -0.5, -2.0]),
)
