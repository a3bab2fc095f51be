"""Import an n-gram model in ARPA format, plain or compressed by gzip: of the tokens of a CTC head, or of words.

An n-gram of tokens is written with the text of each token, or as NeMo does, with the character of its number plus 100.
Words must be spelled by the tokens. A model of words numbers them in their order; the boundary of a text and the
unknown word follow.

Format: SRILM's ngram-format(5). Logarithms are to base 10.
"""

import base64
import contextlib
import gzip
import io
import lzma
import math
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract import digest
from contract.client import TokenSpec
from contract.errors import CheckpointError
from export.checkpoints.spelling import Speller

BEGIN, END, UNKNOWN = "<s>", "</s>", ("<unk>", "<UNK>")
LARGEST_ORDER = 10
LARGEST_NGRAMS = 4_000_000
LARGEST_TEXT = 512 << 20
"""In characters, since a small compressed file may hold any number of them."""
LARGEST_BYTES = 8 << 20
"""Of the encoded model, which every client receives when it connects."""
LARGEST_WORDS = 65_000
_LARGEST_LINE = 4_096
_GZIP_MAGIC = b"\x1f\x8b"
# NeMo writes the token of number n as the character of this number plus n.
_NEMO_OFFSET = 100
# A smaller part of the words is known, or spelled: those are other words.
_KNOWN_SHARE = 0.5
_REMEDY = "Export the model again, or copy the file again"
_PRUNE = "Prune it, for example with KenLM's --prune or SRILM's -prune"

# The layout that transcriber/ngram.py reads; tests compare the two.
_STEP_NATS = 0.25
_LARGEST_VOCABULARY = 65_535
_LARGEST_CODE, _ZERO_BACKOFF = 255, 128
_HEAD = struct.Struct("<4sHB")
_FILTERS = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}]

