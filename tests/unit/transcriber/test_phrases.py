"""Phrases of a user: how they are read, which are rejected, and how the transcript has them."""

import json
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from contract.client import CHARACTERS, TokenSpec
from contract.errors import SettingError
from transcriber import phrases
from transcriber.phrases import MOST_PHRASES, MOST_SPELLINGS, Phrase
from transcriber.transcript import Word

PIECES = ("<blank>", "▁", *"abcdefghijklmnopqrstuvwxyz", "'")
LETTERS = TokenSpec(pieces=PIECES, blank=0)
VOXWRIGHT = Phrase(content="Voxwright", sounds_like=("vox right", "voks rite"))


def word(content: str, start_s: float = 0.0, end_s: float = 1.0, confidence: float = 0.5) -> Word:
    return Word(content=content, start_s=start_s, end_s=end_s, confidence=confidence)


def written(found: list[Word], *listed: Phrase) -> list[str]:
    spelled = phrases.spelled(listed, LETTERS)
    assert spelled is not None
    return [each.content for each in spelled.write(found)]


def test_reads_a_phrase_a_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# people\n\nVoxwright = vox right, voks  rite\n  New   York \n", encoding="utf-8")
    assert phrases.read(path) == (VOXWRIGHT, Phrase(content="New York"))


