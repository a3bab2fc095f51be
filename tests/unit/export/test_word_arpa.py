"""N-gram models of words: their scores in the search, how tokens spell words, and what is refused."""

import itertools
import math
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from contract.client import CHARACTERS, DELIMITER, SENTENCEPIECE, SearchSpec, TokenSpec
from contract.errors import CheckpointError, ServerContractError
from contract.tokens import spell
from export import own_networks
from export.checkpoints import arpa
from export.checkpoints.spelling import Speller
from tests.unit.export.test_arpa import in_quarters, write
from transcriber import ctc, ngram, parameters
from transcriber.ctc import Emissions, Fusion

BLANK = 0
LETTERS = TokenSpec(pieces=("<blk>", "a", "b", "|", "<unk>"), blank=BLANK, unspoken=(4,), style=DELIMITER)
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
PIECES = TokenSpec(pieces=("<blk>", "▁", "▁a", "a", "b", "▁b▁a"), blank=BLANK, style=SENTENCEPIECE)
WORDS = """\\data\\
ngram 1=7
ngram 2=6
ngram 3=1

\\1-grams:
{-9}\t<unk>\t{-1}
-99\t<s>\t{-2}
{-4}\t</s>
{-5}\tab\t{-1}
{-6}\tba\t{-3}
{-3}\ta
{-8}\tcab

\\2-grams:
{-2}\t<s> ab
{-1}\tab ba\t{1}
{-3}\tba ab
{-2}\tba </s>
{-1}\t<unk> ab
{-9}\tba cab

\\3-grams:
{-1}\tab ba ab

\\end\\
"""
WEIGHT, BONUS = 0.7, 0.4


def model(folder: Path, spec: TokenSpec, text: str = WORDS) -> ngram.Ngram:
    found = arpa.read(write(folder / "words.arpa", text), spec)
    assert found.words is not None
    return ngram.of_words(found.text, found.words, spec)


def expected(words: Iterable[str]) -> float:
    """Return the log-probability of a text by the tables of ARPA, in nats, looked up without a tree."""
    grams: dict[tuple[str, ...], tuple[float, float]] = {}
    for line in in_quarters(WORDS).splitlines():
        fields = line.split("\t")
        if len(fields) > 1:
            grams[tuple(fields[1].split())] = (float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0)

    def score(past: tuple[str, ...], word: str) -> float:
        if (*past, word) in grams:
            return grams[*past, word][0]
        return grams.get(past, (0.0, 0.0))[1] + score(past[1:], word)

    known = [word if (word,) in grams else "<unk>" for word in words]
    past: tuple[str, ...] = ("<s>",)
    total = 0.0
    for word in (*known, "</s>"):
        total += score(past[-2:], word)
        past = (*past, word)
    return total * math.log(10.0)


def forced(tokens: tuple[int, ...], size: int) -> Emissions:
    """Return emissions with one way: each token in a frame, and a blank behind it."""
    path = [each for token in tokens for each in (token, BLANK)] or [BLANK]
    lists = np.array([[token, *(other for other in range(size) if other != token)] for token in path], dtype=np.int32)
    log_probs = np.full(lists.shape, -30.0, dtype=np.float32)
    log_probs[:, 0] = 0.0
    return Emissions(log_probs=log_probs, tokens=lists)


@pytest.mark.parametrize("spec", [LETTERS, PIECES], ids=["letters", "pieces"])
def test_every_spelling_has_the_score_of_its_words(tmp_path: Path, spec: TokenSpec) -> None:
    fusion = Fusion(model=model(tmp_path, spec), weight=WEIGHT, bonus=BONUS)
    spoken = [token for token in range(len(spec.pieces)) if token not in spec.dropped]
    seen = set()
    for length in range(6):
        for tokens in itertools.product(spoken, repeat=length):
            (found, *_) = ctc.beam(forced(tokens, len(spec.pieces)), spec, fusion=fusion)
            words = spell(tokens, spec).split()
            assert found.tokens == tokens
            assert found.lm_log_prob == pytest.approx(expected(words), abs=1e-3), words
            assert found.lm_score == pytest.approx(WEIGHT * expected(words) + BONUS * length, abs=1e-3)
            seen |= set(words)
    assert {"ab", "ba", "a"} < seen


