"""Compare configurations with golden files; tests/integration/test_config.py reads them with Triton's schema."""

import pytest

from contract.arch import Arch
from tests.unit.runtime import golden_files

RENEW = "if intended, write them with `.venv/bin/python -m tests.unit.runtime.golden_files` and review the difference"


@pytest.mark.parametrize("arch", golden_files.ARCHES, ids=lambda arch: arch.value)
@pytest.mark.parametrize("mode", golden_files.MODES)
def test_configurations(mode: str, arch: Arch) -> None:
    """A new model or a new mode in the catalogue needs golden files of its own."""
    golden = {path.stem: path.read_text(encoding="utf-8") for path in golden_files.folder(mode, arch).glob("*.pbtxt")}
    rendered = golden_files.rendered(mode, arch)
    assert sorted(rendered) == golden_files.expected(mode)
    assert sorted(golden) == sorted(rendered), RENEW
    for name, text in rendered.items():
        assert text == golden[name], RENEW


def test_no_obsolete_golden_folder() -> None:
    folders = {path.parent for path in golden_files.GOLDEN.rglob("*") if path.is_file()}
    assert folders == {golden_files.folder(mode, arch) for mode in golden_files.MODES for arch in golden_files.ARCHES}


def test_catalogue_has_eleven_models_in_batch_mode() -> None:
    assert len(golden_files.expected("batch")) == 11
