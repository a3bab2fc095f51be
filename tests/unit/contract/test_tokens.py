"""Collapse of CTC paths, and the text of tokens."""

import pytest

from contract.tokens import BLANK, collapse, spell

PIECES = ("<blank>", "<unk>", "</s>", "▁new", "▁s", "on", "s")


@pytest.mark.parametrize(
    ("path", "tokens"),
    [
        ((), ()),
        ((0, 0, 0), ()),
        ((3, 3, 0, 4, 4, 5), (3, 4, 5)),
        ((6, 6, 0, 6), (6, 6)),
        ((3, 1, 1, 3, 2), (3, 3)),
    ],
)
def test_collapse(path: tuple[int, ...], tokens: tuple[int, ...]) -> None:
    assert collapse(path) == tokens


def test_collapse_keeps_what_is_not_dropped() -> None:
    assert collapse((3, 1, 1, 0, 2), dropped=(BLANK,)) == (3, 1, 2)


def test_spell() -> None:
    assert spell((4, 3, 4, 5), PIECES) == "s new son"
    assert spell((3, 4, 5, 6), PIECES) == "new sons"
    assert spell((), PIECES) == ""
