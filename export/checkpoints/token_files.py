"""Read token lists of other tools: `symbol number` on each line, one symbol on each line, or JSON."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from contract.client import CHARACTERS, DELIMITER, SENTENCEPIECE, TokenSpec
from contract.errors import CheckpointError
from contract.tokens import WORD_START
from export.checkpoints import plain_files
from export.checkpoints.settings import MOST_TOKENS, parse_json

LARGEST_BYTES = 8 << 20
BLANKS = ("<blk>", "<blank>", "<eps>", "<pad>", "[PAD]", "<ctc_blank>")
"""Names of the blank, in the order in which they are looked for."""
DELIMITERS = ("|", " ", "<space>")
_REMEDY = "Use the token list that belongs to the network"
# `<unk>`, `<s>`, `[UNK]`, `#0`; not the bytes `<0x41>` of SentencePiece.
_SPECIAL = re.compile(r"<(?!0x[0-9A-Fa-f]{2}>)[^<>\s]+>|\[[A-Z]+\]|#\d+")
# Above this share of lines with numbers, the others are damaged; below it, numbers are symbols.
_NUMBERED_SHARE = 0.5
_NUMBERED = re.compile(r"(.*)[ \t](\d{1,9})")


def read(path: Path) -> tuple[str, ...]:
    """Return the symbols of a file by their number; raise CheckpointError with the line that is wrong."""
    try:
        text = plain_files.read(path, LARGEST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise CheckpointError(path, f"it cannot be read ({error.strerror})", _REMEDY) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(path, "it is not text in UTF-8", _REMEDY) from error
    lines = text.split("\n")
    while lines and not lines[-1]:
        lines.pop()
    lines = [line.removesuffix("\r") for line in lines]
    found = _of_json(path, text) if path.suffix == ".json" else _of_lines(path, lines)
    if not 1 < len(found) <= MOST_TOKENS:
        raise CheckpointError(path, f"it has {len(found)} tokens, and 2 to {MOST_TOKENS} are possible", _REMEDY)
    return found


def fit(path: Path, pieces: Sequence[str], vocabulary: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return pieces as many as a network has outputs, and the numbers of outputs that the list does not name.

    Raises CheckpointError when a piece has no output. Trailing disambiguation symbols, `#0` and so on, are left out.
    """
    kept = list(pieces)
    while len(kept) > vocabulary and kept[-1].startswith("#"):
        kept.pop()
    if len(kept) > vocabulary:
        cause = f"it has {len(kept)} tokens, and the network has {vocabulary} outputs"
        raise CheckpointError(path, cause, _REMEDY)
    unnamed = tuple(range(len(kept), vocabulary))
    return (*kept, *(f"<unused {number}>" for number in unnamed)), unnamed


def find_blank(path: Path, pieces: Sequence[str]) -> int:
    """Return the number of the blank by its usual names; raise CheckpointError where there is none of them."""
    for name in BLANKS:
        if name in pieces:
            return pieces.index(name)
    cause = f"it names no blank: none of {', '.join(BLANKS)}"
    raise CheckpointError(path, cause, "Describe the network in a TOML file beside it, with tokens.blank")


def describe(pieces: Sequence[str], blank: int, unspoken: Iterable[int] = ()) -> TokenSpec:
    """Return how tokens spell words, from their looks: SentencePiece's mark, a delimiter, or characters."""
    style, delimiter = style_of(pieces)
    special = {
        number
        for number, piece in enumerate(pieces)
        if _SPECIAL.fullmatch(piece) and number != blank and not (style == DELIMITER and piece == delimiter)
    }
    return TokenSpec(
        pieces=tuple(pieces),
        blank=blank,
        unspoken=tuple(sorted(special | set(unspoken))),
        style=style,
        delimiter=delimiter,
        word_separator="" if style == CHARACTERS else " ",
    )


def style_of(pieces: Sequence[str]) -> tuple[str, str]:
    """Return the style of a token list, and its delimiter of words."""
    if any(piece.startswith(WORD_START) for piece in pieces):
        return SENTENCEPIECE, "|"
    for delimiter in DELIMITERS:
        if delimiter in pieces:
            return DELIMITER, delimiter
    letters = [piece for piece in pieces if len(piece) == 1 and piece.isalpha()]
    wide = sum(unicodedata.east_asian_width(piece) == "W" for piece in letters)
    return (CHARACTERS if wide * 2 > len(letters) else SENTENCEPIECE), "|"


def _of_lines(path: Path, lines: Sequence[str]) -> tuple[str, ...]:
    matches = [_NUMBERED.fullmatch(line) for line in lines]
    if not all(matches):
        if sum(map(bool, matches)) > _NUMBERED_SHARE * len(lines):
            cause = f"line {matches.index(None) + 1}: it is not `symbol number`, as most lines are"
            raise CheckpointError(path, cause, _REMEDY)
        # One symbol on each line: few lines or none end with a number.
        return tuple(lines)
    found: dict[int, str] = {}
    for line, match in enumerate(matches, 1):
        if match is None:
            continue
        number = int(match[2])
        if number >= len(lines) or number in found:
            cause = "is there twice" if number in found else f"is above {len(lines) - 1}, the number of the last token"
            raise CheckpointError(path, f"line {line}: the number {number} {cause}", _REMEDY)
        # A symbol that is a space itself leaves an empty text.
        found[number] = match[1] or " "
    return tuple(found[number] for number in range(len(lines)))


def _of_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        value: Any = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"it is not JSON ({error})", _REMEDY) from error
    if isinstance(value, dict) and all(isinstance(number, int) for number in value.values()):
        ordered = sorted(value, key=value.__getitem__)
        if [value[piece] for piece in ordered] == list(range(len(ordered))):
            return tuple(ordered)
    if isinstance(value, list) and all(isinstance(piece, str) for piece in value):
        return tuple(value)
    cause = "it is neither a list of symbols nor a table from symbols to the numbers 0, 1, 2 and so on"
    raise CheckpointError(path, cause, _REMEDY)
