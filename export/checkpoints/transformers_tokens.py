"""Read the token list of a folder of transformers: a character vocabulary, or a tokenizer.json of pieces."""

from collections.abc import Collection, Iterable, Mapping
from itertools import chain

from contract.client import CHARACTERS, DELIMITER, SENTENCEPIECE, TokenSpec
from contract.errors import CheckpointError
from contract.fields import Fields
from contract.tokens import WORD_START
from export.checkpoints.settings import MOST, flag, require, word
from export.checkpoints.transformers_folder import CONFIG_FILE, Folder
from export.checkpoints.weights import DAMAGED

_VOCABULARY, _TOKENIZER, _ADDED = "vocab.json", "tokenizer.json", "added_tokens.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS_MAP = "special_tokens_map.json"
_FURTHER = ("additional_special_tokens", "extra_special_tokens")
_CHARACTERS = ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer")
_PHONEMES = "Wav2Vec2PhonemeCTCTokenizer"
_OTHER_CLASS = f"the tokens must be those of a {_CHARACTERS[0]} or a {_PHONEMES}"
# What turns SentencePiece's pieces into text, in any order.
_DECODERS = ("Metaspace", "Replace", "ByteFallback", "Fuse", "Strip", "Sequence")
_OTHER_PIECES = "the tokens must be pieces of SentencePiece, not those of WordPiece or of byte-level BPE"
_SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def character_tokens(folder: Folder, size: int, blank: int) -> TokenSpec:
    """Return the tokens of a Wav2Vec2CTCTokenizer for a head of `size` rows, with the pad token as blank.

    A Wav2Vec2PhonemeCTCTokenizer has the same vocabulary; it separates every two tokens by a space.
    """
    config = _TokenizerConfig(folder)
    kind = _tokenizer_class(folder, config.main)
    numbers = _numbers(folder, _VOCABULARY) | (_numbers(folder, _ADDED) if folder.has(_ADDED) else {})
    added, special = _added(config.main)
    numbers |= added
    delimiter = config.token("word_delimiter_token", None if kind == _PHONEMES else "|")
    names = {config.token(key, default) for key, default in _SPECIAL.items()} | special | config.further()
    pad = config.token("pad_token", _SPECIAL["pad_token"])
    if pad is not None and numbers.get(pad, blank) != blank:
        cause = f"its token {pad!r} is {numbers[pad]}, and pad_token_id in config.json is {blank}: which is blank?"
        raise CheckpointError(folder.path / _VOCABULARY, cause, "Set pad_token_id to the token that is blank")
    lower = flag(config.main, "do_lower_case", default=False)
    pieces = _by_number(folder, _VOCABULARY, numbers, size)
    if kind == _PHONEMES:
        # Its decoder leaves out the delimiter of words.
        unspoken = _unspoken(pieces, names | {delimiter}, blank)
        shown = tuple(_shown(piece, is_special=True, number=number) for number, piece in enumerate(pieces))
        return TokenSpec(pieces=shown, blank=blank, unspoken=unspoken, style=CHARACTERS, word_separator=" ")
    unspoken = _unspoken(pieces, names - {delimiter, " "}, blank)
    shown = tuple(
        _shown(piece, number in (blank, *unspoken), number, lower=lower) for number, piece in enumerate(pieces)
    )
    separators = [each for each in (delimiter, " ") if each is not None and each in numbers]
    if not separators:
        return TokenSpec(pieces=shown, blank=blank, unspoken=unspoken, style=CHARACTERS, word_separator="")
    separator = separators[0].lower() if lower else separators[0]
    between = word(config.main, "replace_word_delimiter_char", " ") if separators[0] == delimiter else " "
    return TokenSpec(
        pieces=shown,
        blank=blank,
        unspoken=unspoken,
        style=DELIMITER,
        delimiter=separator,
        word_separator=between.lower() if lower else between,
    )


def piece_tokens(folder: Folder, size: int, blank: int) -> TokenSpec:
    """Return the tokens of a tokenizer.json that was made of a SentencePiece model, for a head of `size` rows."""
    table = folder.fields(_TOKENIZER)
    _require_pieces(table)
    numbers = _model_numbers(table.table("model"))
    special = set()
    for each in table.tables("added_tokens") if table.has("added_tokens") else ():
        numbers[each.text("content")] = each.integer("id")
        if flag(each, "special", default=False):
            special.add(each.text("content"))
    special.add(_unknown(table.table("model")))
    pieces = _by_number(folder, _TOKENIZER, numbers, size)
    if not any(piece and WORD_START in piece for piece in pieces):
        raise table.error("model.vocab", f"no piece has {WORD_START!r}, which begins a word: {_OTHER_PIECES}")
    unspoken = _unspoken(pieces, special, blank)
    shown = tuple(_shown(piece, number in (blank, *unspoken), number) for number, piece in enumerate(pieces))
    return TokenSpec(pieces=shown, blank=blank, unspoken=unspoken, style=SENTENCEPIECE)


