import random

import pytest

from training import corpus


@pytest.mark.parametrize(
    ("spoken", "text"),
    [
        ("Don't move it, Anna.", "don't move it anna"),
        ("It\u2019s a well-known fact: yes!", "it's a well known fact yes"),
        ("'Quoted' words; two  spaces", "quoted words two spaces"),
        ("", ""),
    ],
)
def test_normalise(spoken: str, text: str) -> None:
    assert corpus.normalise(spoken) == text


@pytest.mark.parametrize("spoken", ["It is 9 o'clock.", "100 %", "snake_case", "caf\u00e9"])
def test_normalise_rejects_lost_content(spoken: str) -> None:
    with pytest.raises(ValueError, match="cannot be written in a-z and apostrophes"):
        corpus.normalise(spoken)


def test_normalise_is_idempotent() -> None:
    source = random.Random(3)
    for _ in range(500):
        text = corpus.grammar_sentence(source).text
        assert corpus.normalise(text) == text


def test_same_seed_draws_same_sentences() -> None:
    def drawn(seed: int) -> list[corpus.Sentence]:
        source = random.Random(seed)
        return [corpus.grammar_sentence(source) for _ in range(200)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_grammar_sentences_are_varied() -> None:
    source = random.Random(0)
    texts = [corpus.grammar_sentence(source).text for _ in range(2000)]
    assert len(set(texts)) > 1600
    assert max(len(text.split()) for text in texts) < 60
    assert all(texts)


def test_vocabulary_size() -> None:
    words = corpus.vocabulary()
    assert 1000 < len(words) < 2500
    assert {"meeting", "thursday", "seventeen", "latency"} <= set(words)


def test_held_out_sentences_are_never_trained_on() -> None:
    source = random.Random(5)
    trained = {corpus.draw_from_grammar(source, held_out=False).text for _ in range(3000)}
    held_out = {corpus.draw_from_grammar(source, held_out=True).text for _ in range(300)}
    assert not trained & held_out


def test_one_sentence_in_sixteen_is_held_out() -> None:
    source = random.Random(7)
    texts = {corpus.grammar_sentence(source).text for _ in range(5000)}
    share = sum(map(corpus.is_held_out, texts)) / len(texts)
    assert share == pytest.approx(1 / corpus.HELD_OUT_SHARE, abs=0.015)


def test_word_salad_uses_known_words() -> None:
    source = random.Random(9)
    words = set(corpus.vocabulary())
    assert all(set(corpus.word_salad(source).text.split()) <= words for _ in range(100))


def test_rejects_unknown_rule(tmp_path: pytest.TempPathFactory) -> None:
    path = tmp_path / "grammar.txt"  # type: ignore[operator]
    path.write_text("sentence: Hello <missing>.\n")
    with pytest.raises(ValueError, match=r"grammar\.txt: no such rule: missing"):
        corpus.read_grammar(path)
