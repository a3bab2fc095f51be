"""How the tokens of a network spell words: which words they can spell, and with how many tokens."""

import math
import re

from contract.client import CHARACTERS, DELIMITER, SENTENCEPIECE, TokenSpec
from contract.tokens import WORD_START

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class Speller:
    """Spells words with the fewest tokens."""

    def __init__(self, tokens: TokenSpec) -> None:
        spoken = {piece for number, piece in enumerate(tokens.pieces) if number not in tokens.dropped}
        self._pieces = spoken - {tokens.delimiter} if tokens.style == DELIMITER else spoken
        self._style, self._longest = tokens.style, max(map(len, spoken), default=0)
        # SentencePiece spells a character outside its vocabulary with the bytes of its UTF-8 form.
        self._has_bytes = sum(bool(_BYTE.fullmatch(piece)) for piece in spoken) == 1 << 8

    def size(self, word: str) -> float:
        """Return the number of tokens of a word in a text, with the delimiter behind it; infinite if none spell it."""
        if self._style == CHARACTERS:
            return 1.0 if word in self._pieces else math.inf
        text = WORD_START + word if self._style == SENTENCEPIECE else word
        fewest = [0.0] + [math.inf] * len(text)
        for end in range(1, len(text) + 1):
            for begin in range(max(0, end - self._longest), end):
                if text[begin:end] in self._pieces:
                    fewest[end] = min(fewest[end], fewest[begin] + 1.0)
            if self._has_bytes:
                fewest[end] = min(fewest[end], fewest[end - 1] + len(text[end - 1].encode()))
        return fewest[-1] + (1.0 if self._style == DELIMITER else 0.0)
