"""Join the tokens of a hypothesis into words, with their times and confidences."""

import math
from dataclasses import replace
from itertools import pairwise

from contract.client import AudioSpec, TokenSpec
from contract.tokens import spell, word_groups
from transcriber.ctc import AlignedToken
from transcriber.transcript import Word

# CTC emits a token in a frame or two near its middle, so a word is longer than from its first to its last frame.
_LEAD_S, TRAIL_S = 0.06, 0.06


def join(
    aligned: tuple[AlignedToken, ...], tokens: TokenSpec, audio: AudioSpec, start_s: float, end_s: float
) -> list[Word]:
    """Return the words of a segment that lies between two times of the recording, from its aligned tokens.

    Times rise, do not overlap and stay within the segment. A word's confidence is the geometric mean of its tokens'
    probabilities, which confidence.py calibrates.
    """
    groups = word_groups([each.token for each in aligned], tokens)
    words = [_word([aligned[place] for place in group], tokens, audio, start_s, end_s) for group in groups]
    return _without_overlap([word for word in words if word.content])


def _word(group: list[AlignedToken], tokens: TokenSpec, audio: AudioSpec, start_s: float, end_s: float) -> Word:
    first_centre_s = start_s + audio.first_centre_s
    mean = sum(math.log(max(each.confidence, 1e-9)) for each in group) / len(group)
    return Word(
        content=spell([each.token for each in group], tokens),
        start_s=max(start_s, first_centre_s + group[0].first * audio.hop_s - _LEAD_S),
        end_s=min(end_s, first_centre_s + group[-1].last * audio.hop_s + TRAIL_S),
        confidence=math.exp(mean),
    )


def _without_overlap(words: list[Word]) -> list[Word]:
    """Return the words with the borders of overlapping ones moved to the middle of the overlap."""
    borders = [
        (before.end_s + after.start_s) / 2 if before.end_s > after.start_s else None
        for before, after in pairwise(words)
    ]
    return [
        replace(
            word,
            start_s=word.start_s if left is None else left,
            end_s=word.end_s if right is None else right,
        )
        for word, left, right in zip(words, [None, *borders], [*borders, None], strict=False)
    ]
