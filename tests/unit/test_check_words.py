"""The lint rule for plain technical English."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def check(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "ci/check_words.py", *map(str, files)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("# The server was told to stop.", "told"),
        ("def test_nobody_listens() -> None:", "nobody"),
        ("class HeardWords:", "Heard"),
        ("PATIENCE_S = 3", "PATIENCE"),
        ('    """Give the length in seconds."""', "a docstring that begins with Give"),
        ("Whoever asks is refused.", "Whoever"),
    ],
)
def test_rejects_listed_word(tmp_path: Path, line: str, word: str) -> None:
    (tmp_path / "text.md").write_text(f"A first line.\n{line}\n")
    result = check(tmp_path / "text.md")
    assert result.returncode == 1
    assert result.stdout.startswith(f"{tmp_path}/text.md:2: {word} (use: ")


@pytest.mark.parametrize(
    "line",
    [
        "The weights are shared; the task is masked; an essay was read.",
        'SENTENCES = ["they told me"]  # words: spoken',
        '    """Return the length in seconds."""',
    ],
)
def test_accepts_plain_text_and_spoken_text(tmp_path: Path, line: str) -> None:
    (tmp_path / "text.py").write_text(f"{line}\n")
    assert check(tmp_path / "text.py").returncode == 0


def test_checks_every_text_file_of_the_checkout(tmp_path: Path) -> None:
    """Run on a small repository: tracked and new files are read, ignored ones and the list itself are not."""
    for name, text in {
        "ci/check_words.py": (ROOT / "ci" / "check_words.py").read_text(),
        "docs/page.md": "It says nothing.",
        "Makefile": "# told",
        "dist/made.md": "told",
        ".gitignore": "dist/",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    command = [sys.executable, "ci/check_words.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert [line.partition(": ")[0] for line in result.stdout.splitlines()] == ["Makefile:1", "docs/page.md:1"]