Gram = tuple[int, ...]
Table = dict[Gram, tuple[float, float]]
"""By n-gram: the log-probability of its last token and its back-off, in nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NgramModel:
    """An n-gram model for clients."""

    text: str
    """As contract.client.SearchSpec.ngram holds it."""
    tokens: TokenSpec
    """The given tokens, with the boundary of a model of tokens."""
    digest: str
    words: str | None = None
    """As contract.client.SearchSpec.words."""
    tokens_per_word: float = 1.0
    """The mean number of tokens of a word; 1 in a model of tokens."""
    remarks: tuple[str, ...] = ()


@dataclass(kw_only=True, slots=True)
class _Arpa:
    """What a file holds: n-grams of numbers, by order."""

    orders: list[Table] = field(default_factory=list)
    unknown_nats: float | None = None


def recognises(path: Path) -> bool:
    """Return whether a file begins as an ARPA file does."""
    if not path.is_file():
        return False
    try:
        with _open(path) as lines:
            return any(line.strip() == "\\data\\" for line, _ in zip(lines, range(64), strict=False))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, CheckpointError):
        return False


def read(path: Path, tokens: TokenSpec) -> NgramModel:
    """Return a model of the given tokens or of words; raise CheckpointError with the line that is wrong."""
    boundary = tokens.blank if tokens.boundary is None else tokens.boundary
    spoken = [number for number in range(len(tokens.pieces)) if number not in tokens.dropped and number != boundary]
    try:
        reader = _Reader(path, tokens, boundary)
        found = reader.read()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise CheckpointError(path, f"it is damaged ({_text(error)})", _REMEDY) from error
    if reader.words:
        return _of_words(path, tokens, found, reader)
    if len(tokens.pieces) > _LARGEST_VOCABULARY:
        cause = f"it is a model of {len(tokens.pieces)} tokens, and {_LARGEST_VOCABULARY} are possible"
        raise CheckpointError(path, cause, "Use a model of words, or leave the n-gram model out")
    missing = _add_missing_tokens(found, (boundary, *spoken))
    remark = (
        f"The n-gram model does not know {missing} of the {len(spoken)} tokens; they have the score of an unknown one."
    )
    return NgramModel(
        text=_text_of(path, found.orders, len(tokens.pieces)),
        tokens=replace(tokens, boundary=boundary),
        digest=digest.of_file(path),
        remarks=(remark,) if missing else (),
    )


def _of_words(path: Path, tokens: TokenSpec, found: _Arpa, reader: "_Reader") -> NgramModel:
    words = " ".join(reader.words)
    _add_missing_tokens(found, (reader.boundary, reader.unknown))
    shares = [math.exp(found.orders[0][(number,)][0]) for number in range(len(reader.words))]
    sizes = [reader.speller.size(word) for word in reader.words]
    mean = sum(share * size for share, size in zip(shares, sizes, strict=True)) / max(sum(shares), sys.float_info.min)
    remark = f"The n-gram model has {len(reader.words)} words"
    if reader.unspelled:
        remark += f"; the network's tokens do not spell {len(reader.unspelled)} more, such as {min(reader.unspelled)!r}"
    if reader.blanks:
        remark += f"; {len(reader.blanks)} with a blank in them are left out, such as {min(reader.blanks)!r}"
    return NgramModel(
        text=_text_of(path, found.orders, reader.unknown + 1, len(words.encode())),
        tokens=tokens,
        digest=digest.of_file(path),
        words=words,
        tokens_per_word=max(1.0, mean),
        remarks=(f"{remark}.",),
    )


def _text_of(path: Path, orders: list[Table], vocabulary: int, further_bytes: int = 0) -> str:
    _add_missing_prefixes(orders)
    data = _encode(orders, vocabulary)
    size = len(data) + further_bytes
    if size > LARGEST_BYTES:
        cause = f"it has {size >> 10} KiB for clients, and {LARGEST_BYTES >> 10} are possible"
        raise CheckpointError(path, cause, _PRUNE)
    return base64.b85encode(data).decode()


class _Reader:
    """Reads the lines of one file."""

    def __init__(self, path: Path, tokens: TokenSpec, boundary: int) -> None:
        self.path, self.tokens, self.boundary = path, tokens, boundary
        self.speller = Speller(tokens)
        self.words: tuple[str, ...] = ()
        """The words of a model of words."""
        self.unknown, self.unspelled = -1, set[str]()
        self.blanks: set[str] = set()
        """Words with a blank in them, or empty ones."""
        self.line = 0
        self.numbers: dict[str, int] = {}
        for number, piece in enumerate(tokens.pieces):
            self.numbers.setdefault(piece, number)
        self.found = _Arpa()

    def read(self) -> _Arpa:
        with _open(self.path) as lines:
            source = self._lines(lines)
            counts, heading = self._counts(source)
            for order, count in enumerate(counts, 1):
                if heading != f"\\{order}-grams:":
                    raise self._error(f"\\{order}-grams: is expected, and {heading!r} is there")
                rows, heading = self._rows(source)
                if len(rows) != count:
                    raise self._error(f"there are {len(rows)} n-grams of order {order}, and the head states {count}")
                line = self.line
                self._add(order, rows)
                self.line = line
            if heading != "\\end\\":
                raise self._error(f"\\end\\ is expected, and {heading!r} is there")
        return self.found

    def _lines(self, lines: Iterable[str]) -> Iterator[str]:
        size = 0
        for self.line, line in enumerate(lines, 1):
            size += len(line)
            if len(line) > _LARGEST_LINE:
                raise self._error(f"it has more than {_LARGEST_LINE} characters")
            if size > LARGEST_TEXT:
                cause = f"line {self.line}: the text is larger than {LARGEST_TEXT >> 20} MiB"
                raise CheckpointError(self.path, cause, _PRUNE)
            text = line.strip("\r\n")
            if text.strip():
                yield text
        self.line += 1

    def _counts(self, lines: Iterator[str]) -> tuple[list[int], str]:
        """Return the number of n-grams of each order, and the heading behind them."""
        for line in lines:
            if line.strip() == "\\data\\":
                break
        else:
            raise CheckpointError(self.path, "it is no ARPA file: \\data\\ is missing", _REMEDY)
        counts: list[int] = []
        for line in lines:
            if line.startswith("\\"):
                if not counts:
                    raise self._error("the number of n-grams is missing")
                return counts, line.strip()
            counts.append(self._count(line, len(counts) + 1))
            if sum(counts) > LARGEST_NGRAMS:
                cause = f"line {self.line}: it has {sum(counts)} n-grams, and {LARGEST_NGRAMS} are possible"
                raise CheckpointError(self.path, cause, _PRUNE)
        raise self._error("the file ends in its head")

    def _count(self, line: str, order: int) -> int:
        name, _, number = line.partition("=")
        if name.split() != ["ngram", str(order)] or not number.strip().isdecimal():
            raise self._error(f"'ngram {order}=<number>' is expected, and {line!r} is there")
        if order > LARGEST_ORDER:
            raise self._error(f"the order {order} is above {LARGEST_ORDER}")
        return int(number)

    def _rows(self, lines: Iterator[str]) -> tuple[list[tuple[int, str]], str]:
        """Return the lines of a section with their numbers, and the heading behind them."""
        rows: list[tuple[int, str]] = []
        for line in lines:
            if line.startswith("\\"):
                return rows, line.strip()
            if len(rows) >= LARGEST_NGRAMS:
                raise self._error(f"it has more than {LARGEST_NGRAMS} n-grams")
            rows.append((self.line, line))
        raise self._error("the file ends without \\end\\")

    def _add(self, order: int, rows: list[tuple[int, str]]) -> None:
        parsed = []
        for self.line, row in rows:
            parsed.append((self.line, *self._row(order, row)))
        if order == 1:
            self._learn_words([words[0] for _, words, _, _ in parsed])
        table: Table = {}
        for self.line, words, log_prob, backoff in parsed:
            if order == 1 and words[0] in UNKNOWN:
                self.found.unknown_nats = log_prob
            numbers = self._numbers_of(words)
            if numbers is None:
                continue
            if words == [BEGIN]:
                # Its probability means nothing; its back-off is that of the begin of a text.
                table[numbers] = (table.get(numbers, (0.0, 0.0))[0], backoff)
            elif words == [END]:
                table[numbers] = (log_prob, table.get(numbers, (0.0, 0.0))[1])
            elif numbers in table:
                raise self._error(f"the n-gram {' '.join(words)!r} is there twice")
            else:
                table[numbers] = (log_prob, backoff)
        self.found.orders.append(table)

    def _row(self, order: int, row: str) -> tuple[list[str], float, float]:
        fields = row.split("\t") if "\t" in row else [each for each in row.split(" ") if each]
        words = fields[1].split(" ") if "\t" in row and len(fields) > 1 else fields[1 : 1 + order]
        rest = fields[2:] if "\t" in row else fields[1 + order :]
        if len(words) != order or len(rest) > 1:
            raise self._error(f"it is no n-gram of order {order}: {row!r}")
        log_prob, backoff = self._number(fields[0]), self._number(rest[0]) if rest else 0.0
        if log_prob > 0:
            raise self._error(f"{fields[0]} is no logarithm of a probability")
        return words, log_prob, backoff

    def _number(self, text: str) -> float:
        """Return a logarithm to base 10 in nats."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._error(f"{text!r} is not a number")
        return value * math.log(10.0)

    def _learn_words(self, words: list[str]) -> None:
        """Find how the file writes tokens, or that it is one of words; raise CheckpointError for words not spelled."""
        own = [word for word in words if word not in (BEGIN, END, *UNKNOWN)]
        known = sum(word in self.numbers for word in own)
        count = len(self.tokens.pieces)
        as_characters = own and all(len(word) == 1 and 0 <= ord(word) - _NEMO_OFFSET < count for word in own)
        if as_characters and known < len(own):
            self.numbers = {chr(number + _NEMO_OFFSET): number for number in range(count)}
        elif known < _KNOWN_SHARE * len(own):
            self._number_words(own)

    def _number_words(self, own: list[str]) -> None:
        # Clients receive the words separated by blanks: one with a blank of Unicode would shift all that follow.
        self.blanks = {word for word in own if word.split() != [word]}
        self.unspelled = {word for word in {*own} - self.blanks if self.speller.size(word) == math.inf}
        self.words = tuple(sorted({*own} - self.unspelled - self.blanks))
        if len(self.words) < _KNOWN_SHARE * len(own):
            cause = (
                f"the network's tokens do not spell most of its words, such as {min(self.unspelled | self.blanks)!r}"
            )
            remedy = "Train it on text as the network writes it, for example in the same case"
            raise CheckpointError(self.path, cause, remedy)
        if len(self.words) > LARGEST_WORDS:
            cause = f"it has {len(self.words)} words, and {LARGEST_WORDS} are possible"
            raise CheckpointError(self.path, cause, "Leave out rare words")
        self.numbers = {word: number for number, word in enumerate(self.words)}
        self.boundary, self.unknown = len(self.words), len(self.words) + 1

    def _numbers_of(self, words: list[str]) -> Gram | None:
        """Return the numbers of an n-gram; None for one that no hypothesis contains."""
        found = []
        for place, word in enumerate(words):
            if (word == BEGIN and place == 0) or (word == END and place == len(words) - 1):
                found.append(self.boundary)
            elif word in (BEGIN, END):
                raise self._error(f"{word} is inside an n-gram")
            elif word in UNKNOWN and self.words:
                found.append(self.unknown)
            elif word in UNKNOWN or word in self.unspelled or word in self.blanks:
                return None
            elif word not in self.numbers:
                known = "word of its order 1" if self.words else "token of the network"
                raise self._error(f"{word!r} is not a {known}")
            elif not self.words and self._is_not_text(self.numbers[word]):
                return None
            else:
                found.append(self.numbers[word])
        return tuple(found)

    def _is_not_text(self, number: int) -> bool:
        return number in self.tokens.dropped or number == self.boundary

    def _error(self, cause: str) -> CheckpointError:
        return CheckpointError(self.path, f"line {self.line}: {cause}", _REMEDY)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Iterator[str]]:
    """Open a file, plain or compressed; the context is its lines."""
    with path.open("rb") as file:
        is_compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        yield _text_lines(gzip.GzipFile(fileobj=file) if is_compressed else file)


