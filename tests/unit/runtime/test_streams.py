"""Test the number of streams of which a server keeps the states."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from contract.arch import Arch
from contract.catalogue import Catalogue
from contract.errors import SettingError
from contract.platform import platform
from runtime import pbtxt, repository
from runtime.__main__ import parse
from runtime.budget import estimate
from runtime.bundles import Bundle
from runtime.selection import Selection, Target, select
from runtime.streams import with_places
from tests.unit.runtime import synthetic
from tests.unit.runtime.golden_files import ARCHES, THREADS


def realtime(catalogue: Catalogue, arch: Arch = Arch.SM86) -> Selection:
    """Serve a real-time bundle with a catalogue."""
    served = platform(ARCHES[arch])
    records = [
        synthetic.record(model, compiler=served.backend or "", mode="realtime")
        for model in synthetic.engine_models().values()
    ]
    made = synthetic.manifest(*records, arch=arch, platform_name=served.name)
    target = Target(arch=arch, platform=served, mode="realtime", operating_point=None)
    return select([Bundle(folder=Path("bundle"), manifest=made)], catalogue, target)


def with_batching(batching: dict[str, Any]) -> Catalogue:
    """Return the reference catalogue with other fields for the states of the body."""
    body = synthetic.FAMILIES["body"]
    mode = dataclasses.replace(body.modes["realtime"], triton={"sequence_batching": batching})
    changed = dataclasses.replace(body, modes={**body.modes, "realtime": mode})
    return synthetic.catalogue_of(*(synthetic.FAMILIES | {"body": changed}).values())


@pytest.mark.parametrize("arch", ARCHES)
def test_every_model_with_states_has_the_places(arch: Arch) -> None:
    catalogue = with_places(synthetic.CATALOGUE, "realtime", 500)
    usual, changed = (
        repository.configurations(realtime(each, arch), THREADS) for each in (synthetic.CATALOGUE, catalogue)
    )
    for point in catalogue.operating_points:
        batching = changed[f"body_{point}"]["sequence_batching"]
        assert batching["oldest"]["max_candidate_sequences"] == 500
    # Nothing else changes: a golden file holds the rest.
    texts = {name: pbtxt.render(config).replace("500", "192") for name, config in changed.items()}
    assert texts == {name: pbtxt.render(config) for name, config in usual.items()}


def test_memory_of_the_states_grows_with_the_places() -> None:
    few, many = (
        estimate(realtime(with_places(synthetic.CATALOGUE, "realtime", count))).state_bytes for count in (10, 1000)
    )
    assert many == 100 * few > 0


def test_recordings_have_no_places() -> None:
    assert with_places(synthetic.CATALOGUE, "batch", 500) == synthetic.CATALOGUE


def test_streams_in_the_slots_of_a_batch_are_refused() -> None:
    with pytest.raises(SettingError) as refusal:
        with_places(with_batching({"direct": {}}), "realtime", 500)
    assert str(refusal.value) == (
        "--streams: body in mode realtime has no sequence_batching.oldest: its largest batch limits its streams. "
        "Remove this setting, or build its engines with a larger batch."
    )


def test_a_start_reads_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_BATCH_MODE", "false")
    assert parse([]).catalogue == synthetic.CATALOGUE
    assert parse(["--streams", "500"]).catalogue == with_places(synthetic.CATALOGUE, "realtime", 500)
    monkeypatch.setenv("VOXWRIGHT_STREAMS", "300")
    assert parse([]).catalogue == with_places(synthetic.CATALOGUE, "realtime", 300)
    monkeypatch.setenv("SM_BATCH_MODE", "true")
    assert parse([]).catalogue == synthetic.CATALOGUE


@pytest.mark.parametrize("count", ["0", "-1", "65537", "many"])
def test_a_start_refuses_numbers_that_are_none(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--streams", count])
    assert ended.value.code == 2
    assert "'--streams'" in capsys.readouterr().err