def test_reads_additional_vocab(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    value = ["New York", {"content": "Voxwright", "sounds_like": ["vox right", "voks rite"]}, {"content": "GPU"}]
    path.write_text(json.dumps(value), encoding="utf-8")
    assert phrases.read(path) == (Phrase(content="New York"), VOXWRIGHT, Phrase(content="GPU"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "it is not a list. Write a list of phrases"),
        ("[1]", "[0]: it is not a phrase. Write a string, or an object such as"),
        ('[{"content": "a", "weight": 2}]', "[0]: it is not a phrase"),
        ('[{"content": "a", "sounds_like": "b"}]', "[0].sounds_like: it is not a list of strings"),
        ('["  "]', "it has an empty phrase. Write phrases of 1 to 100 characters"),
        (json.dumps(["a" * 101]), "it has a phrase of 101 characters"),
        (json.dumps(["a"] * (MOST_PHRASES + 1)), "it has more than 1000 phrases. Keep those that matter most"),
        (
            json.dumps([{"content": "a", "sounds_like": ["b"] * 99}] * (MOST_SPELLINGS // 100) + ["a"]),
            "its phrases have more than 4000 spellings, with all that they sound like. Keep those that matter most",
        ),
        (r'["\ud83d"]', "it has a phrase with a character that Unicode does not have. Write whole characters"),
        (r'[{"content": "a", "sounds_like": ["\ud83d"]}]', "it has a phrase with a character that Unicode does not"),
        ("[", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
    ],
)
def test_rejects_malformed_list(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "names.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError) as raised:
        phrases.read(path)
    assert sentence in str(raised.value)
    assert str(raised.value).startswith(f"--vocabulary {path}")


def test_reads_the_largest_list(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("a = b, c, d\n" * MOST_PHRASES, encoding="utf-8")
    assert sum(1 + len(each.sounds_like) for each in phrases.read(path)) == MOST_SPELLINGS


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file or directory"), (b"\xff\xfe\x00", "it is not UTF-8")]
)
def test_rejects_unreadable_file(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=rf"it cannot be read \({reason}\)"):
        phrases.read(path)


def test_writes_phrases_as_given() -> None:
    found = [word("we"), word("love"), word("voxwright")]
    assert written(found, VOXWRIGHT) == ["we", "love", "Voxwright"]


def test_keeps_punctuation_around_a_phrase() -> None:
    assert written([word("(vox"), word("right),")], VOXWRIGHT) == ["(Voxwright),"]


def test_writes_phrases_of_a_language_without_blanks() -> None:
    """The words of such a model are its tokens: single characters, or several."""
    pieces = ("<b>", "と", "う", "き", "ょ", "へ", "東", "京", "とう")
    tokens = TokenSpec(pieces=pieces, blank=0, style=CHARACTERS, word_separator="")
    tokyo = phrases.spelled((Phrase(content="東京", sounds_like=("とうきょう",)),), tokens)
    assert tokyo is not None
    for spoken in ("とうきょうへ", ("とう", "き", "ょ", "う", "へ")):
        assert [found.content for found in tokyo.write(list(map(word, spoken)))] == ["東京", "へ"]
    assert tokyo.write_text("とうきょうへ") == "東京へ"
    assert tokyo.write_text("うきょう") == "うきょう"


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [
        ("mckenna's and mckenna", "McKenna's and McKenna"),
        ("vox right's results", "Voxwright's results"),
        ("a (voxwright-based) search", "a (Voxwright-based) search"),
        ("vox, right", "Voxwright"),
        ("mckennas", "mckennas"),
    ],
)
def test_phrase_ends_before_punctuation(spoken: str, expected: str) -> None:
    """As in the search, which gives the phrase its bonus there."""
    assert written(list(map(word, spoken.split())), VOXWRIGHT, Phrase(content="McKenna")) == expected.split()


@pytest.mark.parametrize(
    ("content", "spoken", "expected"),
    [
        ("Rock 'n' Roll", "rock 'n' roll", "Rock 'n' Roll"),
        ("Rock 'n' Roll", "rock n roll,", "Rock 'n' Roll,"),
        ("'Ndrangheta", "'ndrangheta's", "'Ndrangheta's"),
        ("Yahoo!", "yahoo!", "Yahoo!"),
        ("C++", "in c++, not c", "in C++, not c"),
        (".NET", "(.net)", "(.NET)"),
        ("U.S.", "u.s.", "U.S."),
        ("Acme Inc.", "acme inc. acme inc", "Acme Inc. Acme Inc."),
        ("St. Moritz", "st. moritz.", "St. Moritz."),
        ("AT&T", "at&t", "AT&T"),
        ("R & D", "r & d", "R & D"),
    ],
)
def test_writes_phrases_with_punctuation_as_given(content: str, spoken: str, expected: str) -> None:
    tokens = TokenSpec(pieces=("<b>", "▁", *"abcdefghijklmnopqrstuvwxyz'.,+!-&()"), blank=0)
    spelled = phrases.spelled((Phrase(content=content),), tokens)
    assert spelled is not None
    assert spelled.write_text(spoken.split()) == expected


@pytest.mark.parametrize("spoken", ["दिल्ली", "मुंबई", "राजू", "ที่"])
def test_vowel_signs_are_no_punctuation(spoken: str) -> None:
    """Thai is written without blanks, and a word of such a model may be a vowel sign."""
    is_thai = spoken == "ที่"
    tokens = TokenSpec(pieces=("<b>", "▁", *sorted(set(spoken))), blank=0, word_separator="" if is_thai else " ")
    spelled = phrases.spelled((Phrase(content="X", sounds_like=(spoken,)),), tokens)
    assert spelled is not None
    assert spelled.write_text(spoken if is_thai else [spoken]) == "X"


def test_takes_the_longest_spelling() -> None:
    found = [word("new"), word("york"), word("city"), word("new"), word("york")]
    listed = (Phrase(content="New York"), Phrase(content="NYC", sounds_like=("new york city",)))
    assert written(found, *listed) == ["NYC", "New", "York"]


def test_shares_the_time_of_a_phrase_by_letters() -> None:
    spelled = phrases.spelled((Phrase(content="See IO", sounds_like=("seeayo",)),), LETTERS)
    assert spelled is not None
    first, second = spelled.write([word("seeayo", 1.0, 6.0, 0.25)])
    assert (first.content, first.start_s, first.end_s) == ("See", 1.0, 4.0)
    assert (second.content, second.start_s, second.end_s) == ("IO", 4.0, 6.0)
    assert first.confidence == second.confidence == pytest.approx(0.25)


def test_joins_words_into_one() -> None:
    spelled = phrases.spelled((VOXWRIGHT,), LETTERS)
    assert spelled is not None
    (one,) = spelled.write([word("voks", 1.0, 1.4, 0.25), word("rite", 1.5, 2.0, 1.0)])
    assert (one.content, one.start_s, one.end_s) == ("Voxwright", 1.0, 2.0)
    assert one.confidence == pytest.approx(0.5)


def test_content_needs_no_tokens_when_something_sounds_like_it() -> None:
    covid = Phrase(content="COVID-19", sounds_like=("covid nineteen",))
    assert written([word("covid"), word("nineteen")], covid) == ["COVID-19"]
    with pytest.raises(SettingError, match="no tokens of the model spell the phrase 'COVID-19': none has '-'"):
        phrases.spelled((Phrase(content="COVID-19"),), LETTERS)


def test_spellings_that_the_model_cannot_write_cost_no_phrase() -> None:
    given = Phrase(content="Voxwright", sounds_like=("vox-right", "vox right"))
    assert written([word("vox"), word("right"), word("voxwright")], given) == ["Voxwright", "Voxwright"]
    only = Phrase(content="Voxwright", sounds_like=("vox-right",))
    assert written([word("voxwright")], only) == ["Voxwright"]
    lost = Phrase(content="COVID-19", sounds_like=("covid 19",))
    assert phrases.without_unspelled([given, only, lost], LETTERS) == (given, only)
    with pytest.raises(SettingError, match="no tokens of the model spell the phrase 'COVID-19'"):
        phrases.spelled((given, lost), LETTERS)


@pytest.mark.parametrize("of_model", ["NFC", "NFD"])
@pytest.mark.parametrize("of_file", ["NFC", "NFD"])
def test_takes_both_forms_of_unicode(of_model: Literal["NFC", "NFD"], of_file: Literal["NFC", "NFD"]) -> None:
    """A Mac decomposes characters; the transcript has them composed, as almost all texts have."""
    spoken = unicodedata.normalize(of_model, "zoë")
    tokens = TokenSpec(pieces=("<b>", "▁", *sorted(set(spoken))), blank=0)
    given = (Phrase(content=unicodedata.normalize(of_file, "Zoë")),)
    assert phrases.without_unspelled(given, tokens) == given
    spelled = phrases.spelled(given, tokens)
    assert spelled is not None
    assert spelled.write_text([spoken]) == unicodedata.normalize("NFC", "Zoë")


@pytest.mark.parametrize(
    ("spoken", "wanted", "closed", "due", "expected"),
    [
        ("we like new york", 3, 4, 0, 2),  # the whole phrase becomes final later
        ("we like new york", 3, 4, 3, 4),  # and now, as its first word cannot wait
        ("we like new york", 3, 3, 3, 3),  # which cuts it where its last word may still go on
        ("we like new yo", 3, 3, 2, 2),  # a word may go on to that of a phrase
        ("we like new yo", 3, 4, 2, 3),
        ("we like new", 3, 3, 2, 2),
        ("we like new", 3, 3, 3, 3),
        ("new york new york", 3, 4, 0, 2),
        ("new york new york", 2, 4, 0, 2),
        ("new new york", 2, 3, 0, 1),
        ("(new york), we", 1, 3, 0, 0),
        ("we like you", 2, 3, 0, 2),
        ("", 0, 0, 0, 0),
    ],
)
def test_finds_border_that_cuts_no_phrase(spoken: str, wanted: int, closed: int, due: int, expected: int) -> None:
    spelled = phrases.spelled((Phrase(content="New York"), Phrase(content="Paris")), LETTERS)
    assert spelled is not None
    assert spelled.border(spoken.split(), wanted, closed=closed, due=due) == expected


def test_no_phrases_change_nothing() -> None:
    assert phrases.spelled((), LETTERS) is None