def test_bytes_spell_characters_that_no_piece_has(tmp_path: Path) -> None:
    """The second byte of é alone is no word; both are."""
    spec = TokenSpec(pieces=("<blk>", "▁", "a", *BYTES), blank=BLANK, style=SENTENCEPIECE)
    found = model(tmp_path, spec, WORDS.replace("cab", "aé"))
    begin, a, first, second = 1, 2, *(3 + byte for byte in "é".encode())
    for tokens, words in (
        ((begin, a, first, second), ["cab"]),
        ((begin, a, second), ["x"]),
        ((begin, a, first), ["x"]),
    ):
        fusion = Fusion(model=found, weight=WEIGHT, bonus=BONUS)
        best = ctc.beam(forced(tokens, len(spec.pieces)), spec, fusion=fusion)[0]
        assert best.lm_log_prob == pytest.approx(expected(words), abs=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_search_finds_the_best_of_all_texts(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.normal(0.0, 2.0, (6, len(LETTERS.pieces)))
    log_probs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    order = np.argsort(-log_probs, axis=1)
    emissions = Emissions(
        log_probs=np.take_along_axis(log_probs, order, axis=1).astype(np.float32), tokens=order.astype(np.int32)
    )
    everything = ctc.beam(emissions, LETTERS, width=20_000, negligible=-math.inf)
    totals = {
        each.tokens: each.log_prob + WEIGHT * expected(spell(each.tokens, LETTERS).split()) + BONUS * len(each.tokens)
        for each in everything
    }
    fusion = Fusion(model=model(tmp_path, LETTERS), weight=WEIGHT, bonus=BONUS)
    found = ctc.beam(emissions, LETTERS, width=20_000, negligible=-math.inf, fusion=fusion)
    assert len(found) == len(everything)
    assert [each.score for each in found] == pytest.approx(sorted(totals.values(), reverse=True), abs=1e-3)
    assert found[0].score == pytest.approx(totals[found[0].tokens], abs=1e-3)
    # The search of a server's client, which keeps few hypotheses.
    assert ctc.beam(emissions, LETTERS, fusion=fusion)[0].score == pytest.approx(max(totals.values()), abs=0.5)


def test_describes_words_that_are_not_spelled(tmp_path: Path) -> None:
    found = arpa.read(write(tmp_path / "words.arpa", WORDS), LETTERS)
    assert found.words == "a ab ba"
    assert found.remarks == ("The n-gram model has 3 words; the network's tokens do not spell 1 more, such as 'cab'.",)
    assert found.tokens == LETTERS
    # `a` is the most probable word; each has a delimiter.
    assert found.tokens_per_word == pytest.approx(2.55, abs=0.2)


def test_unknown_words_have_a_score_without_unk(tmp_path: Path) -> None:
    text = WORDS.replace("{-9}\t<unk>\t{-1}\n", "").replace("{-1}\t<unk> ab\n", "")
    text = text.replace("ngram 1=7", "ngram 1=6").replace("ngram 2=6", "ngram 2=5")
    found = model(tmp_path, LETTERS, text)
    assert found.after(0, 4)[0] == -63.75


def test_rejects_words_in_another_case(tmp_path: Path) -> None:
    text = WORDS
    for word in ("ab", "ba", "a", "cab"):
        text = re.sub(rf"\b{word}\b(?!ta)", word.upper(), text)
    path = write(tmp_path / "words.arpa", text)
    with pytest.raises(CheckpointError) as error:
        arpa.read(path, LETTERS)
    assert str(error.value) == (
        f"{path}: the network's tokens do not spell most of its words, such as 'A'. Train it on text as the network "
        "writes it, for example in the same case."
    )


def test_rejects_a_word_that_order_1_lacks(tmp_path: Path) -> None:
    path = write(tmp_path / "words.arpa", WORDS.replace("ab ba ab", "ab ba xy"))
    with pytest.raises(CheckpointError, match="line 24: 'xy' is not a word of its order 1"):
        arpa.read(path, LETTERS)


def test_rejects_too_many_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arpa, "LARGEST_WORDS", 2)
    with pytest.raises(CheckpointError, match="it has 3 words, and 2 are possible"):
        arpa.read(write(tmp_path / "words.arpa", WORDS), LETTERS)


@pytest.mark.parametrize(
    ("spec", "word", "size"),
    [
        (LETTERS, "abba", 5),
        (LETTERS, "abc", math.inf),
        (LETTERS, "a|b", math.inf),
        (PIECES, "ab", 2),
        (PIECES, "ba", 3),
        (TokenSpec(pieces=("<blk>", "a", "ab"), blank=0, style=CHARACTERS), "ab", 1),
        (TokenSpec(pieces=("<blk>", "▁", "a", *BYTES), blank=0), "aé", 4),
    ],
)
def test_fewest_tokens_of_a_word(spec: TokenSpec, word: str, size: float) -> None:
    assert Speller(spec).size(word) == size


def test_client_reads_what_an_import_writes(tmp_path: Path) -> None:
    found = arpa.read(write(tmp_path / "words.arpa", WORDS), LETTERS)
    search = SearchSpec(ngram=found.text, words=found.words, ngram_weight=own_networks.NGRAM_WEIGHT)
    read = parameters.ngram_model(search, LETTERS, "am_en_fast")
    assert read is not None
    assert read.log_prob([1, 2]) == pytest.approx(expected(["ab", "ba"]), abs=1e-3)
    broken = SearchSpec(ngram=found.text, words="a ab ba bb")
    with pytest.raises(ServerContractError, match="it lacks words of its lexicon"):
        parameters.ngram_model(broken, LETTERS, "am_en_fast")


@pytest.mark.parametrize("odd", ["b\u00a0a", "b\u2003", "\x1cb", "\u3000"])
def test_word_with_a_blank_shifts_no_scores(odd: str, tmp_path: Path) -> None:
    """Clients separate the words at blanks: all words behind it would have the score of another one."""
    spec = TokenSpec(pieces=("<blk>", *BYTES, "▁a", "▁b", "▁c"), blank=BLANK, style=SENTENCEPIECE)
    scores = {"a": -2.0, odd: -4.0, "b": -1.0, "c": -3.0}
    rows = [f"{score}\t{word}" for word, score in scores.items()]
    text = "\n".join(["\\data\\", "ngram 1=4", "", "\\1-grams:", *rows, "", "\\end\\", ""])
    (tmp_path / "words.arpa").write_text(text, encoding="utf-8")
    found = arpa.read(tmp_path / "words.arpa", spec)
    assert found.words == "a b c"
    assert found.remarks == (f"The n-gram model has 3 words; 1 with a blank in them are left out, such as {odd!r}.",)
    read = ngram.of_words(found.text, found.words, spec)
    nats = [read.after(read.start, number)[0] for number in range(3)]
    assert nats == pytest.approx([scores[word] * math.log(10.0) for word in "abc"], abs=0.13)


def test_blank_of_unicode_separates_no_fields(tmp_path: Path) -> None:
    """Fields without tabs are separated by spaces."""
    spec = TokenSpec(pieces=("<blk>", *BYTES, "▁a", "▁b"), blank=BLANK, style=SENTENCEPIECE)
    rows = ["-2  a -0.5", "-4 b\u00a0a", "-1 b"]
    text = "\n".join(["\\data\\", "ngram 1=3", "", "\\1-grams:", *rows, "", "\\end\\", ""])
    (tmp_path / "words.arpa").write_text(text, encoding="utf-8")
    assert arpa.read(tmp_path / "words.arpa", spec).words == "a b"


def test_reads_a_file_that_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "words.arpa", WORDS)
    plain = arpa.read(path, LETTERS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert arpa.recognises(path)
    assert arpa.read(path, LETTERS).words == plain.words
