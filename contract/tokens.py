"""Define the reserved tokens of a CTC head, collapse CTC paths, and spell tokens as text."""

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby

BLANK, UNKNOWN, BOUNDARY = 0, 1, 2
RESERVED = (BLANK, UNKNOWN, BOUNDARY)
"""Tokens that are not text. No hypothesis contains one."""
FIRST_WORD_TOKEN = 3
WORD_START = "\u2581"
"""A piece that begins with this character (SentencePiece's) begins a word."""


def collapse(path: Iterable[int], dropped: Collection[int] = RESERVED) -> tuple[int, ...]:
    """Return the tokens of a CTC path, which has one token per frame: merge repeats, then drop reserved tokens.

    Source: Graves et al., "Connectionist Temporal Classification" (ICML 2006), the map B of section 3.1.
    """
    return tuple(token for token, _ in groupby(path) if token not in dropped)


def spell(tokens: Iterable[int], pieces: Sequence[str]) -> str:
    """Return the text of tokens, whose words are separated by spaces."""
    return "".join(pieces[token] for token in tokens).replace(WORD_START, " ").strip()
