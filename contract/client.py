"""Define what a client must know about the weights of a model: ClientSpec, one JSON text with a schema version.

Each model has the sections that its network decides: an encoder `audio`, a CTC head `tokens` and `search`, a speaker
network `speaker`. The spec is part of the checkpoint, the export record and the manifest. On the server it is the
parameter `client` of the model's configuration. That of an ensemble holds the sections of all its models.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from contract.errors import VoxwrightError
from contract.fields import Fields, json_value

PARAMETER = "client"
"""The name of the parameter in a Triton configuration."""
BATCHING_PARAMETER, NO_BATCHING = "batching", "none"
"""The parameter of a model whose server never joins requests to a batch, so that clients need not pad to buckets."""
SCHEMA_VERSION = 1
MASKED, EXACT = PADDINGS = ("masked", "exact")
WINDOWS, SEGMENTS = UNITS = ("windows", "segments")
SENTENCEPIECE, DELIMITER, CHARACTERS = STYLES = ("sentencepiece", "delimiter", "characters")
_LONGEST_S = 86_400.0
# The rates that the voice activity detector of clients takes.
SAMPLE_RATES_HZ = (8_000, 16_000, 32_000, 48_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioSpec:
    """The audio that a network takes, and the times of the frames that it makes."""

    sample_rate_hz: int
    shortest_samples: int
    """The smallest number of samples that makes an encoder frame."""
    hop_s: float
    """Seconds from one encoder frame to the next."""
    first_centre_s: float
    """The second that the first encoder frame is centred on."""
    padding: str = MASKED
    """`masked`: a padded item has the result that it has alone. `exact`: it has not, so that a request holds one item
    or items of equal lengths, without padding."""

    def frames(self, samples: int) -> int:
        """Return the number of encoder frames of a number of samples."""
        hop = round(self.hop_s * self.sample_rate_hz)
        return 0 if samples < self.shortest_samples else (samples - self.shortest_samples) // hop + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSpec:
    """The tokens of a CTC head and how they spell words."""

    pieces: tuple[str, ...]
    """The text of every token."""
    blank: int
    unspoken: tuple[int, ...] = ()
    """Further tokens that are not text. No hypothesis contains one."""
    boundary: int | None = None
    """The token that stands for the begin and the end of a text in the n-gram model; None without such a model."""
    style: str = SENTENCEPIECE
    """`sentencepiece`: a piece that begins with U+2581 begins a word. `delimiter`: the piece `delimiter` separates
    words. `characters`: every piece is a word, and the bytes of a character are one."""
    delimiter: str = "|"
    word_separator: str = " "
    """What stands between two words of a transcript; empty for languages that are written without spaces."""

    @property
    def dropped(self) -> frozenset[int]:
        """Return the tokens that no hypothesis contains."""
        return frozenset((self.blank, *self.unspoken))


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """From the probability of a word to its confidence: log-odds are multiplied by `slope`, then `offset` is added."""

    slope: float
    offset: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpec:
    """The weights of a search: how much the n-gram model and the rescorers count."""

    ngram_weight: float = 0.0
    token_bonus: float = 0.0
    """What each token adds to the score of a hypothesis, in the unit of a log-probability."""
    rescorers: dict[str, float] = field(default_factory=dict)
    """The weight of each rescoring model, by its role, in a search without n-gram model."""
    rescorers_with_ngram: dict[str, float] = field(default_factory=dict)
    ngram: str | None = None
    """The n-gram model in base 85 (transcriber/ngram.py); None where there is none."""
    words: str | None = None
    """The words of an n-gram model of words, separated by blanks; None for a model of tokens."""
    confidence: Calibration | None = None
    """The calibration of words in a search without n-gram model; None keeps their probabilities."""
    confidence_with_ngram: Calibration | None = None
    """The same in a search with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeakerSpec:
    """The audio that a speaker network takes, and how its embeddings are compared."""

    sample_rate_hz: int
    same_speaker_similarity: float
    """The cosine above which two embeddings are of one speaker."""
    window_s: float
    """The length of a window that is embedded."""
    hop_s: float
    """Seconds from the begin of one window to that of the next."""
    padding: str = MASKED
    """As in AudioSpec."""
    takes: str = WINDOWS
    """`windows`: an item of a request is a window, and its result an embedding. `segments`: an item is a segment, and
    its result the embeddings of all windows that begin in it. A window at its end may be shorter than `window_s`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientSpec:
    """What a client must know about the weights of a model or of an ensemble; None for a section that it lacks."""

    audio: AudioSpec | None = None
    tokens: TokenSpec | None = None
    search: SearchSpec | None = None
    speaker: SpeakerSpec | None = None

    def to_json(self) -> str:
        """Return the spec as JSON text; from_json reads it back equal."""
        return json.dumps(self.to_table(), ensure_ascii=False, sort_keys=True)

    def to_table(self) -> dict[str, Any]:
        """Return the spec as a table of JSON values, without the sections that are None."""
        sections = {key: value for key, value in asdict(self).items() if value is not None}
        return {"schema_version": SCHEMA_VERSION, **sections}

    @classmethod
    def from_json(cls, text: str, source: object, error: type[VoxwrightError], remedy: str) -> "ClientSpec":
        """Return the spec of a JSON text; raise the given error, with the field that is wrong."""
        try:
            table = json_value(text)
        except ValueError as cause:
            raise error(source, f"its parameter `{PARAMETER}` is not JSON ({cause})", remedy) from cause
        return cls.from_fields(Fields(table, source=source, error=error, remedy=remedy))

    @classmethod
    def from_fields(cls, table: Fields) -> "ClientSpec":
        """Return the spec of a parsed table; raise the table's error for a wrong field."""
        found = table.integer("schema_version")
        if found != SCHEMA_VERSION:
            raise table.error("schema_version", f"it is {found}, and this release reads {SCHEMA_VERSION}")
        table.reject_unknown("schema_version", *(each.name for each in fields(cls)))
        return cls(
            audio=_audio(table.table("audio")) if table.has("audio") else None,
            tokens=_tokens(table.table("tokens")) if table.has("tokens") else None,
            search=_search(table.table("search")) if table.has("search") else None,
            speaker=_speaker(table.table("speaker")) if table.has("speaker") else None,
        )


