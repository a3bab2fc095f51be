import math
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.networks.reserved_tokens import BOUNDARY
from training import corpus, language
from training.batch import IGNORED, next_tokens


class Uneven:
    """A model with a probability of token t that grows with t and does not depend on the past."""

    def log_probs(self, tokens: Tensor) -> Tensor:
        weights = torch.arange(1.0, 11.0)
        return (weights / weights.sum()).log().expand(tokens.shape[0], tokens.shape[1] + 1, 10)


def test_pads_with_the_boundary() -> None:
    tokens, lengths = language.pad_tokens([[5, 6, 7], [8]])
    assert tokens.tolist() == [[5, 6, 7], [8, BOUNDARY, BOUNDARY]]
    assert tokens.dtype == torch.int64
    assert lengths.tolist() == [3, 1]


def test_pads_an_empty_text() -> None:
    tokens, lengths = language.pad_tokens([[], [4]])
    assert tokens.tolist() == [[BOUNDARY], [4]]
    assert lengths.tolist() == [0, 1]


def test_next_tokens() -> None:
    targets = next_tokens(torch.tensor([[5, 6, 7], [8, 2, 2], [9, 9, 9]]), torch.tensor([3, 1, 0]))
    assert targets.tolist() == [
        [5, 6, 7, BOUNDARY],
        [8, BOUNDARY, IGNORED, IGNORED],
        [BOUNDARY, IGNORED, IGNORED, IGNORED],
    ]


def test_loss_counts_tokens_and_end_without_padding() -> None:
    loss = language.cross_entropy(Uneven(), *language.pad_tokens([[5, 6, 7], [8]]))
    tokens = [5, 6, 7, BOUNDARY, 8, BOUNDARY]
    assert float(loss) == pytest.approx(-sum(math.log((token + 1) / 55) for token in tokens) / len(tokens), abs=1e-5)


def test_trains_on_no_held_out_text() -> None:
    source = random.Random(0)
    spoken = (f"All {word} words are made by a machine." for word in corpus.vocabulary()[:60])
    library = [one for one in map(corpus.sentence, spoken) if not corpus.is_held_out(one.text)]
    texts = [language._text(source, library) for _ in range(300)]
    assert all(texts)
    assert sum(any(one.text in text for one in library) for text in texts) / len(texts) == pytest.approx(0.3, abs=0.08)
    held_out = {one.text for one in corpus.prose() if corpus.is_held_out(one.text)}
    assert not held_out & set(texts)


def test_library_prose_reads_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "library.txt"
    path.write_text("The first one.\nIt's a well-known fact.\n")
    assert corpus.library_prose(path) == (
        corpus.Sentence(spoken="The first one.", text="the first one"),
        corpus.Sentence(spoken="It's a well-known fact.", text="it's a well known fact"),
    )


def test_library_prose_leaves_out_held_out_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for word in corpus.vocabulary() if word.isalpha()][:200]
    sentences = [f"This is what {word} does." for word in words]
    package = tmp_path / "manual"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text('"""A package that explains itself.\n\nx = f(y) is not prose."""\n')
    lines = "\n\n".join(sentences)
    (package / "inner" / "words.py").write_text(f'def explained():\n    """{lines}"""\n')
    (package / "later.py").write_text("this is no Python of today(")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(corpus, "LIBRARIES", ("manual",))
    path = tmp_path / "out" / "library.txt"
    found = corpus.library_prose(path)
    texts = {one.text for one in found}
    wanted = {corpus.normalise(each) for each in [*sentences, "A package that explains itself."]}
    assert texts == {text for text in wanted if not corpus.is_held_out(text)}
    assert texts < wanted
    assert path.read_text().splitlines() == [one.spoken for one in found]
    monkeypatch.setattr(corpus, "LIBRARIES", ("no_such_package",))
    assert corpus.library_prose(path) == found
