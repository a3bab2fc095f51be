"""Join the tokens of a hypothesis into words, with their times and confidences."""

import math

from contract.client import AudioSpec, TokenSpec
from contract.tokens import spell_word, word_groups
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
    first_centre_s = start_s + audio.first_centre_s
    found: list[list[AlignedToken]] = []
    contents: list[str] = []
    for places in word_groups([each.token for each in aligned], tokens):
        group = [aligned[place] for place in places]
        content = spell_word([each.token for each in group], tokens)
        if content:
            found.append(group)
            contents.append(content)
    # A frame near the end may be centred behind it.
    starts_s = [min(end_s, max(start_s, first_centre_s + group[0].first * audio.hop_s - _LEAD_S)) for group in found]
    # The first frames of a network may be centred before the segment.
    ends_s = [
        max(begin_s, min(end_s, first_centre_s + group[-1].last * audio.hop_s + TRAIL_S))
        for begin_s, group in zip(starts_s, found, strict=True)
    ]
    _separate(starts_s, ends_s)
    return [
        Word(content=content, start_s=start, end_s=end, confidence=_confidence(group))
        for content, start, end, group in zip(contents, starts_s, ends_s, found, strict=True)
    ]


def _confidence(group: list[AlignedToken]) -> float:
    return math.exp(sum([math.log(max(each.confidence, 1e-9)) for each in group]) / len(group))


def _separate(starts_s: list[float], ends_s: list[float]) -> None:
    """Move the borders of words that overlap to the middle of the overlap."""
    for place in range(1, len(starts_s)):
        if ends_s[place - 1] > starts_s[place]:
            ends_s[place - 1] = starts_s[place] = (ends_s[place - 1] + starts_s[place]) / 2
