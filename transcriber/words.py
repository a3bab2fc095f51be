"""Join the tokens of a hypothesis into words, with their times and confidences."""

import math
from itertools import pairwise

from contract.tokens import WORD_START, spell
from transcriber.ctc import AlignedToken
from transcriber.transcript import Word

# Encoder frame t covers the feature frames 4t to 4t + 6 (two convolutions of width 3 and stride 2), whose middle is the
# middle of feature frame 4t + 3. Feature frames are 10 ms apart and 25 ms wide.
_FRAME_S = 0.040
SUBSAMPLING, SHORTEST_FRAMES = 4, 7
_FIRST_CENTRE_S = 0.030 + 0.0125
# CTC emits a token in a frame or two near its middle, so a word is longer than from its first to its last frame.
_LEAD_S, _TRAIL_S = 0.06, 0.06


def encoder_frames(feature_frames: int) -> int:
    """Return the number of encoder frames that a number of feature frames makes."""
    return max(0, (feature_frames - SHORTEST_FRAMES) // SUBSAMPLING + 1)


def join(tokens: tuple[AlignedToken, ...], pieces: tuple[str, ...], start_s: float, end_s: float) -> list[Word]:
    """Return the words of a segment that lies between two times of the recording, from its aligned tokens.

    A piece that begins with U+2581 begins a word. Times rise, do not overlap and stay within the segment. A word's
    confidence is the geometric mean of its tokens' probabilities.
    """
    groups: list[list[AlignedToken]] = []
    for token in tokens:
        if not groups or pieces[token.token].startswith(WORD_START):
            groups.append([])
        groups[-1].append(token)
    words = [_word(group, pieces, start_s, end_s) for group in groups]
    return _without_overlap([word for word in words if word.content])


def _word(group: list[AlignedToken], pieces: tuple[str, ...], start_s: float, end_s: float) -> Word:
    first_s = start_s + _FIRST_CENTRE_S + group[0].first * _FRAME_S - _LEAD_S
    last_s = start_s + _FIRST_CENTRE_S + group[-1].last * _FRAME_S + _TRAIL_S
    mean = sum(math.log(max(each.confidence, 1e-9)) for each in group) / len(group)
    return Word(
        content=spell([each.token for each in group], pieces),
        start_s=max(start_s, first_s),
        end_s=min(end_s, last_s),
        confidence=math.exp(mean),
    )


def _without_overlap(words: list[Word]) -> list[Word]:
    """Return the words with the borders of overlapping ones moved to the middle of the overlap."""
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
