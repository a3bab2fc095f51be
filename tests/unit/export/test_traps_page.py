"""The page of traps: every test that it names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "architecture" / "14-checkpoint-traps.md"
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE.read_text(encoding="utf-8"))


def test_page_names_tests() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    traps = [line for line in rows if not line.startswith("| trap ")]
    assert len(traps) > 30
    assert all("::test_" in line for line in traps)


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_named_test_exists(file: str, name: str) -> None:
    files = list((ROOT / "tests").rglob(file))
    assert any(f"def {name}(" in path.read_text(encoding="utf-8") for path in files), f"{file} has no {name}"
