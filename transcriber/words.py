"""Joins the tokens of a hypothesis to words, with their times and confidences."""

import math
from collections.abc import Sequence
from itertools import pairwise

from transcriber.ctc import Emitted
from transcriber.transcript import Word

WORD_START = "\u2581"
# Encoder frame t sees the feature frames 4t to 4t + 6 (two convolutions of width 3 and stride 2), whose middle is the
# middle of feature frame 4t + 3: 10 ms each, 25 ms wide.
_FRAME_S = 0.040
SUBSAMPLING, SHORTEST_FRAMES = 4, 7
_FIRST_CENTRE_S = 0.030 + 0.0125
# CTC says a token in a frame or two near its middle, so that a word reaches further than its outermost frames.
_LEAD_S, _TRAIL_S = 0.06, 0.06


def encoder_frames(feature_frames: int) -> int:
    """Say how many encoder frames so many feature frames make."""
    return max(0, (feature_frames - SHORTEST_FRAMES) // SUBSAMPLING + 1)


def spelt(tokens: Sequence[int], pieces: Sequence[str]) -> str:
    """Write tokens as words."""
    return "".join(pieces[token] for token in tokens).replace(WORD_START, " ").strip()


def join(spoken: tuple[Emitted, ...], pieces: tuple[str, ...], start_s: float, end_s: float) -> list[Word]:
    """Make words of the tokens of a segment that lies between two times of the recording.

    A piece that begins with U+2581 begins a word. Times rise, do not overlap and stay within the segment; a word's
    confidence is the geometric mean of its tokens' probabilities.
    """
    groups: list[list[Emitted]] = []
    for emitted in spoken:
        if not groups or pieces[emitted.token].startswith(WORD_START):
            groups.append([])
        groups[-1].append(emitted)
    words = [_word(group, pieces, start_s, end_s) for group in groups]
    return _parted([word for word in words if word.content])


def _word(group: list[Emitted], pieces: tuple[str, ...], start_s: float, end_s: float) -> Word:
    first_s = start_s + _FIRST_CENTRE_S + group[0].first * _FRAME_S - _LEAD_S
    last_s = start_s + _FIRST_CENTRE_S + group[-1].last * _FRAME_S + _TRAIL_S
    mean = sum(math.log(max(emitted.confidence, 1e-9)) for emitted in group) / len(group)
    return Word(
        content="".join(pieces[emitted.token] for emitted in group).replace(WORD_START, ""),
        start_s=max(start_s, first_s),
        end_s=min(end_s, last_s),
        confidence=math.exp(mean),
    )


def _parted(words: list[Word]) -> list[Word]:
    """Let words that overlap meet in the middle."""
    borders = [
        (before.end_s + after.start_s) / 2 if before.end_s > after.start_s else None
        for before, after in pairwise(words)
    ]
    return [
        Word(
            content=word.content,
            start_s=word.start_s if left is None else left,
            end_s=word.end_s if right is None else right,
            confidence=word.confidence,
        )
        for word, left, right in zip(words, [None, *borders], [*borders, None], strict=False)
    ]
