"""The weights of search and rescorers in what clients know about CTC heads, from figures.json to the client."""

import json
from pathlib import Path

import pytest

from contract.catalogue import HYPOTHESIS_ROLES, read_catalogue
from contract.client import Calibration, SearchSpec
from contract.errors import CheckpointError
from export.checkpoints import SOURCES, random, reference

CATALOGUE = read_catalogue()
EXPECTED = {
    "standard": SearchSpec(
        ngram_weight=0.8,
        token_bonus=2.0,
        rescorers={"rescorer": 1.5},
        rescorers_with_ngram={"rescorer": 1.25},
        confidence=Calibration(slope=1.105, offset=-1.432),
        confidence_with_ngram=Calibration(slope=0.615, offset=1.668),
    ),
    "enhanced": SearchSpec(
        ngram_weight=0.8,
        token_bonus=2.5,
        rescorers={"rescorer": 1.0, "lm": 0.5},
        rescorers_with_ngram={"rescorer": 2.0, "lm": 0.6},
        confidence=Calibration(slope=1.072, offset=-2.035),
        confidence_with_ngram=Calibration(slope=0.462, offset=2.234),
    ),
}


@pytest.mark.parametrize("point", CATALOGUE.operating_points)
def test_reference_head_has_the_recorded_weights(point: str) -> None:
    assert reference.search_spec(point) == EXPECTED[point]
    figures = json.loads((reference.REFERENCE_FOLDER / "figures.json").read_text())[f"weighting_{point}"]
    assert (EXPECTED[point].ngram_weight, EXPECTED[point].token_bonus) == (figures["ngram"], figures["bonus"])
    found = reference.open_checkpoint(CATALOGUE.models()[f"am_en_{point}"]).client.search
    assert found == reference.search_spec(point, reference.ngram_path("am_en", point))
    assert found is not None
    assert found.ngram is not None


def test_calibration_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = json.loads((reference.REFERENCE_FOLDER / "figures.json").read_text())
    del figures["confidence_standard"]
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    monkeypatch.setattr(reference, "REFERENCE_FOLDER", tmp_path)
    found = reference.search_spec("standard")
    assert (found.ngram_weight, found.confidence, found.confidence_with_ngram) == (0.8, None, None)


@pytest.mark.parametrize("point", CATALOGUE.operating_points)
def test_every_rescorer_of_a_point_has_a_weight(point: str) -> None:
    served = {role for role in HYPOTHESIS_ROLES if CATALOGUE.find(role, "en", point)}
    found = reference.search_spec(point)
    assert set(found.rescorers) == set(found.rescorers_with_ngram) == served


@pytest.mark.parametrize("point", CATALOGUE.operating_points)
def test_random_head_has_weights_of_every_rescorer(point: str) -> None:
    found = random.open_checkpoint(CATALOGUE.models()[f"am_en_{point}"]).client.search
    assert found is not None
    assert set(found.rescorers) == set(found.rescorers_with_ngram) == {"rescorer", "lm"}


@pytest.mark.parametrize("family", ["body", "decoder", "diar"])
def test_only_the_head_has_search_weights(family: str) -> None:
    assert SOURCES["reference"](CATALOGUE.models()[f"{family}_standard"]).client.search is None


def test_other_search_weights_are_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    head = CATALOGUE.models()["am_en_standard"]
    before = reference.open_checkpoint(head).digest
    monkeypatch.setattr(reference, "search_spec", lambda *_: SearchSpec())
    assert reference.open_checkpoint(head).digest != before


@pytest.mark.parametrize(
    "content", ["{}", "no JSON", '{"weighting_standard": {"ngram": 1}}', '{"weighting_standard": 1}']
)
def test_rejects_figures_without_weights(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "REFERENCE_FOLDER", tmp_path)
    (tmp_path / "figures.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        reference.search_spec("standard")
    assert str(caught.value).startswith(f"{tmp_path / 'figures.json'}: it has no weights of the search for standard (")
    assert str(caught.value).endswith("). Run `python -m training weighting`, or restore the file.")
