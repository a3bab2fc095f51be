"""Phrases that a user gives: read them from a file, and write them in the transcript as the user writes them."""

import functools
import itertools
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from contract.client import TokenSpec
from contract.errors import SettingError
from contract.tokens import units
from transcriber.transcript import Word
from transcriber.vocabulary import DEFAULT_BONUS, Vocabulary, spellable

MOST_PHRASES = 1_000
"""The limit of other products too: the more phrases, the more sound like other words."""
LONGEST_PHRASE = 100
MOST_SPELLINGS = 4_000
"""All phrases and all that they sound like: with the longest ones, a second and 20 MB before the first word."""
_PUNCTUATION = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrase:
    """A name or term as it is written in the transcript, and other spellings that sound like it."""

    content: str
    sounds_like: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Phrases:
    """Phrases, spelled with the tokens of one model."""

    vocabulary: Vocabulary
    tokens: TokenSpec
    written: Mapping[str, tuple[str, ...]]
    """Each spelling in lower case, its words separated as the model separates them, and the words that are written."""
    longest: int
    """The largest number of words of a spelling."""

    def write(self, words: Sequence[Word]) -> list[Word]:
        """Return the words of a segment, with phrases as their user writes them; the longest spelling counts."""
        spoken = [_PUNCTUATION.match(word.content.lower()) for word in words]
        bare = [match.group(2) if match else "" for match in spoken]
        found: list[Word] = []
        place = 0
        while place < len(words):
            sizes = range(min(self.longest, len(words) - place), 0, -1)
            texts = ((size, _joined(bare[place : place + size], self.tokens)) for size in sizes)
            size, contents = next(((size, self.written[text]) for size, text in texts if text in self.written), (0, ()))
            found += _written(words[place : place + size], contents) if size else [words[place]]
            place += size or 1
        return found

    def write_text(self, text: str) -> str:
        """Return a text of the model, with phrases as their user writes them."""
        words = [Word(content=each, start_s=0.0, end_s=0.0, confidence=1.0) for each in units(text, self.tokens)]
        return self.tokens.word_separator.join(word.content for word in self.write(words))


@functools.lru_cache(maxsize=32)
def spelled(phrases: tuple[Phrase, ...], tokens: TokenSpec, bonus: float = DEFAULT_BONUS) -> Phrases | None:
    """Return the phrases for a model with these tokens; None when there are none.

    Raises SettingError for a phrase that neither its content nor anything that it sounds like spells with the tokens.
    """
    if not phrases:
        return None
    known = _spellable(phrases, tokens)
    spellings = {spelling: phrase.content for phrase in phrases for spelling in _spellings(phrase, known)}
    spoken = {tuple(units(spelling.lower(), tokens)): content.split() for spelling, content in spellings.items()}
    return Phrases(
        vocabulary=Vocabulary(spellings, tokens, bonus),
        tokens=tokens,
        written=MappingProxyType({_joined(words, tokens): tuple(contents) for words, contents in spoken.items()}),
        longest=max(map(len, spoken)),
    )


def without_unspelled(phrases: Iterable[Phrase], tokens: TokenSpec) -> tuple[Phrase, ...]:
    """Return the phrases that the tokens spell, for protocols in which phrases are hints and none is refused."""
    listed = tuple(phrases)
    known = _spellable(listed, tokens)
    return tuple(phrase for phrase in listed if known.issuperset(phrase.sounds_like or (phrase.content,)))


def _spellable(phrases: Iterable[Phrase], tokens: TokenSpec) -> set[str]:
    """Return the texts of phrases that the tokens spell."""
    return set(spellable((text for phrase in phrases for text in (phrase.content, *phrase.sounds_like)), tokens))


