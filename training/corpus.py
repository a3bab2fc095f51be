"""Text to speak: sentences of a grammar of meetings, and prose that lies on any machine."""

import ast
import hashlib
import importlib.util
import random
import re
import sys
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
_NOT_PROSE = re.compile(r"\b[A-Z]{2,}|[a-z][A-Z]|--|\b[b-hj-zB-HJ-Z]\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """What a synthesiser reads, with capitals and punctuation, and what a recogniser must answer."""

    spoken: str
    text: str


def sentence(spoken: str) -> Sentence:
    """Pair a spoken text with its transcript."""
    return Sentence(spoken=spoken, text=normalise(spoken))


def normalise(spoken: str) -> str:
    """Reduce to words of a-z and apostrophes with one space between.

    Raises ValueError when something would be lost that is spoken, such as a digit.
    """
    text = spoken.lower().replace("\u2019", "'").replace("-", " ")
    text = re.sub(r"[.,;:?!]", " ", text)
    if not re.fullmatch(r"[a-z' ]*", text):
        raise ValueError(f"cannot be written in a-z and apostrophes: {spoken!r}")
    return " ".join(word.strip("'") for word in text.split()).strip()


def is_held_out(text: str) -> bool:
    """Say whether a transcript belongs to the evaluation: a property of the text alone, whatever the seed."""
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_SHARE == 0


@cache
def read_grammar(path: Path = GRAMMAR_PATH) -> Mapping[str, tuple[str, ...]]:
    """Read `rule: alternative | alternative*weight` into the alternatives of every rule, repeated by weight."""
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
    """Draw two to seven unrelated words, so that the networks learn to hear what the grammar would never say."""
    words = source.choices(vocabulary(), k=source.randint(2, 7))
    return sentence(" ".join(words).capitalize() + ".")


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word the grammar can say, sorted."""
    texts = (alternative for alternatives in read_grammar().values() for alternative in alternatives)
    return tuple(sorted({word for text in texts for word in normalise(_REFERENCE.sub(" ", text)).split()}))


@cache
def prose() -> tuple[Sentence, ...]:
    """Sentences of Python's manual, of its docstrings and of the licences of Debian; sorted, each once."""
    return _sentences_of(_prose_texts())


def library_prose(path: Path) -> tuple[Sentence, ...]:
    """Sentences of the docstrings of the lock file's libraries; kept in a file, as reading the libraries takes minutes.

    None of them is on the held-out side: they teach words, and nothing is measured on them.
    """
    if not path.is_file():
        packages = (Path(str(importlib.util.find_spec(name).origin)).parent for name in LIBRARIES)  # type: ignore[union-attr]
        paths = [each for package in packages for each in sorted(package.rglob("*.py"))]
        found = _sentences_of(text for each in paths for text in _docstrings(each))
        kept = [one.spoken for one in found if not is_held_out(one.text)]
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, "\n".join(kept) + "\n")
    return tuple(sentence(line) for line in path.read_text(encoding="utf-8").splitlines())


def drawn(source: random.Random, candidates: Sequence[Sentence], *, held_out: bool) -> Sentence:
    """Draw one of the candidates of a side of the hold-out."""
    while True:
        one = source.choice(candidates)
        if is_held_out(one.text) == held_out:
            return one


def drawn_from_grammar(source: random.Random, *, held_out: bool) -> Sentence:
    """Draw from the grammar until the sentence is of the wanted side of the hold-out."""
    while True:
        one = grammar_sentence(source)
        if one.text and is_held_out(one.text) == held_out:
            return one


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
    # Below the deepest level only alternatives with the fewest references are left, which ends any recursion.
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
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        # Some libraries carry tests in the syntax of a later Python than this one.
        return
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, documented) else None
        yield from (text or "").split("\n\n")
