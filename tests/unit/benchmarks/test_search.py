"""The comparison of the searches, on a small model."""

import base64

import pytest

from benchmarks import search
from benchmarks.search import COMPILED, PYTHON, Material
from contract.client import SearchSpec
from contract.errors import GraphError
from tests.unit.transcriber.models import LEVELS, VOCABULARY, token_spec
from tests.unit.transcriber.test_ctc import emissions
from transcriber import ngram

TEXT = base64.b85encode(ngram.encode(LEVELS, VOCABULARY)).decode()
MATERIAL = Material(
    operating_point="standard",
    duration_s=2.0,
    segments=(emissions(1, 30, 4), emissions(2, 20, 4)),
    tokens=token_spec(pieces=("<blank>", "<unk>", "</s>", "▁a", "b", "c")),
    search=SearchSpec(ngram_weight=0.7, token_bonus=0.5, ngram=TEXT),
)


def test_compares_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "ROUNDS", 1)
    found = list(search.measure(MATERIAL))
    assert [(each.title, each.first_name, each.second_name) for each in found] == [
        ("standard: search and alignment of an hour of audio", PYTHON, COMPILED),
        ("standard: search and alignment of an hour of audio", COMPILED, search.BOOSTED),
        ("standard: n-gram model, search and alignment of the dialogue", PYTHON, COMPILED),
    ]
    assert all(each.unit == "processor s" and each.second[0] > 0 for each in found[:2])


def test_rejects_searches_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    other = MATERIAL.search.__class__(ngram_weight=0.0, token_bonus=-2.0, ngram=TEXT)
    different = Material(
        operating_point="standard", duration_s=2.0, segments=MATERIAL.segments, tokens=MATERIAL.tokens, search=other
    )
    monkeypatch.setitem(search.MAKERS, COMPILED, lambda _: search.compiled(different))
    with pytest.raises(GraphError) as caught:
        list(search.measure(MATERIAL))
    assert (caught.value.subject, caught.value.cause[:20]) == ("am_en_standard", "the searches differ:")


def test_rejects_weights_without_ngrams() -> None:
    without = Material(
        operating_point="enhanced", duration_s=2.0, segments=(), tokens=MATERIAL.tokens, search=SearchSpec()
    )
    with pytest.raises(GraphError) as caught:
        search.compiled(without)
    assert str(caught.value) == (
        "am_en_enhanced: its weights have no n-gram model. Run `python -m export` with the reference weights."
    )
