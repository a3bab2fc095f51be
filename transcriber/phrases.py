"""Phrases that a user gives: read them from a file, and write them in the transcript as the user writes them."""

import bisect
import functools
import itertools
import json
import math
import os
import unicodedata
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
# Unicode's categories of punctuation, symbols and separators. Vowel signs (M) are none of them.
_PUNCTUATION = "PSZ"


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
    """Each spelling in lower case, its words separated as the model separates them, and the words that are written.

    Spellings of several words are there without punctuation around their words too.
    """
    ordered: Sequence[str]
    """The spellings of `written` in their order, where those that begin alike are neighbours."""
    longest: int
    """The largest number of words of a spelling."""

    def write(self, words: Sequence[Word]) -> list[Word]:
        """Return the words of a segment, with phrases as their user writes them; the longest spelling counts."""
        spoken = [_Spoken.of(word.content) for word in words]
        found: list[Word] = []
        place = 0
        while place < len(words):
            match = self._match(spoken, place)
            size = match.size if match else 1
            found += _written(words[place : place + size], match) if match else [words[place]]
            place += size
        return found

    def write_text(self, contents: Iterable[str]) -> str:
        """Return the text of words of the model, with phrases as their user writes them."""
        words = [Word(content=content, start_s=0.0, end_s=0.0, confidence=1.0) for content in contents]
        return self.tokens.word_separator.join(word.content for word in self.write(words))

    def border(self, contents: Sequence[str], wanted: int, *, closed: int, due: int) -> int:
        """Return how many words can be final without a cut in a phrase: `wanted`, fewer, or more where they are due.

        Words behind the first `closed` may still go on. Words before `due` cannot wait: a phrase that begins there is
        taken whole where all of it is known, and cut elsewhere.
        """
        spoken = [_Spoken.of(content) for content in contents]
        place = 0
        while place < wanted:
            match = self._match(spoken, place)
            size = match.size if match else 1
            if place >= due and (place + size > wanted or self._may_grow(spoken[place:], closed - place)):
                return place
            place += size
        return place if place <= closed else wanted

    def _may_grow(self, spoken: Sequence["_Spoken"], closed: int) -> bool:
        """Return whether words, of which all but the first `closed` may still go on, can be the begin of a spelling."""
        if len(spoken) > self.longest:
            return False
        separator = self.tokens.word_separator
        behind = separator if closed == len(spoken) else ""
        return any(not after and self._goes_on(text + behind) for _, text, after in _readings(spoken, separator))

    def _match(self, spoken: Sequence["_Spoken"], place: int) -> "_Match | None":
        """Return the longest spelling that begins with a word."""
        word = spoken[place]
        if word.is_plain and (text := word.text.lower()) not in self.written and not self._goes_on(text):
            return None
        for size in range(min(self.longest, len(spoken) - place), 0, -1):
            for before, text, after in _readings(spoken[place : place + size], self.tokens.word_separator):
                if text in self.written:
                    return _Match(size=size, before=before, contents=self.written[text], after=after)
        return None

    def _goes_on(self, text: str) -> bool:
        """Return whether a spelling begins with a text and is longer."""
        place = bisect.bisect_right(self.ordered, text)
        return place < len(self.ordered) and self.ordered[place].startswith(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Match:
    """Words that are a spelling: their number, what is written, and the punctuation around it."""

    size: int
    before: str
    contents: tuple[str, ...]
    after: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spoken:
    """A word of the model, and the places of its punctuation."""

    text: str
    first: int
    """Where the punctuation in front of it ends."""
    last: int
    """Where the punctuation behind it begins."""
    cuts: tuple[int, ...]
    """How many characters behind a spelling may not belong to it, as the search ends phrases: from punctuation on."""

    @classmethod
    def of(cls, text: str) -> "_Spoken":
        """Find the punctuation of a word."""
        size = len(text)
        marks = [unicodedata.category(character)[0] in _PUNCTUATION for character in text]
        if not any(marks) or all(marks):
            # A word without letters, such as `&`, is no punctuation of another one.
            return cls(text=text, first=0, last=size, cuts=(0,))
        first, last = marks.index(False), size - marks[::-1].index(False)
        cuts = (0, *(size - place for place in range(size - 1, first, -1) if marks[place]))
        return cls(text=text, first=first, last=last, cuts=cuts)

    @property
    def is_plain(self) -> bool:
        """Return whether it is a word without punctuation."""
        return not self.first and len(self.cuts) == 1

    @property
    def bare(self) -> str:
        """Return the word without the punctuation around it."""
        return self.text[self.first : self.last]


@functools.lru_cache(maxsize=32)
def spelled(phrases: tuple[Phrase, ...], tokens: TokenSpec, bonus: float = DEFAULT_BONUS) -> Phrases | None:
    """Return the phrases for a model with these tokens; None when there are none.

    Raises SettingError for a phrase that neither its content nor anything that it sounds like spells with the tokens.
    """
    if not phrases:
        return None
    known = _spellable(phrases, tokens)
    spellings = {
        spelling: unicodedata.normalize("NFC", phrase.content)
        for phrase in phrases
        # The content of a phrase without any is refused by name.
        for spelling in _spellings(phrase, known) or [phrase.content]
    }
    spoken = {tuple(units(spelling.lower(), tokens)): tuple(content.split()) for spelling, content in spellings.items()}
    written = {tokens.word_separator.join(words): contents for words, contents in spoken.items()}
    for words, contents in spoken.items():
        # One word may be another one without its punctuation: `c++`.
        if len(words) > 1:
            written.setdefault(tokens.word_separator.join(_Spoken.of(word).bare for word in words), contents)
    return Phrases(
        vocabulary=Vocabulary(spellings, tokens, bonus),
        tokens=tokens,
        written=MappingProxyType(written),
        ordered=sorted(written),
        longest=max(map(len, spoken)),
    )


def without_unspelled(phrases: Iterable[Phrase], tokens: TokenSpec) -> tuple[Phrase, ...]:
    """Return the phrases that the tokens spell, for protocols in which phrases are hints and none is refused."""
    listed = tuple(phrases)
    known = _spellable(listed, tokens)
    return tuple(phrase for phrase in listed if _spellings(phrase, known))


def _spellable(phrases: Iterable[Phrase], tokens: TokenSpec) -> set[str]:
    """Return the texts of phrases that the tokens spell, in all forms of Unicode."""
    return set(spellable((form for phrase in phrases for form in _forms(phrase)), tokens))


def _spellings(phrase: Phrase, known: Collection[str]) -> list[str]:
    """Return the spellings of a phrase that the tokens spell, its content last."""
    return [form for form in _forms(phrase) if form in known]


def _forms(phrase: Phrase) -> list[str]:
    """Return all that a phrase sounds like, and its content: as given, composed, decomposed.

    A Mac decomposes characters, and the tokens of a model have either form or both.
    """
    texts = (*phrase.sounds_like, phrase.content)
    forms = ((text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))) for text in texts)
    return list(dict.fromkeys(itertools.chain.from_iterable(forms)))


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
        if any(_is_surrogate(character) for text in texts for character in text):
            # JSON can have half of a surrogate pair, and no file that is written can.
            cause = "it has a phrase with a character that Unicode does not have"
            raise SettingError(subject, cause, "Write whole characters in place of half of a surrogate pair")
        phrases.append(Phrase(content=texts[0], sounds_like=tuple(texts[1:])))
    if len(phrases) > MOST_PHRASES:
        raise SettingError(subject, f"it has more than {MOST_PHRASES} phrases", "Keep those that matter most")
    return tuple(phrases)


