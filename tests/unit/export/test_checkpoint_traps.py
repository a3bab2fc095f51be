"""Traps of foreign checkpoints that no other file tests; docs/architecture/14-checkpoint-traps.md lists all of them."""

from pathlib import Path
from typing import Any

import sentencepiece

from contract.client import SENTENCEPIECE, TokenSpec
from contract.tokens import collapse, spell
from export.checkpoints import nemo, transformers
from export.checkpoints.sentence_pieces import read_pieces
from tests.unit.export import foreign

ARCHIVE = Path(__file__).parent / "data" / "nemo" / "ctc-pieces.nemo"


def test_weight_normalisation_is_folded(tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    names = [name for name in transformers.read(tmp_path).encoder.state_dict() if name.startswith("position.")]
    assert sorted(names) == ["position.convolution.bias", "position.convolution.weight"]


def test_spells_byte_pieces_as_sentencepiece_does(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a quick test of bytes"] * 20),
        model_prefix=str(tmp_path / "bytes"),
        vocab_size=280,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    data = (tmp_path / "bytes.model").read_bytes()
    library: Any = sentencepiece.SentencePieceProcessor(model_proto=data)
    pieces = tuple(piece.text for piece in read_pieces(data, "a test"))
    spec = TokenSpec(pieces=(*pieces, "<blank>"), blank=len(pieces), style=SENTENCEPIECE)
    for text in ("a test é", "ü quick 日本 test", "😀"):
        tokens = library.encode(text)
        assert spell(tokens, spec) == library.decode(tokens) == text


def test_special_tokens_are_never_text(tmp_path: Path) -> None:
    """Whatever a network returns: every special token of each format is dropped."""
    foreign.wave(tmp_path / "wave")
    foreign.parakeet(tmp_path / "parakeet")
    for imported in (nemo.read(ARCHIVE), *(transformers.read(tmp_path / name) for name in ("wave", "parakeet"))):
        spec = imported.tokens
        text = spell(collapse(list(range(len(spec.pieces))), spec.dropped), spec)
        assert text
        assert "<" not in text