def merge(specs: Iterable[ClientSpec]) -> ClientSpec:
    """Return the spec of an ensemble: every section is that of the first model that has it."""
    found: dict[str, Any] = {}
    for spec in specs:
        for each in fields(spec):
            value = getattr(spec, each.name)
            if value is not None:
                found.setdefault(each.name, value)
    return ClientSpec(**found)


def _audio(table: Fields) -> AudioSpec:
    table.reject_unknown(*(each.name for each in fields(AudioSpec)))
    rate = _sample_rate(table)
    return AudioSpec(
        sample_rate_hz=rate,
        shortest_samples=_positive_integer(table, "shortest_samples"),
        hop_s=_duration(table, "hop_s", rate),
        first_centre_s=table.number("first_centre_s"),
        padding=_one_of(table, "padding", PADDINGS),
    )


def _tokens(table: Fields) -> TokenSpec:
    table.reject_unknown(*(each.name for each in fields(TokenSpec)))
    pieces = table.items("pieces", str)
    if not pieces:
        raise table.error("pieces", "the list is empty")
    return TokenSpec(
        pieces=pieces,
        blank=_token(table, "blank", len(pieces)),
        unspoken=tuple(_checked_token(table, "unspoken", token, len(pieces)) for token in table.items("unspoken", int)),
        boundary=_token(table, "boundary", len(pieces)) if table.has("boundary") else None,
        style=_one_of(table, "style", STYLES),
        delimiter=table.text("delimiter"),
        word_separator=table.text("word_separator"),
    )


def _search(table: Fields) -> SearchSpec:
    table.reject_unknown(*(each.name for each in fields(SearchSpec)))
    return SearchSpec(
        ngram_weight=_not_negative(table, "ngram_weight"),
        token_bonus=table.number("token_bonus"),
        rescorers=_numbers(table.table("rescorers")),
        rescorers_with_ngram=_numbers(table.table("rescorers_with_ngram")),
        ngram=table.text("ngram") if table.has("ngram") else None,
        words=table.text("words") if table.has("words") else None,
        confidence=read_calibration(table, "confidence"),
        confidence_with_ngram=read_calibration(table, "confidence_with_ngram"),
    )


def read_calibration(table: Fields, key: str) -> Calibration | None:
    """Return the calibration below a key, None where there is none; raise the table's error for a wrong field."""
    if not table.has(key):
        return None
    found = table.table(key)
    found.reject_unknown(*(each.name for each in fields(Calibration)))
    return Calibration(slope=_positive(found, "slope"), offset=found.number("offset"))


def _speaker(table: Fields) -> SpeakerSpec:
    table.reject_unknown(*(each.name for each in fields(SpeakerSpec)))
    rate = _positive_integer(table, "sample_rate_hz")
    return SpeakerSpec(
        sample_rate_hz=rate,
        same_speaker_similarity=table.number("same_speaker_similarity"),
        window_s=_duration(table, "window_s", rate),
        hop_s=_duration(table, "hop_s", rate),
        padding=_one_of(table, "padding", PADDINGS),
        # Bundles of earlier releases do not state it.
        takes=_one_of(table, "takes", UNITS) if table.has("takes") else WINDOWS,
    )


def _numbers(table: Fields) -> dict[str, float]:
    return {key: table.number(key) for key in table.names()}


def _sample_rate(table: Fields) -> int:
    found = table.integer("sample_rate_hz")
    if found not in SAMPLE_RATES_HZ:
        known = ", ".join(map(str, SAMPLE_RATES_HZ))
        raise table.error("sample_rate_hz", f"{found} is not one of {known}, the rates of the voice activity detector")
    return found


def _not_negative(table: Fields, key: str) -> float:
    found = table.number(key)
    if not found >= 0:
        raise table.error(key, f"{found} is below 0")
    return found


def _positive(table: Fields, key: str) -> float:
    found = table.number(key)
    if not found > 0:
        raise table.error(key, f"{found} is not above 0")
    return found


def _duration(table: Fields, key: str, rate_hz: int) -> float:
    """Return a number of seconds that is at least one sample long, and shorter than a day."""
    found = _positive(table, key)
    if found * rate_hz < 1 or found > _LONGEST_S:
        raise table.error(key, f"{found} s is less than a sample or more than {_LONGEST_S:.0f} s")
    return found


def _positive_integer(table: Fields, key: str) -> int:
    found = table.integer(key)
    if found <= 0:
        raise table.error(key, f"{found} is not above 0")
    return found


def _token(table: Fields, key: str, count: int) -> int:
    return _checked_token(table, key, table.integer(key), count)


def _checked_token(table: Fields, key: str, token: int, count: int) -> int:
    if not 0 <= token < count:
        raise table.error(key, f"{token} is not a token: the list has {count} pieces")
    return token


def _one_of(table: Fields, key: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    found = table.text(key)
    if found not in known:
        raise table.error(key, f"{found!r} is not one of {', '.join(known)}")
    return found
