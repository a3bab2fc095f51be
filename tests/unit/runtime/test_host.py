"""Test the memory that a process may use: the host's, or its container's limit."""

from pathlib import Path

import pytest

from runtime import host

MEMORY_INFO = "MemTotal:       24683656 kB\nMemFree:         1 kB\n"


@pytest.mark.parametrize(
    ("information", "limits", "memory"),
    [
        (MEMORY_INFO, [], 24683656 << 10),
        (MEMORY_INFO, ["max\n"], 24683656 << 10),
        (MEMORY_INFO, ["8589934592\n"], 8 << 30),
        (MEMORY_INFO, [None, "8589934592\n"], 8 << 30),
        # Control groups version 1 write no limit as a number that no machine has.
        (MEMORY_INFO, ["9223372036854771712\n"], 24683656 << 10),
        (None, ["8589934592\n"], 8 << 30),
        ("MemFree: 1 kB\n", [], None),
        ("MemTotal:\n", [], None),
        (None, [None], None),
    ],
)
def test_memory(tmp_path: Path, information: str | None, limits: list[str | None], memory: int | None) -> None:
    paths = [tmp_path / name for name in ("meminfo", "first", "second")]
    for path, text in zip(paths, [information, *limits], strict=False):
        if text is not None:
            path.write_text(text)
    assert host.memory_bytes(paths[0], tuple(paths[1:])) == memory


def test_this_host() -> None:
    found = host.describe()
    assert found.cores >= 1
    assert found.memory_bytes is None or found.memory_bytes > 1 << 28
