"""Reads a Dockerfile into stages and a .dockerignore into a question, as far as the tests need."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage: what it starts from, its name, its instructions in order."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Give the texts of every such instruction."""
        return [text for name, text in self.instructions if name == instruction]

    def last(self, instruction: str) -> str:
        """Give the text of the last such instruction."""
        return self.all(instruction)[-1]

    def command(self, instruction: str) -> list[str]:
        """Give an instruction in its exec form; json refuses the other one."""
        found: list[str] = json.loads(self.last(instruction).rpartition("CMD ")[2])
        return found

    def sources(self) -> set[str]:
        """Name what is copied from the checkout."""
        copies = (text.split() for text in self.all("COPY") if not text.startswith("--from="))
        return {source for *sources, _ in copies for source in sources}

    def labels(self) -> dict[str, str]:
        """Give the labels."""
        return dict(re.findall(r'([\w.]+)="([^"]*)"', " ".join(self.all("LABEL"))))

    def environment(self) -> dict[str, str]:
        """Give the variables that are set."""
        return dict(word.split("=", 1) for text in self.all("ENV") for word in text.split())

    def packages(self) -> set[str]:
        """Name the packages that apt-get installs."""
        installed = (re.search(r"--no-install-recommends ([^&]*)", text) for text in self.all("RUN"))
        return {package for match in installed if match for package in match[1].split()}


def stages(text: str) -> dict[str, Stage]:
    """Read a Dockerfile's stages by name; what stands before the first one belongs to none."""
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
    """Give instruction and text, with continued lines joined and comments left out."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in kept.replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, rest = line.partition(" ")
            yield instruction, " ".join(rest.split())


def lineage(known: dict[str, Stage], name: str) -> Iterator[Stage]:
    """Give a stage and those that it is made from, without images of others."""
    while name in known:
        yield known[name]
        name = known[name].base


def let_in(path: str, patterns: str) -> bool:
    """Say whether Docker sends a file to the build: the last pattern that matches it or a folder above it decides."""
    kept = True
    for line in patterns.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            again = pattern.startswith("!")
            if _matches(path, pattern.removeprefix("!")):
                kept = again
    return kept


def _matches(path: str, pattern: str) -> bool:
    parts = path.split("/")
    expression = re.compile(_expression(pattern))
    return any(expression.fullmatch("/".join(parts[:count])) for count in range(1, len(parts) + 1))


def _expression(pattern: str) -> str:
    # `**` is any number of folders, none included; `*` and `?` stay within one name.
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]*\])", pattern.strip("/"))
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(token, token if token.startswith("[") else re.escape(token)) for token in tokens)
