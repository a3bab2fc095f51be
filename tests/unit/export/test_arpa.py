"""N-gram models in ARPA format: scores by backing off, ways to write tokens, and damaged files."""

import gzip
import itertools
import math
from pathlib import Path

import pytest

from contract.client import TokenSpec
from contract.errors import CheckpointError
from export.checkpoints import arpa
from transcriber import ngram

PIECES = ("<blk>", "<unk>", "▁a", "b", "c")
TOKENS = TokenSpec(pieces=PIECES, blank=0, unspoken=(1,))
# All logarithms, times ln(10), are close to multiples of a quarter, the step of the format.
QUARTER = 0.25 / math.log(10.0)
ARPA = """\\data\\
ngram 1=6
ngram 2=5
ngram 3=2

\\1-grams:
-40\t<unk>
-99\t<s>\t{-2}
{-4}\t</s>
{-5}\t▁a\t{-1}
{-6}\tb\t{-3}
{-7}\tc

\\2-grams:
{-2}\t<s> ▁a\t{-2}
{-3}\t▁a b\t{1}
{-1}\tb c
{-2}\tb </s>
{-9}\t<unk> b

\\3-grams:
{-1}\t<s> ▁a b
{-2}\t▁a b </s>

\\end\\
"""


def in_quarters(text: str) -> str:
    """Return a text whose numbers in braces are quarters of a nat, as logarithms to base 10."""
    for quarters in range(-9, 10):
        text = text.replace(f"{{{quarters}}}", f"{quarters * QUARTER:.6f}")
    return text


def write(path: Path, text: str = ARPA) -> Path:
    path.write_text(in_quarters(text), encoding="utf-8")
    return path


def expected(tokens: tuple[str, ...]) -> float:
    """Return the log-probability of a text by the tables of ARPA, in nats, looked up without a tree."""
    grams: dict[tuple[str, ...], tuple[float, float]] = {}
    for line in in_quarters(ARPA).splitlines():
        fields = line.split("\t")
        if len(fields) > 1:
            backoff = float(fields[2]) if len(fields) > 2 else 0.0
            grams[tuple(fields[1].split())] = (float(fields[0]), backoff)

    def score(past: tuple[str, ...], token: str) -> float:
        if (*past, token) in grams:
            return grams[*past, token][0]
        return grams.get(past, (0.0, 0.0))[1] + score(past[1:], token)

    past: tuple[str, ...] = ("<s>",)
    total = 0.0
    for token in (*tokens, "</s>"):
        total += score(past[-2:], token)
        past = (*past, token)
    return total * math.log(10.0)


@pytest.mark.parametrize("boundary", [None, 1], ids=["the blank as boundary", "own boundary"])
def test_scores_every_text_as_the_tables_do(tmp_path: Path, boundary: int | None) -> None:
    tokens = TokenSpec(pieces=PIECES, blank=0, unspoken=(1,), boundary=boundary)
    found = arpa.read(write(tmp_path / "lm.arpa"), tokens)
    assert found.tokens.boundary == (boundary or 0)
    assert found.remarks == ()
    model = ngram.from_text(found.text, found.tokens.boundary or 0)
    assert (model.order, model.vocabulary) == (3, 5)
    for length in range(5):
        for text in itertools.product(PIECES[2:], repeat=length):
            log_prob = model.log_prob([PIECES.index(piece) for piece in text])
            assert log_prob == pytest.approx(expected(text), abs=1e-3), text


def test_reads_compressed_files(tmp_path: Path) -> None:
    plain = write(tmp_path / "lm.arpa")
    packed = tmp_path / "lm.arpa.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert arpa.read(packed, TOKENS).text == arpa.read(plain, TOKENS).text
    assert arpa.recognises(packed)
    assert arpa.recognises(plain)


def test_reads_nemo_s_way_to_write_tokens(tmp_path: Path) -> None:
    """NeMo writes the token of number n as the character of the number 100 + n."""
    text = ARPA
    for number, piece in ((2, "▁a"), (4, "c"), (3, "b")):
        text = text.replace(f"\t{piece}", f"\t{chr(100 + number)}").replace(f" {piece}", f" {chr(100 + number)}")
        text = text.replace(f"\t{piece} ", f"\t{chr(100 + number)} ")
    found = arpa.read(write(tmp_path / "nemo.arpa", text), TOKENS)
    assert found.text == arpa.read(write(tmp_path / "lm.arpa"), TOKENS).text


def test_rejects_more_tokens_than_the_format_can_state(tmp_path: Path) -> None:
    tokens = TokenSpec(pieces=(*PIECES, *map(str, range(65_536 - len(PIECES)))), blank=0, unspoken=(1,))
    with pytest.raises(CheckpointError, match="it is a model of 65536 tokens, and 65535 are possible"):
        arpa.read(write(tmp_path / "lm.arpa"), tokens)


def test_adds_missing_prefixes_by_backing_off(tmp_path: Path) -> None:
    """Pruning may leave an n-gram whose beginning is gone: the tree needs it, and the scores stay."""
    text = ARPA.replace("{-3}\t▁a b\t{1}\n", "").replace("ngram 2=5", "ngram 2=4")
    found = arpa.read(write(tmp_path / "lm.arpa", text), TOKENS)
    model = ngram.from_text(found.text, 0)
    # ▁a b is scored by the back-off of ▁a and b alone: (-1 - 6) quarters; its end is still that of order 3.
    _, after_a = model.after(0, 2)
    log_prob, after_ab = model.after(after_a, 3)
    assert log_prob == -7 * 0.25
    assert model.after(after_ab, 0)[0] == -2 * 0.25


