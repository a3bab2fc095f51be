"""The command blocks of the pages that a new user follows, as the pages have them.

A block is fenced and begins with ```bash. The word after it states what the block needs and this test machine lacks.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

RUN, SERVER = "", "server"
NOT_RUN = {
    "long": "takes minutes or more, and its commands have tests of their own",
    "gpu": "needs a GPU",
    "docker": "needs a container engine",
    "cluster": "needs a Kubernetes cluster",
    "promtool": "needs Prometheus' promtool",
    "perf": "needs NVIDIA's perf_analyzer",
    "microphone": "needs a microphone",
}
_BLOCK = re.compile(r"^```bash *(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced block of commands; `needs` is empty, `server` (runs until the page ends) or a key of NOT_RUN."""

    page: str
    needs: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Return the words of each command, without comments; a pipe separates commands."""
        joined = self.text.replace("\\\n", " ")
        lines = (shlex.split(line, comments=True) for line in joined.splitlines())
        return [command for words in lines for command in _between_pipes(words) if command]

    def modules(self) -> list[tuple[str, list[str]]]:
        """Return (module, arguments) of each `python -m module arguments`."""
        return [
            (command[command.index("-m") + 1], command[command.index("-m") + 2 :])
            for command in self.commands
            if "-m" in command and any(word.endswith("python") for word in command)
        ]


def blocks(page: Path) -> list[Block]:
    """Return the command blocks of a Markdown page, in its order."""
    return [Block(page=page.name, needs=needs, text=text) for needs, text in _BLOCK.findall(page.read_text())]


def _between_pipes(words: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for word in words:
        if word in ("|", "&&", ";"):
            found.append([])
        else:
            found[-1].append(word)
    return found
