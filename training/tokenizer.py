"""The tokenizer: byte-pair pieces, three of them reserved."""

import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from contract import files
from contract.client import TokenSpec
from contract.tokens import spell
from export.checkpoints.roles import token_spec
from export.networks.reserved_tokens import BLANK, BOUNDARY, RESERVED, UNKNOWN
from training.errors import MissingDataError

BLANK_PIECE, BOUNDARY_PIECE = "<blank>", "</s>"


def train(texts: Iterable[str], path: Path, vocabulary: int) -> None:
    """Train the pieces on transcripts and write the model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary,
        character_coverage=1.0,
        normalization_rule_name="identity",
        pad_id=BLANK,
        unk_id=UNKNOWN,
        eos_id=BOUNDARY,
        bos_id=-1,
        pad_piece=BLANK_PIECE,
        eos_piece=BOUNDARY_PIECE,
        num_threads=1,
        minloglevel=2,
    )
    files.write(path, model.getvalue())


class Tokenizer:
    """A conversion of text to token numbers and back."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MissingDataError(path, "standard")
        self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a normalised transcript."""
        return list(self._model.Encode(text))

    def decode(self, tokens: Iterable[int]) -> str:
        """Join tokens into text, without the reserved ones."""
        return spell((token for token in tokens if token not in RESERVED), self.spec())

    def spec(self) -> TokenSpec:
        """Return the tokens as clients know them."""
        return token_spec(tuple(self.pieces()))

    def pieces(self) -> list[str]:
        """Return every piece in the order of its number."""
        return [self._model.IdToPiece(number) for number in range(self._model.GetPieceSize())]
