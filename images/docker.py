"""Build and run images with a Docker engine."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from images.engine import (
    CLIENT,
    ROOT,
    STUB_REGISTRY,
    Container,
    Layer,
    abbreviate,
    health_check_command,
    revision,
    stub_tag,
    tag,
)
from images.host import EXIT_S, run, run_visible, started_process, wait_for


class Docker:
    """An engine that builds and runs images with Docker."""

    name = "docker"

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets

    def build(self, target: str, context: Path = ROOT, arguments: Sequence[str] = ()) -> None:
        """Build a target of the Dockerfile of a folder, with further options of the build."""
        options = ["--target", target, "--tag", tag(target), *self._secrets, *revision(), *arguments]
        run_visible("docker", "build", *options, str(context))

    def build_stub(self, context: Path, platform: str) -> list[str]:
        """Build the stub of NVIDIA's image from a folder; return the options that select it in the Dockerfile."""
        run_visible("docker", "build", "--tag", stub_tag(platform), str(context))
        return [f"--build-arg=NVIDIA={STUB_REGISTRY}"]

    def health_command(self, target: str) -> list[str]:
        """Return the command of the image's own health check."""
        found = run("docker", "image", "inspect", "--format", "{{json .Config.Healthcheck.Test}}", tag(target))
        return health_check_command(json.loads(found.stdout))

    @contextlib.contextmanager
    def serve(
        self,
        target: str,
        variables: Mapping[str, str],
        *,
        beside: Container | None = None,
        folders: Mapping[Path, str] | None = None,
        volumes: Sequence[str] = (),
    ) -> Iterator[Container]:
        """Run an image with some environment variables, and remove the container at the end."""
        name = f"voxwright-{target}-{os.getpid()}"
        # Docker gives a new volume the owner that its folder has in the image.
        mounted = [*(f"--volume={path}" for path in volumes), *_bind_mounts(folders)]
        network = [] if beside is None else [f"--network=container:{beside.name}"]
        options = ["--rm", "--name", name, *_environment(variables), *mounted, *network, *self._confinement()]
        with started_process(["docker", "run", *options, tag(target)]) as process:
            try:
                yield _DockerContainer(name, process, self._confinement())
            finally:
                run("docker", "rm", "--force", name, check=False)

    def run_once(
        self, target: str, *command: str, folders: Mapping[Path, str] | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run an image's own command or another one to its end, with folders of the host that it may read."""
        program = [f"--entrypoint={command[0]}"] if command else []
        options = ["--rm", *_environment(variables), *_bind_mounts(folders), *program, *self._confinement()]
        return run("docker", "run", *options, tag(target), *command[1:], check=False)

    def layers(self, target: str) -> list[Layer]:
        """Return an image's layers, the lowest first."""
        columns = "{{.Size}}\t{{.CreatedBy}}"
        shown = run("docker", "history", "--no-trunc", "--human=false", "--format", columns, tag(target))
        rows = [line.split("\t", 1) for line in reversed(shown.stdout.splitlines())]
        return [Layer(size_bytes=int(size), made_by=abbreviate(by)) for size, by in rows if int(size)]

    @staticmethod
    def _confinement() -> list[str]:
        return ["--read-only", "--tmpfs=/tmp:exec", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


def _environment(variables: Mapping[str, str]) -> list[str]:
    return [f"--env={name}={value}" for name, value in variables.items()]


def _bind_mounts(folders: Mapping[Path, str] | None) -> list[str]:
    return [f"--volume={source}:{place}:ro" for source, place in (folders or {}).items()]


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
