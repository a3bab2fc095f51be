"""Test ten kinds of damage to a bundle: exit code, the doctor's equal error, and that nothing is written."""

import json
from pathlib import Path

import pytest

from tests.fakes.driver import needs_bindings
from tests.integration import damage_page
from tests.integration.damage_page import DAMAGES, PAGE, SOUND, Damage

pytestmark = [
    pytest.mark.integration,
    needs_bindings,
    pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU"),
]


def everything(folder: Path) -> dict[str, bytes | str]:
    """Return everything below a folder: the bytes of files and the targets of links. The lock of a repository stays."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else (path.read_bytes() if path.is_file() else "folder")
        for path in folder.rglob("*")
        if path.name != "repository.lock"
    }


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.title)
@pytest.mark.parametrize("is_first", [True, False], ids=["first start", "later start"])
def test_rejects_damaged_bundle(tmp_path: Path, damage: Damage, *, is_first: bool) -> None:
    library = damage_page.prepare(damage, tmp_path)
    if not is_first:
        served = tmp_path / "dist" / "repository" / "old_model"
        served.mkdir(parents=True)
        (served / "config.pbtxt").write_text("")
    before = everything(tmp_path)
    start = damage_page.run(damage, tmp_path, library, "runtime")
    (sentence,) = damage_page.sentences(start.stderr)
    assert (start.returncode, start.stdout) == (damage.exit_code, "")
    examined = damage_page.run(damage, tmp_path, library, "runtime.doctor", "--json")
    table = json.loads(examined.stdout)
    assert (examined.returncode, table["exit_code"], table["starts"]) == (damage.exit_code, damage.exit_code, False)
    assert table["refusals"] == [sentence]
    assert everything(tmp_path) == before


def test_serves_undamaged_bundle(tmp_path: Path) -> None:
    library = damage_page.prepare(SOUND, tmp_path)
    start = damage_page.run(SOUND, tmp_path, library, "runtime")
    assert (start.returncode, damage_page.sentences(start.stderr)) == (0, [])
    assert (tmp_path / damage_page.SERVER_RAN).is_file()
    assert (tmp_path / "dist" / "repository" / "body_standard" / "config.pbtxt").is_file()


def test_page_is_current() -> None:
    """Compare the wording once. The other tests check facts."""
    text = PAGE.read_text(encoding="utf-8")
    assert damage_page.page() == text, "write it again: .venv/bin/python -m tests.integration.damage_page"
