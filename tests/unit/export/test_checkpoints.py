"""Where weights come from: every source is on the command line, and production is as large as it says."""

from typing import Any

import pytest
import torch
from click.testing import CliRunner

from contract.catalogue import OPERATING_POINTS, catalogue, models
from export import __main__ as export_command
from export.checkpoints import SOURCES, production
from export.plan import WEIGHTS, Plan


def test_the_command_line_offers_every_source() -> None:
    assert tuple(SOURCES) == WEIGHTS


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_command_line_takes_every_source(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[Plan] = []
    monkeypatch.setattr(export_command, "run", wanted.append)
    result = CliRunner().invoke(export_command.command, ["--weights", weights, "--model", "body_standard"])
    assert result.exit_code == 0, result.output
    assert [(plan.weights, plan.models[0].name) for plan in wanted] == [(weights, "body_standard")]


@pytest.mark.parametrize("point", OPERATING_POINTS)
def test_a_production_body_has_about_120_million_parameters(point: str) -> None:
    body: Any = _without_memory("body", point).network
    assert 115e6 < sum(weight.numel() for weight in body.parameters()) < 125e6


@pytest.mark.parametrize("point", OPERATING_POINTS)
def test_what_reads_a_production_body_fits_it(point: str) -> None:
    sizes = {family: _without_memory(family, point).dims["encoder_size"] for family in ("body", "am_en", "decoder")}
    assert sizes == dict.fromkeys(sizes, 512)


def test_a_production_checkpoint_says_what_it_is() -> None:
    checkpoint = _without_memory("am_en", "standard")
    assert checkpoint.origin == "random weights of production size, seed 20260801"
    assert "tokens" in checkpoint.parameters
    assert checkpoint.digest != SOURCES["random"](models(catalogue())["am_en_standard"]).digest


def _without_memory(family: str, point: str) -> Any:
    # On torch's meta device a weight has a shape and no storage.
    with torch.device("meta"):
        return production.open_checkpoint(models(catalogue())[f"{family}_{point}"])