def _is_surrogate(character: str) -> bool:
    return unicodedata.category(character) == "Cs"


def _json(text: str, subject: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingError(subject, f"it is not JSON ({error})", "Correct it") from error


def _readings(spoken: Sequence[_Spoken], separator: str) -> Iterator[tuple[str, str, str]]:
    """Yield what words may spell: punctuation in front, a text in lower case, punctuation behind; the longest first.

    Punctuation may belong to a spelling (`c++`) or not (`mckenna's`, `vox, right`).
    """
    last = len(spoken) - 1
    bare = [
        each.text[each.first if place else 0 : each.last if place < last else None] for place, each in enumerate(spoken)
    ]
    # The groups of a hypothesis may have one without letters.
    for text in dict.fromkeys(separator.join(filter(None, texts)) for texts in ([each.text for each in spoken], bare)):
        for begin in range(spoken[0].first + 1):
            for cut in spoken[-1].cuts:
                end = len(text) - cut
                yield text[:begin], text[begin:end].lower(), text[end:]


def _written(spoken: Sequence[Word], match: _Match) -> list[Word]:
    """Return the written words of a phrase, with the punctuation around it; their times share its time by letters."""
    contents, texts = match.contents, list(match.contents)
    # A phrase may have the punctuation that the model writes too.
    texts[0] = match.before + texts[0].removeprefix(match.before)
    texts[-1] = texts[-1].removesuffix(match.after) + match.after
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
