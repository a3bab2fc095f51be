"""The weights of search and rescorers in the parameters of acoustic heads, from figures.json to the client."""

import json
from pathlib import Path

import pytest

from contract.catalogue import OPERATING_POINTS, catalogue, models
from contract.errors import CheckpointError
from export.checkpoints import SOURCES, random, reference
from transcriber import search_weights

EXPECTED = {
    "standard": search_weights.SearchWeights(
        ngram=0.8, bonus=2.0, rescorers={"decoder": 1.5}, rescorers_with_ngram={"decoder": 1.25}
    ),
    "enhanced": search_weights.SearchWeights(
        ngram=0.8,
        bonus=2.5,
        rescorers={"decoder": 1.0, "lm": 0.5},
        rescorers_with_ngram={"decoder": 2.0, "lm": 0.6},
    ),
}


@pytest.mark.parametrize("point", OPERATING_POINTS)
def test_reference_head_has_the_recorded_weights(point: str) -> None:
    parameters = reference.open_checkpoint(models(catalogue())[f"am_en_{point}"]).parameters
    found = search_weights.from_json(parameters["search_weights"])
    assert found == EXPECTED[point]
    figures = json.loads((reference.REFERENCE_FOLDER / "figures.json").read_text())[f"weighting_{point}"]
    assert (found.ngram, found.bonus) == (figures["ngram"], figures["bonus"])
    assert dict(found.rescorers) == {family: figures[family] for family in found.rescorers}
    assert dict(found.rescorers_with_ngram) == {family: figures[f"{family}_ngram"] for family in found.rescorers}


@pytest.mark.parametrize("point", OPERATING_POINTS)
def test_every_rescorer_of_a_point_has_a_weight(point: str) -> None:
    served = {family for family in ("decoder", "lm") if point in catalogue()[family].operating_points}
    found = search_weights.from_json(reference.search_weights(point))
    assert set(found.rescorers) == set(found.rescorers_with_ngram) == served


@pytest.mark.parametrize("point", OPERATING_POINTS)
def test_random_head_has_weights_of_every_rescorer(point: str) -> None:
    parameters = random.open_checkpoint(models(catalogue())[f"am_en_{point}"]).parameters
    found = search_weights.from_json(parameters["search_weights"])
    assert set(found.rescorers) == set(found.rescorers_with_ngram) == {"decoder", "lm"}


def test_only_the_head_has_search_weights() -> None:
    others = [family for family in ("body", "decoder", "diar") if family in catalogue()]
    for family in others:
        assert "search_weights" not in SOURCES["reference"](models(catalogue())[f"{family}_standard"]).parameters


def test_other_search_weights_are_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    head = models(catalogue())["am_en_standard"]
    before = reference.open_checkpoint(head).digest
    monkeypatch.setattr(reference, "search_weights", lambda _: "{}")
    assert reference.open_checkpoint(head).digest != before


@pytest.mark.parametrize(
    "content", ["{}", "no JSON", '{"weighting_standard": {"ngram": 1}}', '{"weighting_standard": 1}']
)
def test_rejects_figures_without_weights(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "REFERENCE_FOLDER", tmp_path)
    (tmp_path / "figures.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        reference.search_weights("standard")
    assert str(caught.value).startswith(f"{tmp_path / 'figures.json'}: it has no weights of the search for standard (")
    assert str(caught.value).endswith("). Run `python -m training weighting`, or restore the file.")