def test_gives_unknown_tokens_the_score_of_unknown_words(tmp_path: Path) -> None:
    tokens = TokenSpec(pieces=(*PIECES, "d"), blank=0, unspoken=(1,))
    found = arpa.read(write(tmp_path / "lm.arpa"), tokens)
    assert found.remarks == (
        "The n-gram model does not know 1 of the 4 tokens; they have the score of an unknown one.",
    )
    # -40 to base 10 is below the smallest score of the format.
    assert ngram.from_text(found.text, 0).after(0, 5)[0] == -63.75


def test_writes_what_the_format_s_own_encoder_writes(tmp_path: Path) -> None:
    found = arpa.read(write(tmp_path / "lm.arpa"), TOKENS)
    model = ngram.from_text(found.text, 0)
    assert len(model) == 4 + 4 + 2
    assert model.after(0, 2)[0] == -5 * 0.25


DAMAGES = {
    "no head": ("\\data\\", "data", "it is no ARPA file: \\data\\ is missing"),
    "no counts": ("ngram 1=6\nngram 2=5\nngram 3=2\n", "", "line 3: the number of n-grams is missing"),
    "count of text": (
        "ngram 2=5",
        "ngram 2=five",
        "line 3: 'ngram 2=<number>' is expected, and 'ngram 2=five' is there",
    ),
    "order left out": ("ngram 2=5", "ngram 3=5", "line 3: 'ngram 2=<number>' is expected, and 'ngram 3=5' is there"),
    "count too high": ("ngram 2=5", "ngram 2=6", "line 21: there are 5 n-grams of order 2, and the head states 6"),
    "count too low": ("ngram 1=6", "ngram 1=5", "line 14: there are 6 n-grams of order 1, and the head states 5"),
    "section left out": ("\\3-grams:", "\\end\\", "line 21: \\3-grams: is expected, and '\\\\end\\\\' is there"),
    "no end": ("\n\\end\\\n", "", "line 24: the file ends without \\end\\"),
    "further section": ("\\end\\", "\\4-grams:", "line 25: \\end\\ is expected, and '\\\\4-grams:' is there"),
    "no number": ("-99\t<s>", "minus\t<s>", "line 8: 'minus' is not a number"),
    "not finite": ("-99\t<s>", "nan\t<s>", "line 8: 'nan' is not a number"),
    "no probability": ("{-5}\t▁a", "0.5\t▁a", "line 10: 0.5 is no logarithm of a probability"),
    "too few words": ("\t▁a b\t{1}", "\t▁a", "line 16: it is no n-gram of order 2: "),
    "too many fields": ("\t{1}", "\t0\t0", "line 16: it is no n-gram of order 2: "),
    "twice": ("{-1}\tb c", "{-1}\tb </s>", "line 18: the n-gram 'b </s>' is there twice"),
    "unknown token": ("{-1}\tb c", "{-1}\tb x", "line 17: 'x' is not a token of the network"),
    "begin inside": ("{-1}\tb c", "{-1}\tb <s>", "line 17: <s> is inside an n-gram"),
    "huge": ("ngram 2=5", "ngram 2=5000000", "line 3: it has 5000006 n-grams, and 4000000 are possible"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_rejects_damaged_files_with_their_line(tmp_path: Path, case: str) -> None:
    old, new, cause = DAMAGES[case]
    assert old in ARPA
    path = write(tmp_path / "lm.arpa", ARPA.replace(old, new, 1))
    with pytest.raises(CheckpointError) as error:
        arpa.read(path, TOKENS)
    assert error.value.subject == str(path)
    assert error.value.cause.startswith(cause)
    assert error.value.remedy in (
        "Export the model again, or copy the file again",
        "Prune it, for example with KenLM's --prune or SRILM's -prune",
    )


def test_rejects_orders_above_the_limit(tmp_path: Path) -> None:
    text = "\\data\\\n" + "".join(f"ngram {order}=1\n" for order in range(1, 12))
    with pytest.raises(CheckpointError, match="line 12: the order 11 is above 10"):
        arpa.read(write(tmp_path / "lm.arpa", text), TOKENS)


def test_rejects_long_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "lm.arpa", ARPA.replace("b c", "b" * 10_000))
    with pytest.raises(CheckpointError, match="line 17: it has more than 4096 characters"):
        arpa.read(path, TOKENS)


def test_rejects_small_files_that_hold_much_text(tmp_path: Path) -> None:
    path = tmp_path / "bomb.arpa.gz"
    line = b"-1\t" + b"a" * 4_000 + b"\n"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"\\data\\\nngram 1=4000000\n\n\\1-grams:\n")
        for _ in range(150):
            file.write(line * 1_000)
    with pytest.raises(CheckpointError, match=r"line \d+: the text is larger than 512 MiB"):
        arpa.read(path, TOKENS)


def test_rejects_models_that_are_too_large_for_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arpa, "LARGEST_BYTES", 20)
    with pytest.raises(CheckpointError, match="KiB for clients, and 0 are possible"):
        arpa.read(write(tmp_path / "lm.arpa"), TOKENS)


def test_rejects_damaged_compression(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa.gz"
    packed = gzip.compress(in_quarters(ARPA).encode())
    for data in (packed[:-20], packed[:40] + b"\xff\xff\xff" + packed[43:]):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"it is damaged \(|line \d+: "):
            arpa.read(path, TOKENS)


def test_rejects_binary_files(tmp_path: Path) -> None:
    path = tmp_path / "lm.bin"
    path.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\x00\xff\xfe")
    assert not arpa.recognises(path)
    with pytest.raises(CheckpointError) as error:
        arpa.read(path, TOKENS)
    assert error.value.cause.startswith("it is damaged ('utf-8' codec can't decode byte 0xff")
