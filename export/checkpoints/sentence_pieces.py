"""Read the pieces of a SentencePiece model, a protocol buffer, without the library that runs such models.

Definition: sentencepiece_model.proto of google/sentencepiece. Field 1 of the model is repeated: one piece, with its
text in field 1 and its type in field 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from contract.errors import CheckpointError
from export.checkpoints.weights import DAMAGED

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}
_PIECE_FIELD, _TEXT_FIELD, _TYPE_FIELD = 1, 1, 3
_NORMAL, _UNKNOWN, _CONTROL, _UNUSED = 1, 2, 3, 5
# A 64-bit number takes at most ten groups of seven bits.
_MOST_BITS = 70


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One piece of a model."""

    text: str
    is_text: bool
    """False for the unknown piece, control symbols and unused pieces."""


def read_pieces(data: bytes, source: object) -> list[Piece]:
    """Return the pieces of a model in the order of their numbers; raise CheckpointError for a damaged model."""
    try:
        found = [_piece(value) for field, value in _fields(data) if field == _PIECE_FIELD and isinstance(value, bytes)]
    except (ValueError, IndexError) as error:
        raise CheckpointError(source, f"it is not a SentencePiece model ({error})", DAMAGED) from error
    if not found:
        raise CheckpointError(source, "it is not a SentencePiece model: it has no pieces", DAMAGED)
    return found


def _piece(data: bytes) -> Piece:
    values = dict(_fields(data))
    text, kind = values.get(_TEXT_FIELD, b""), values.get(_TYPE_FIELD, _NORMAL)
    if not isinstance(text, bytes):
        raise ValueError("a piece is not text")
    return Piece(text=text.decode(), is_text=kind not in (_UNKNOWN, _CONTROL, _UNUSED))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (number, value) for every field of a message."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == _BYTES:
            width, place = _varint(data, place)
        elif kind in _WIDTHS:
            width = _WIDTHS[kind]
        else:
            raise ValueError(f"a field of the unknown type {kind}")
        if place + width > len(data):
            raise ValueError("it ends within a field")
        yield number, data[place : place + width]
        place += width


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, _MOST_BITS, 7):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:  # noqa: PLR2004 - the highest bit: the number goes on
            return value, place
    raise ValueError("a number of more than 64 bits")