def _text_lines(data: gzip.GzipFile | io.BufferedReader) -> Iterator[str]:
    # With a limit, since a compressed file may hold a line that fills the memory. Editors begin a file with a mark.
    encoding = "utf-8-sig"
    while line := data.readline(2 * _LARGEST_LINE):
        yield line.decode(encoding)
        encoding = "utf-8"


def _add_missing_tokens(found: _Arpa, tokens: Iterable[int]) -> int:
    """Add an n-gram of order 1 for every token without one; return how many they are."""
    table = found.orders[0]
    smallest = -_STEP_NATS * _LARGEST_CODE
    missing = [token for token in tokens if (token,) not in table]
    for token in missing:
        table[(token,)] = (smallest if found.unknown_nats is None else found.unknown_nats, 0.0)
    return len(missing)


def _add_missing_prefixes(orders: list[Table]) -> None:
    """Add each n-gram that a longer one begins with, with the score that it has by backing off."""
    for order in range(len(orders), 1, -1):
        for gram in {gram[:-1] for gram in orders[order - 1]} - orders[order - 2].keys():
            orders[order - 2][gram] = (_backed_off(orders, gram), 0.0)


def _backed_off(orders: list[Table], gram: Gram) -> float:
    total = 0.0
    while gram not in orders[len(gram) - 1]:
        past = gram[:-1]
        total += orders[len(past) - 1].get(past, (0.0, 0.0))[1]
        gram = gram[1:]
    return total + orders[len(gram) - 1][gram][0]


