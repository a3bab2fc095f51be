"""Sentences to synthesise: a grammar of meetings, and prose that every Debian machine with Python has."""

import ast
import hashlib
import importlib.util
import random
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

from contract import files

GRAMMAR_PATH = Path(__file__).with_name("grammar.txt")
LICENCE_FOLDER = Path("/usr/share/common-licenses")
# Libraries of the lock file with much documentation in whole sentences.
LIBRARIES = ("networkx", "numpy", "scipy", "sympy", "torch")
# One sentence in sixteen, chosen by its hash, is never trained on.
HELD_OUT_SHARE = 16
DEEPEST_EXPANSION = 14
PROSE_WORDS = range(4, 24)

_REFERENCE = re.compile(r"<([A-Za-z_]+)>")
_SPEAKABLE = re.compile(r"[A-Za-z',;:\- ]+[.?!]?")
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_NESTING = (ast.stmt, ast.ExceptHandler, ast.match_case)
_NOT_PROSE = re.compile(r"\b[A-Z]{2,}|[a-z][A-Z]|--|\b[b-hj-zB-HJ-Z]\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """A sentence as the synthesiser reads it, with capitals and punctuation, and its transcript."""

    spoken: str
    text: str


def sentence(spoken: str) -> Sentence:
    """Return the sentence of a spoken text."""
    return Sentence(spoken=spoken, text=normalise(spoken))


def normalise(spoken: str) -> str:
    """Return the words of a text in a-z and apostrophes, separated by single spaces.

    Raises ValueError when spoken content would be lost, such as a digit.
    """
    text = spoken.lower().replace("\u2019", "'").replace("-", " ")
    text = re.sub(r"[.,;:?!]", " ", text)
    if not re.fullmatch(r"[a-z' ]*", text):
        raise ValueError(f"cannot be written in a-z and apostrophes: {spoken!r}")
    return " ".join(word.strip("'") for word in text.split()).strip()


def is_held_out(text: str) -> bool:
    """Return whether a transcript is held out for evaluation; it depends on the text alone, not on the seed."""
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_SHARE == 0


@cache
def read_grammar(path: Path = GRAMMAR_PATH) -> Mapping[str, tuple[str, ...]]:
    """Read `rule: alternative | alternative*weight`: the alternatives of every rule, repeated by weight.

    Raises ValueError when an alternative refers to an unknown rule.
    """
    rules: dict[str, tuple[str, ...]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        head, _, body = line.partition(":")
        if line.startswith("|"):
            body = line
        else:
            name = head
        rules[name] = rules.get(name, ()) + tuple(_alternatives(body))
    unknown = {used for texts in rules.values() for text in texts for used in _REFERENCE.findall(text)} - rules.keys()
    if unknown:
        raise ValueError(f"{path.name}: no such rule: {', '.join(sorted(unknown))}")
    return rules


def grammar_sentence(source: random.Random) -> Sentence:
    """Draw one sentence of the grammar."""
    rules = read_grammar()
    return sentence(_tidy(_expand("sentence", rules, source, DEEPEST_EXPANSION)))


def word_salad(source: random.Random) -> Sentence:
    """Draw two to seven unrelated words, so that the networks learn word sequences outside the grammar."""
    words = source.choices(vocabulary(), k=source.randint(2, 7))
    return sentence(" ".join(words).capitalize() + ".")


@cache
def vocabulary() -> tuple[str, ...]:
    """Return every word of the grammar, sorted."""
    texts = (alternative for alternatives in read_grammar().values() for alternative in alternatives)
    return tuple(sorted({word for text in texts for word in normalise(_REFERENCE.sub(" ", text)).split()}))


@cache
def prose() -> tuple[Sentence, ...]:
    """Return the distinct sentences of Python's manual, its docstrings and Debian's licences, sorted by transcript."""
    return _sentences_of(_prose_texts())


def library_prose(path: Path) -> tuple[Sentence, ...]:
    """Return the sentences of the docstrings of LIBRARIES that are not held out, from a file that is written once.

    Reading the libraries takes up to a minute. The sentences teach words; nothing is measured on them.
    """
    if not path.is_file():
        found = sentences_of(library_sources())
        kept = [one.spoken for one in found if not is_held_out(one.text)]
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, "\n".join(kept) + "\n")
    return tuple(sentence(line) for line in path.read_text(encoding="utf-8").splitlines())


def draw(source: random.Random, candidates: Sequence[Sentence], *, held_out: bool) -> Sentence:
    """Draw candidates until one is held out, or not held out, as wanted."""
    while True:
        one = source.choice(candidates)
        if is_held_out(one.text) == held_out:
            return one


def draw_from_grammar(source: random.Random, *, held_out: bool) -> Sentence:
    """Draw from the grammar until a sentence is held out, or not held out, as wanted."""
    while True:
        one = grammar_sentence(source)
        if one.text and is_held_out(one.text) == held_out:
            return one


def library_sources() -> list[Path]:
    """Return the Python files of LIBRARIES, in a fixed order."""
    packages = (Path(str(importlib.util.find_spec(name).origin)).parent for name in LIBRARIES)  # type: ignore[union-attr]
    return [each for package in packages for each in sorted(package.rglob("*.py"))]


def sentences_of(sources: Iterable[Path]) -> tuple[Sentence, ...]:
    """Return the distinct sentences of the docstrings of Python files, sorted by transcript."""
    return _sentences_of(text for each in sources for text in _docstrings(each))


def _sentences_of(texts: Iterable[str]) -> tuple[Sentence, ...]:
    found: dict[str, Sentence] = {}
    for text in texts:
        for candidate in _SENTENCE_END.split(" ".join(text.split())):
            if _is_prose(candidate):
                one = sentence(candidate)
                found.setdefault(one.text, one)
    return tuple(found[text] for text in sorted(found))


def _alternatives(line: str) -> Iterator[str]:
    for part in line.split("|"):
        text, _, weight = part.strip().partition("*")
        if text:
            yield from [text] * int(weight or 1)


def _expand(name: str, rules: Mapping[str, tuple[str, ...]], source: random.Random, depth: int) -> str:
    # Below the deepest level only alternatives with the fewest references remain, which ends any recursion.
    alternatives = rules[name]
    if depth <= 0:
        fewest = min(len(_REFERENCE.findall(text)) for text in alternatives)
        alternatives = tuple(text for text in alternatives if len(_REFERENCE.findall(text)) == fewest)
    chosen = source.choice(alternatives)
    return _REFERENCE.sub(lambda match: _expand(match.group(1), rules, source, depth - 1), chosen)


def _tidy(text: str) -> str:
    text = re.sub(r"([.?!])\s*[.?!,]+", r"\1", text)
    text = re.sub(r"\ba (?=[aeio]\w|eight|eleven|un)", "an ", text)
    return text[:1].upper() + text[1:]


def _is_prose(candidate: str) -> bool:
    if not _SPEAKABLE.fullmatch(candidate) or _NOT_PROSE.search(candidate):
        return False
    words = normalise(candidate).split()
    return len(words) in PROSE_WORDS and max(map(len, words)) <= 16


def _prose_texts() -> Iterator[str]:
    yield from (paragraph for text in topics.values() for paragraph in text.split("\n\n"))
    for path in sorted(LICENCE_FOLDER.glob("*")):
        yield from path.read_text(encoding="utf-8", errors="ignore").split("\n\n")
    library = Path(ast.__file__).parent
    for name in sorted(sys.stdlib_module_names):
        for path in sorted([library / f"{name}.py", *(library / name).glob("*.py")]):
            yield from _docstrings(path)


def _docstrings(path: Path) -> Iterator[str]:
    if not path.is_file():
        return
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        # Some libraries contain tests in the syntax of a later Python version.
        return
    # Breadth first, as ast.walk: of two spellings of a sentence the first one is kept. Expressions contain no
    # docstring, and leaving them out is ten times faster.
    queue: deque[ast.AST] = deque([tree])
    while queue:
        node = queue.popleft()
        queue.extend(child for child in _statements(node))
        text = ast.get_docstring(node) if isinstance(node, _DOCUMENTED) else None
        yield from (text or "").split("\n\n")


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    for name in node._fields:
        children = getattr(node, name)
        if isinstance(children, list):
            yield from (child for child in children if isinstance(child, _NESTING))
