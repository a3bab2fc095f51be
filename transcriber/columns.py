"""Measure text by the columns that it takes on a screen, and cut it by them."""

import unicodedata


def width(text: str) -> int:
    """Return the columns of a text: 2 for a wide character, as those of Chinese; 0 for a mark on another one."""
    return len(text) if text.isascii() else sum(map(_width, text))


def tail(text: str, columns: int) -> str:
    """Return the end of a text that fits in so many columns."""
    begin, left = len(text), columns
    while begin and _width(text[begin - 1]) <= left:
        begin -= 1
        left -= _width(text[begin])
    while begin < len(text) and not _width(text[begin]):
        begin += 1  # a mark on a character that is cut off
    return text[begin:]


def one_line(text: str) -> str:
    """Return a text with single blanks in place of line breaks and other white space."""
    return " ".join(text.split())


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
