"""Read the field additional_vocab, which batch jobs and real time have in common."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from contract.client import TokenSpec
from transcriber import phrases
from transcriber.phrases import LONGEST_PHRASE, MOST_PHRASES, MOST_SPELLINGS, Phrase

_NAMED_PHRASES = 5
Text = Annotated[str, Field(min_length=1, max_length=LONGEST_PHRASE, pattern=r"\S")]


class VocabularyPhrase(BaseModel):
    """A name or term, and what it sounds like."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    content: Text
    sounds_like: list[Text] = []


def _limited(entries: list[str | VocabularyPhrase]) -> list[str | VocabularyPhrase]:
    spellings = sum(1 if isinstance(entry, str) else 1 + len(entry.sounds_like) for entry in entries)
    if spellings > MOST_SPELLINGS:
        sentence = (
            f"the phrases have {spellings} spellings, with all that they sound like; send at most {MOST_SPELLINGS}"
        )
        raise PydanticCustomError("too_many_spellings", "{sentence}", {"sentence": sentence})
    return entries


AdditionalVocabulary = Annotated[
    list[Text | VocabularyPhrase], Field(max_length=MOST_PHRASES), AfterValidator(_limited)
]


def phrases_of(entries: Iterable[str | VocabularyPhrase | dict[str, Any]]) -> tuple[Phrase, ...]:
    """Return checked entries as phrases for the search, without repetitions; entries may be stored ones."""
    found = dict.fromkeys(_phrase(entry) for entry in entries)
    return tuple(found)


def used(given: tuple[Phrase, ...], tokens: TokenSpec) -> tuple[tuple[Phrase, ...], str | None]:
    """Return the phrases that the tokens spell, and a sentence that names the others; None where there are none."""
    kept = phrases.without_unspelled(given, tokens)
    lost = [phrase.content for phrase in given if phrase not in kept]
    if not lost:
        return kept, None
    named = ", ".join(map(repr, lost[:_NAMED_PHRASES])) + (", ..." if len(lost) > _NAMED_PHRASES else "")
    count = "1 phrase is" if len(lost) == 1 else f"{len(lost)} phrases are"
    return kept, f"no tokens of the model spell {named}; {count} not used"


def _phrase(entry: str | VocabularyPhrase | dict[str, Any]) -> Phrase:
    match entry:
        case str():
            return Phrase(content=_plain(entry))
        case VocabularyPhrase():
            return Phrase(content=_plain(entry.content), sounds_like=tuple(map(_plain, entry.sounds_like)))
        case _:
            return _phrase(VocabularyPhrase.model_validate(entry))


def _plain(text: str) -> str:
    return " ".join(text.split())
