"""Parse a Dockerfile into stages, and match paths against a .dockerignore, as far as the tests need it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage: the image or stage that it starts from, its name, and its instructions in order."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Return the texts of all instructions of a name."""
        return [text for name, text in self.instructions if name == instruction]

    def last(self, instruction: str) -> str:
        """Return the text of the last instruction of a name."""
        return self.all(instruction)[-1]

    def command(self, instruction: str) -> list[str]:
        """Return the words of an instruction in exec form. Raises ValueError for the shell form."""
        found: list[str] = json.loads(self.last(instruction).rpartition("CMD ")[2])
        return found

    def sources(self) -> set[str]:
        """Return the paths that are copied from the checkout."""
        copies = (text.split() for text in self.all("COPY") if not text.startswith("--from="))
        return {source for *sources, _ in copies for source in sources}

    def labels(self) -> dict[str, str]:
        """Return the labels by name."""
        return dict(re.findall(r'([\w.]+)="([^"]*)"', " ".join(self.all("LABEL"))))

    def environment(self) -> dict[str, str]:
        """Return the environment variables that are set."""
        return dict(word.split("=", 1) for text in self.all("ENV") for word in text.split())

    def packages(self) -> set[str]:
        """Return the packages that apt-get installs."""
        installed = (re.search(r"--no-install-recommends ([^&]*)", text) for text in self.all("RUN"))
        return {package for match in installed if match for package in match[1].split()}


def stages(text: str) -> dict[str, Stage]:
    """Return a Dockerfile's stages by name. Instructions before the first stage belong to no stage."""
    found: dict[str, Stage] = {}
    stage = Stage(base="", name="")
    for instruction, rest in instructions(text):
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = found[name] = Stage(base=base, name=name)
        else:
            stage.instructions.append((instruction, rest))
    return found


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of every instruction, with continued lines joined and comments removed."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in kept.replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, rest = line.partition(" ")
            yield instruction, " ".join(rest.split())


def lineage(known: dict[str, Stage], name: str) -> Iterator[Stage]:
    """Yield a stage and the stages that it is based on, without external images."""
    while name in known:
        yield known[name]
        name = known[name].base


def included(path: str, patterns: str) -> bool:
    """Return whether Docker sends a file to the build: the last pattern that matches it or a parent folder decides."""
    kept = True
    for line in patterns.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            negated = pattern.startswith("!")
            if _matches(path, pattern.removeprefix("!")):
                kept = negated
    return kept


def _matches(path: str, pattern: str) -> bool:
    parts = path.split("/")
    expression = re.compile(_expression(pattern))
    return any(expression.fullmatch("/".join(parts[:count])) for count in range(1, len(parts) + 1))


def _expression(pattern: str) -> str:
    # `**` matches any number of folders, also zero; `*` and `?` match within one name.
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]*\])", pattern.strip("/"))
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(token, token if token.startswith("[") else re.escape(token)) for token in tokens)
