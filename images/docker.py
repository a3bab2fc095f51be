"""Builds and runs images with a Docker engine."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from images.engine import CLIENT, ROOT, SERVER, Container, Layer, health, revision, short, tag
from images.host import EXIT_S, run, show, started, wait_for


class Docker:
    """A Docker engine."""

    name = "docker"

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets

    def build(self, target: str) -> None:
        """Build a target of the Dockerfile."""
        show("docker", "build", "--target", target, "--tag", tag(target), *self._secrets, *revision(), str(ROOT))

    def health_command(self, target: str) -> list[str]:
        """Read the image's own health check."""
        found = run("docker", "image", "inspect", "--format", "{{json .Config.Healthcheck.Test}}", tag(target))
        return health(json.loads(found.stdout))

    @contextlib.contextmanager
    def serve(self, **variables: str) -> Iterator[Container]:
        """Start the server's image with some environment variables."""
        name = f"voxwright-{os.getpid()}"
        told = [f"--env={name}={value}" for name, value in variables.items()]
        with started(["docker", "run", "--rm", "--name", name, *told, *self._confined(), tag(SERVER)]) as process:
            try:
                yield _DockerContainer(name, process, self._confined())
            finally:
                run("docker", "rm", "--force", name, check=False)

    def layers(self, target: str) -> list[Layer]:
        """List an image's layers, the lowest first."""
        columns = "{{.Size}}\t{{.CreatedBy}}"
        shown = run("docker", "history", "--no-trunc", "--human=false", "--format", columns, tag(target))
        rows = [line.split("\t", 1) for line in reversed(shown.stdout.splitlines())]
        return [Layer(size_bytes=int(size), made_by=short(by)) for size, by in rows if int(size)]

    @staticmethod
    def _confined() -> list[str]:
        return ["--read-only", "--tmpfs=/tmp:exec", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


@dataclass(frozen=True, slots=True)
class _DockerContainer:
    name: str
    process: subprocess.Popen[bytes]
    confined: list[str]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        wait_for(lambda: run("docker", "exec", self.name, "true", check=False).returncode == 0, self.process)
        return run("docker", "exec", self.name, *command, check=False)

    def stop(self) -> int:
        run("docker", "kill", "--signal=TERM", self.name)
        return self.process.wait(EXIT_S)

    def transcribe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        mounted = [f"--volume={ROOT / 'demo'}:/recordings:ro", f"--network=container:{self.name}"]
        return run("docker", "run", "--rm", *self.confined, *mounted, tag(CLIENT), *arguments, check=False)
