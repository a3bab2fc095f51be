"""Define the interface of the engines that build and run images, and helpers for all of them."""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from images.host import run

ROOT = Path(__file__).resolve().parents[1]
SERVER, CLIENT, SERVICE, GPU_SERVER = "runtime-cpu", "transcriber", "service", "runtime"
TARGETS = (SERVER, CLIENT, SERVICE)
# The user of every image, who must own a volume that a container writes to.
USER_ID = 10001
# The registry of NVIDIA's images is replaced by this name when they are stubs.
STUB_REGISTRY = "localhost/stub-of-nvidia"
_MAX_LINE_CHARS = 110


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer of an image: the size of its uncompressed files, and the instruction of the Dockerfile that made it."""

    size_bytes: int
    made_by: str


class Container(Protocol):
    """A running container of an image."""

    @property
    def name(self) -> str:
        """Return the name by which the engine knows the container."""

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container."""

    def stop(self) -> int:
        """Send SIGTERM to the first process, wait for its end, and return its exit code."""

    def transcribe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the transcriber's image in the container's network, with the recordings of demo/."""


class Engine(Protocol):
    """A tool that builds images and runs them."""

    name: str

    def build(self, target: str, context: Path = ROOT, arguments: Sequence[str] = ()) -> None:
        """Build a target of the Dockerfile of a folder, with further options of the build."""

    def build_stub(self, context: Path, platform: str) -> list[str]:
        """Build the stub of NVIDIA's image from a folder; return the options that select it in the Dockerfile."""

    def health_command(self, target: str) -> list[str]:
        """Return the command of the image's own health check."""

    def serve(
        self,
        target: str,
        variables: Mapping[str, str],
        *,
        beside: Container | None = None,
        folders: Mapping[Path, str] | None = None,
        volumes: Sequence[str] = (),
    ) -> contextlib.AbstractContextManager[Container]:
        """Run an image with some environment variables, and remove the container at the end.

        It joins the network of the container `beside`, may read `folders` of the host, and has an empty volume of its
        own at each path of `volumes`.
        """

    def run_once(
        self, target: str, *command: str, folders: Mapping[Path, str] | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run an image's own command or another one to its end, with folders of the host that it may read."""

    def layers(self, target: str) -> list[Layer]:
        """Return an image's layers, the lowest first."""


def tag(target: str) -> str:
    """Return the name of a target's image."""
    return f"localhost/voxwright-{target}"


def stub_tag(platform: str) -> str:
    """Return the name of the stub of NVIDIA's tritonserver image."""
    return f"{STUB_REGISTRY}/tritonserver:{platform}-py3"


def revision() -> list[str]:
    """Return the build argument with the commit that is built; no argument outside a git checkout."""
    found = run("git", "-C", str(ROOT), "rev-parse", "HEAD", check=False)
    return [f"--build-arg=REVISION={found.stdout.strip()}"] if found.returncode == 0 else []


def health_check_command(test: list[str]) -> list[str]:
    """Return the command of a health check. Docker stores it with the word CMD before it."""
    return test[1:]


def abbreviate(made_by: str) -> str:
    """Return the instruction that made a layer, as one line of limited length."""
    plain = " ".join(made_by.replace("/bin/sh -c #(nop)", "").replace("/bin/sh -c", "RUN").split())
    return plain if len(plain) <= _MAX_LINE_CHARS else f"{plain[:_MAX_LINE_CHARS]}..."
