"""The form of what builds and runs images, and what all of them agree on."""

import contextlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from images.host import run

ROOT = Path(__file__).resolve().parents[1]
SERVER, CLIENT = "runtime-cpu", "transcriber"
TARGETS = (SERVER, CLIENT)
_LINE = 110


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer of an image; its size is that of its files, uncompressed."""

    size_bytes: int
    made_by: str


class Container(Protocol):
    """A server that runs in an image."""

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside it."""

    def stop(self) -> int:
        """Ask it to end with SIGTERM; give its exit code."""

    def transcribe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the transcriber's image in its network, with the demonstration's recordings."""


class Engine(Protocol):
    """What builds images and runs them."""

    name: str

    def build(self, target: str) -> None:
        """Build a target of the Dockerfile."""

    def health_command(self, target: str) -> list[str]:
        """Read the image's own health check."""

    def serve(self, **variables: str) -> contextlib.AbstractContextManager[Container]:
        """Start the server's image with some environment variables."""

    def layers(self, target: str) -> list[Layer]:
        """List an image's layers, the lowest first."""


def tag(target: str) -> str:
    """Name a target's image."""
    return f"localhost/voxwright-{target}"


def revision() -> list[str]:
    """Say which commit is built, where git knows."""
    found = run("git", "-C", str(ROOT), "rev-parse", "HEAD", check=False)
    return [f"--build-arg=REVISION={found.stdout.strip()}"] if found.returncode == 0 else []


def health(test: list[str]) -> list[str]:
    """Give the command of a health check, which Docker keeps with the word CMD before it."""
    return test[1:]


def short(made_by: str) -> str:
    """Say in one line how a layer was made."""
    plain = " ".join(made_by.replace("/bin/sh -c #(nop)", "").replace("/bin/sh -c", "RUN").split())
    return plain if len(plain) <= _LINE else f"{plain[:_LINE]}..."