def _encode(orders: list[Table], vocabulary: int) -> bytes:
    kept = [table for table in orders if table]
    kind = np.dtype(np.uint8 if vocabulary <= _LARGEST_CODE + 1 else "<u2")
    columns: list[bytes] = []
    for place, table in enumerate(kept):
        grams = sorted(table)
        columns += [
            np.array([gram[-1] for gram in grams], dtype=kind).tobytes(),
            _codes([-table[gram][0] for gram in grams]),
        ]
        if place < len(kept) - 1:
            children = dict.fromkeys(grams, 0)
            for gram in kept[place + 1]:
                children[gram[:-1]] += 1
            columns += [
                np.array(list(children.values()), dtype=kind).tobytes(),
                _codes([table[gram][1] for gram in grams if children[gram]], _ZERO_BACKOFF),
            ]
    sizes = np.array([len(table) for table in kept], dtype="<u4")
    head = _HEAD.pack(b"VXN1", vocabulary, len(kept)) + sizes.tobytes()
    return head + lzma.compress(b"".join(columns), format=lzma.FORMAT_RAW, filters=_FILTERS)


def _codes(values: list[float], zero: int = 0) -> bytes:
    steps: NDArray[np.float64] = np.rint(np.array(values) / _STEP_NATS) + zero
    return np.clip(steps, 0, _LARGEST_CODE).astype(np.uint8).tobytes()


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
