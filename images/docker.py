"""Build and run images with a Docker engine."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from images.engine import CLIENT, ROOT, SERVER, Container, Layer, abbreviate, health_check_command, revision, tag
from images.host import EXIT_S, run, run_visible, started_process, wait_for


class Docker:
    """An engine that builds and runs images with Docker."""

    name = "docker"

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets

    def build(self, target: str) -> None:
        """Build a target of the Dockerfile."""
        options = ["--target", target, "--tag", tag(target), *self._secrets, *revision()]
        run_visible("docker", "build", *options, str(ROOT))

    def health_command(self, target: str) -> list[str]:
        """Return the command of the image's own health check."""
        found = run("docker", "image", "inspect", "--format", "{{json .Config.Healthcheck.Test}}", tag(target))
        return health_check_command(json.loads(found.stdout))

    @contextlib.contextmanager
    def serve(self, **variables: str) -> Iterator[Container]:
        """Run the server's image with some environment variables, and remove the container at the end."""
        name = f"voxwright-{os.getpid()}"
        environment = [f"--env={name}={value}" for name, value in variables.items()]
        command = ["docker", "run", "--rm", "--name", name, *environment, *self._confinement(), tag(SERVER)]
        with started_process(command) as process:
            try:
                yield _DockerContainer(name, process, self._confinement())
            finally:
                run("docker", "rm", "--force", name, check=False)

    def layers(self, target: str) -> list[Layer]:
        """Return an image's layers, the lowest first."""
        columns = "{{.Size}}\t{{.CreatedBy}}"
        shown = run("docker", "history", "--no-trunc", "--human=false", "--format", columns, tag(target))
        rows = [line.split("\t", 1) for line in reversed(shown.stdout.splitlines())]
        return [Layer(size_bytes=int(size), made_by=abbreviate(by)) for size, by in rows if int(size)]

    @staticmethod
    def _confinement() -> list[str]:
        return ["--read-only", "--tmpfs=/tmp:exec", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


@dataclass(frozen=True, slots=True)
class _DockerContainer:
    name: str
    process: subprocess.Popen[bytes]
    confinement: list[str]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        wait_for(lambda: run("docker", "exec", self.name, "true", check=False).returncode == 0, self.process)
        return run("docker", "exec", self.name, *command, check=False)

    def stop(self) -> int:
        run("docker", "kill", "--signal=TERM", self.name)
        return self.process.wait(EXIT_S)

    def transcribe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        mounted = [f"--volume={ROOT / 'demo'}:/recordings:ro", f"--network=container:{self.name}"]
        return run("docker", "run", "--rm", *self.confinement, *mounted, tag(CLIENT), *arguments, check=False)
