#!/usr/bin/env python3
"""Check that the code, the tests and the docs use plain technical English: no word of the list below, in no identifier.

    ci/check_words.py [FILE...]    default: every text file that git tracks or could track

Exit code 1 when a word is found; each finding is printed as `file:line: word (use: alternatives)`.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The words that may not come back, and what the field calls the thing.
REPLACEMENTS = {
    ("hear", "hears", "heard", "hearing"): "recognise, receive, read, train on",
    ("tell", "tells", "told", "telling"): "report, print, state, pass, distinguish",
    ("say", "says", "said", "saying", "unsaid"): "report, print, state, contain, spoken",
    ("ask", "asks", "asked", "asking"): "request, query, call, require",
    ("mend", "mends", "mended", "mending"): "fix, correct, repair",
    ("stranger", "strangers"): "unlisted file, unknown",
    ("whoever", "whom"): "the caller, the operator, a user who",
    ("nobody", "somebody", "everybody", "anybody"): "no client, no operator, a user, every caller",
    ("obtain", "obtains", "obtained", "obtaining"): "fetch, get, build",
    ("patience", "patiently"): "timeout, with retries",
    ("weigh", "weighs", "weighed", "weighing"): "tune the weights, compare, measure",
    ("guess", "guesses", "guessed", "guessing"): "estimate, prediction, CTC head",
    ("anew",): "again",
    ("sighting", "sightings"): "detection",
    ("sift", "sifts", "sifted"): "partition, filter",
}
_USE = {word: use for words, use in REPLACEMENTS.items() for word in words}
# A docstring begins with an imperative such as Return, Check, Build, Write or Raise.
_DOCSTRING = re.compile(r'^\s*[rf]?"""(Give|Gives|Say|Says|Tell|Tells)\b')
# Words of identifiers: parts of snake_case and of CamelCase, and whole words of prose.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SUFFIXES = {".py", ".md", ".toml", ".c", ".sh", ".yaml", ".yml", ".jinja", ".tpl", ".txt", ".css", ".html", ""}
# Sentences that are spoken, text that others wrote, and the list itself.
_EXEMPT = {"LICENSE", "training/grammar.txt", "ci/check_words.py", "tests/unit/test_check_words.py"}
_MARK = "words: spoken"
"""A line that ends with this comment holds text that is spoken in a recording, not a sentence of ours."""


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line number from 1, word, what to write in its place) for every word of the list in a text."""
    for number, line in enumerate(text.splitlines(), 1):
        if _MARK in line:
            continue
        begins = _DOCSTRING.match(line)
        if begins:
            yield number, f"a docstring that begins with {begins[1]}", "Return, Check, Build, Write, Raise"
        for word in _WORD.findall(line):
            if word.lower() in _USE:
                yield number, word, _USE[word.lower()]


def tracked() -> Iterator[Path]:
    """Yield every text file that git tracks, and every one that it would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        path = ROOT / name
        if path.suffix in _SUFFIXES and path.is_file():
            yield path


def main(files: Iterable[str]) -> int:
    """Print every finding in the files, or in the whole checkout; return 1 when there is one."""
    found = 0
    for path in [Path(file).resolve() for file in files] or tracked():
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
        if name in _EXEMPT:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, word, use in findings(text):
            found += 1
            print(f"{name}:{number}: {word} (use: {use})")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