def _tokenizer_class(folder: Folder, config: Fields) -> str | None:
    """Return the class of the tokenizer, if the folder states it; raise CheckpointError for an unknown one."""
    for table in (config, folder.fields(CONFIG_FILE)):
        require(table, "tokenizer_class", (*_CHARACTERS, _PHONEMES, None), _OTHER_CLASS)
        if table.has("tokenizer_class"):
            return table.text("tokenizer_class")
    return None


def _require_pieces(table: Fields) -> None:
    """Raise CheckpointError for a tokenizer.json whose text is not that of SentencePiece's pieces."""
    require(table.table("model"), "type", ("BPE", "Unigram", None), _OTHER_PIECES)
    waiting = [table.table("decoder")] if table.has("decoder") else []
    while waiting:
        decoder = waiting.pop()
        require(decoder, "type", _DECODERS, _OTHER_PIECES)
        require(decoder, "replacement", (WORD_START,), _OTHER_PIECES)
        if decoder.has("decoders"):
            waiting += decoder.tables("decoders")


def _unknown(model: Fields) -> str:
    """Return the token of unknown text. Null is common: a model of bytes has none."""
    return model.text("unk_token") if model.has("unk_token") else "<unk>"


def _model_numbers(model: Fields) -> dict[str, int]:
    if isinstance(model.raw("vocab"), dict):
        table = model.table("vocab")
        return {piece: table.integer(piece) for piece in table.names()}
    # Unigram models have a list of pairs, piece and score.
    pairs = model.items("vocab", list)
    for index, pair in enumerate(pairs):
        if not pair or not isinstance(pair[0], str):
            raise model.error(f"vocab[{index}]", "expected a piece and its score")
    return {str(pair[0]): number for number, pair in enumerate(pairs)}


def _numbers(folder: Folder, name: str) -> dict[str, int]:
    table = folder.fields(name)
    if any(isinstance(table.raw(key), dict) for key in table.names()):
        cause = "its tokens are listed by language, as for the adapters of MMS, which are not supported"
        raise CheckpointError(folder.path / name, cause, "Merge one language's adapter and list into a checkpoint")
    return {key: table.integer(key) for key in table.names()}


def _added(config: Fields) -> tuple[dict[str, int], set[str]]:
    """Return the numbers of tokens that tokenizer_config.json adds, and which of them are not text."""
    numbers: dict[str, int] = {}
    special: set[str] = set()
    if not config.has("added_tokens_decoder"):
        return numbers, special
    table = config.table("added_tokens_decoder")
    for key in table.names():
        entry = table.table(key)
        if not key.isdecimal() or len(key) > len(str(MOST)):
            raise config.error(f"added_tokens_decoder.{key}", "it is not the number of a token")
        numbers[entry.text("content")] = int(key)
        if flag(entry, "special", default=False):
            special.add(entry.text("content"))
    return numbers, special


class _TokenizerConfig:
    """The settings of a tokenizer: tokenizer_config.json, and in older folders special_tokens_map.json, which wins."""

    def __init__(self, folder: Folder) -> None:
        self.main = folder.optional_fields(_TOKENIZER_CONFIG)
        # transformers reads the map where the tokenizer does not list its added tokens.
        is_complete = self.main.holds("added_tokens_decoder") or not folder.has(_SPECIAL_TOKENS_MAP)
        maps = [] if is_complete else [folder.fields(_SPECIAL_TOKENS_MAP)]
        self._sources: list[Fields] = [*maps, self.main]

    def token(self, key: str, default: str | None) -> str | None:
        """Return a token that is text, or a table with its text in `content`; None where null removes it."""
        source = next((each for each in self._sources if each.holds(key)), None)
        if source is None:
            return default
        if not source.has(key):
            return None
        return source.table(key).text("content") if isinstance(source.raw(key), dict) else source.text(key)

    def further(self) -> set[str]:
        """Return the special tokens that have no name of their own."""
        lists = [
            source.items(key, (str, dict))
            for source in self._sources
            for key in _FURTHER
            if source.has(key) and isinstance(source.raw(key), list)
        ]
        texts = (each.get("content") if isinstance(each, dict) else each for each in chain(*lists))
        return {text for text in texts if isinstance(text, str)}


def _by_number(folder: Folder, name: str, numbers: Mapping[str, int], size: int) -> list[str | None]:
    """Return the piece of each row of the head; None for a row that no token names: a head may be wider."""
    pieces: list[str | None] = [None] * size
    for piece, number in numbers.items():
        if not 0 <= number < size:
            cause = f"its token {piece!r} is {number}, and the head has {size} tokens"
            raise CheckpointError(folder.path / name, cause, DAMAGED)
        if pieces[number] is not None:
            cause = f"its tokens {pieces[number]!r} and {piece!r} have the same number {number}"
            raise CheckpointError(folder.path / name, cause, DAMAGED)
        pieces[number] = piece
    return pieces


def _unspoken(pieces: Iterable[str | None], special: Collection[str | None], blank: int) -> tuple[int, ...]:
    return tuple(
        number
        for number, piece in enumerate(pieces)
        if number != blank and (piece is None or not piece or piece in special)
    )


def _shown(piece: str | None, is_special: bool, number: int, *, lower: bool = False) -> str:  # noqa: FBT001 - see callers
    text = f"<{number}>" if piece is None else piece
    return text.lower() if lower and not is_special else text