def read(path: Path) -> tuple[Phrase, ...]:
    """Read phrases from a file: a phrase a line, or JSON as the field additional_vocab of Speechmatics has it.

    In a line, `=` and commas separate what the phrase sounds like: `Voxwright = vox right, voks rite`. Empty lines and
    lines that begin with `#` are left out. Raises SettingError when the file cannot be read or is no such list.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingError(
            f"--vocabulary {os.fspath(path)}", f"it cannot be read ({reason})", "Name a text file in UTF-8"
        ) from error
    subject = f"--vocabulary {path}"
    return parse_json(_json(text, subject), subject) if path.suffix == ".json" else _parse_lines(text, subject)


def parse_json(value: object, subject: str) -> tuple[Phrase, ...]:
    """Return the phrases of a list of strings and of objects with `content` and perhaps `sounds_like`.

    Raises SettingError with `subject` for everything else.
    """
    if not isinstance(value, list):
        raise SettingError(subject, "it is not a list", "Write a list of phrases")
    return _checked((_parse_entry(each, f"{subject}[{place}]") for place, each in enumerate(value)), subject)


def _parse_entry(entry: object, subject: str) -> Phrase:
    if isinstance(entry, str):
        return Phrase(content=entry)
    fields = {"content", "sounds_like"}
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str) or not entry.keys() <= fields:
        remedy = 'Write a string, or an object such as {"content": "Voxwright", "sounds_like": ["vox right"]}'
        raise SettingError(subject, "it is not a phrase", remedy)
    alike = entry.get("sounds_like", [])
    if not isinstance(alike, list) or not all(isinstance(each, str) for each in alike):
        raise SettingError(f"{subject}.sounds_like", "it is not a list of strings", "Write a list of spellings")
    return Phrase(content=entry["content"], sounds_like=tuple(alike))


def _parse_lines(text: str, subject: str) -> tuple[Phrase, ...]:
    lines = (line.strip() for line in text.splitlines())
    return _checked((_parse_line(line) for line in lines if line and not line.startswith("#")), subject)


def _parse_line(line: str) -> Phrase:
    content, _, alike = line.partition("=")
    return Phrase(content=content, sounds_like=tuple(each for each in alike.split(",") if each.strip()))


def _checked(found: Iterator[Phrase], subject: str) -> tuple[Phrase, ...]:
    phrases, spellings = [], 0
    for phrase in itertools.islice(found, MOST_PHRASES + 1):
        spellings += 1 + len(phrase.sounds_like)
        if spellings > MOST_SPELLINGS:
            cause = f"its phrases have more than {MOST_SPELLINGS} spellings, with all that they sound like"
            raise SettingError(subject, cause, "Keep those that matter most")
        texts = [" ".join(text.split()) for text in (phrase.content, *phrase.sounds_like)]
        wrong = next((text for text in texts if not 0 < len(text) <= LONGEST_PHRASE), None)
        if wrong is not None:
            cause = f"it has a phrase of {len(wrong)} characters" if wrong else "it has an empty phrase"
            raise SettingError(subject, cause, f"Write phrases of 1 to {LONGEST_PHRASE} characters")
        phrases.append(Phrase(content=texts[0], sounds_like=tuple(texts[1:])))
    if len(phrases) > MOST_PHRASES:
        raise SettingError(subject, f"it has more than {MOST_PHRASES} phrases", "Keep those that matter most")
    return tuple(phrases)


def _json(text: str, subject: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingError(subject, f"it is not JSON ({error})", "Correct it") from error


def _spellings(phrase: Phrase, known: Collection[str]) -> list[str]:
    """Return the spellings of a phrase; its content is not one if no tokens spell it and something sounds like it."""
    content = [] if phrase.sounds_like and phrase.content not in known else [phrase.content]
    return [*phrase.sounds_like, *content]


def _joined(words: Sequence[str], tokens: TokenSpec) -> str:
    return tokens.word_separator.join(words)


def _written(spoken: Sequence[Word], contents: Sequence[str]) -> list[Word]:
    """Return the written words of a phrase, with the punctuation around it; their times share its time by letters."""
    before, after = (_PUNCTUATION.match(spoken[place].content) for place in (0, -1))
    texts = list(contents)
    texts[0] = (before.group(1) if before else "") + texts[0]
    texts[-1] += after.group(3) if after else ""
    if len(texts) == len(spoken):
        return [replace(word, content=text) for word, text in zip(spoken, texts, strict=True)]
    start_s, length_s = spoken[0].start_s, spoken[-1].end_s - spoken[0].start_s
    ends = list(itertools.accumulate(map(len, contents), initial=0))
    times = [start_s + length_s * end / ends[-1] for end in ends]
    confidence = math.exp(sum(math.log(max(word.confidence, 1e-9)) for word in spoken) / len(spoken))
    return [
        Word(content=text, start_s=begin, end_s=end, confidence=confidence)
        for text, (begin, end) in zip(texts, itertools.pairwise(times), strict=True)
    ]
