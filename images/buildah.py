"""Builds images with buildah and runs them with runc, over a Debian of debootstrap."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.engine import CLIENT, ROOT, SERVER, Container, Layer, health, revision, short, tag
from images.host import EXIT_S, expect, fail, run, say, show, started, wait_for
from images.sources import secrets

SUITE = "bookworm"
BASE_TAG = "localhost/debian:bookworm-slim"
# What the official slim image leaves out too.
NOT_SLIM = (
    *("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale"),
    *("var/cache/apt", "var/lib/apt/lists", "var/log"),
)


class Buildah:
    """buildah builds, runc runs: no daemon, and nothing outside one folder."""

    name = "buildah"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._storage = folder / "storage"
        self._secrets = secrets(folder)
        self._driver = os.environ.get("STORAGE_DRIVER") or self._suitable_driver()

    def prepare(self) -> None:
        """Make the base image, from where this host takes its packages."""
        self._hosts_configuration()
        self._base()

    def build(self, target: str) -> None:
        """Build a target of the Dockerfile."""
        volumes = [
            f"--volume={self._folder / 'sources.list'}:/etc/apt/sources.list:ro",
            f"--volume={self._folder / 'apt.conf'}:/etc/apt/apt.conf.d/99host:ro",
        ]
        isolation = ["--isolation=chroot", "--network=host", "--pull-never", "--layers", "--format=docker"]
        base = f"--build-arg=DEBIAN_IMAGE={BASE_TAG}"
        named = ["--target", target, "--tag", tag(target)]
        show(*self._buildah(), "bud", *isolation, *volumes, *self._secrets, base, *revision(), *named, str(ROOT))
        self._check_clean(target)

    def health_command(self, target: str) -> list[str]:
        """Read the image's own health check."""
        return health(self._config(target)["Healthcheck"]["Test"])

    @contextlib.contextmanager
    def serve(self, **variables: str) -> Iterator[Container]:
        """Start the server's image with some environment variables."""
        bundle = self._bundle(SERVER, [], {}, variables)
        name = f"voxwright-{os.getpid()}"
        with started([*self._runc(), "run", "--bundle", str(bundle), name]) as process:
            try:
                yield _RuncContainer(self, name, process)
            finally:
                run(*self._runc(), "delete", "--force", name, check=False)

    def execute(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container."""
        return run(*self._runc(), "exec", name, *command, check=False)

    def signal(self, name: str, signal: str) -> None:
        """Send a signal to a container's first process."""
        run(*self._runc(), "kill", name, signal)

    def transcribe(self, beside: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the transcriber's image in the network of a container."""
        state = json.loads(run(*self._runc(), "state", beside).stdout)
        bundle = self._bundle(CLIENT, arguments, {"network": f"/proc/{state['pid']}/ns/net"}, {})
        return run(*self._runc(), "run", "--bundle", str(bundle), f"{beside}-client", check=False)

    def layers(self, target: str) -> list[Layer]:
        """List an image's layers, the lowest first."""
        image = json.loads(run(*self._buildah(), "inspect", "--type=image", tag(target)).stdout)["OCIv1"]
        made_by = [entry.get("created_by", "") for entry in image["history"] if not entry.get("empty_layer")]
        listed = json.loads((self._storage / f"{self._driver}-layers" / "layers.json").read_text())
        sizes = {layer["diff-digest"]: layer["diff-size"] for layer in listed if "diff-digest" in layer}
        layers = zip(image["rootfs"]["diff_ids"], made_by, strict=True)
        return [Layer(size_bytes=sizes[digest], made_by=short(by)) for digest, by in layers]

    def close(self) -> None:
        """Remove containers and images, and with them the mounts."""
        run(*self._buildah(), "rm", "--all", check=False)
        run(*self._buildah(), "rmi", "--all", "--force", check=False)
        for mounted in sorted(self._mounts(), reverse=True):
            run("umount", "--lazy", mounted, check=False)

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [place for place in (line.split()[1] for line in lines) if place.startswith(f"{self._folder}/")]

    def _hosts_configuration(self) -> None:
        line = "deb $(SITE) $(RELEASE) $(COMPONENT)"
        listed = run("apt-get", "indextargets", "--format", line, "Created-By: Packages")
        sources = list(dict.fromkeys(listed.stdout.splitlines()))
        if not any(f" {SUITE} " in line for line in sources):
            fail(f"this host does not take packages from Debian {SUITE}: run `apt-get update`, or use a Docker engine")
        (self._folder / "sources.list").write_text("\n".join(sources) + "\n")
        (self._folder / "apt.conf").write_text(run("apt-config", "dump", "Acquire").stdout)

    def _base(self) -> None:
        root, archive = self._folder / "debian", self._folder / "debian.tar"
        sources = (self._folder / "sources.list").read_text().splitlines()
        mirror = next(line for line in sources if f" {SUITE} " in line).split()[1]
        say("making the base with debootstrap")
        run("debootstrap", "--variant=minbase", SUITE, str(root), mirror)
        # The official image's sources are not ours to guess, and this host's must not stay.
        (root / "etc/apt/sources.list").write_text("")
        for place in NOT_SLIM:
            for entry in (root / place).iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        run("tar", "-C", str(root), "-cf", str(archive), ".")
        shutil.rmtree(root)
        container = run(*self._buildah(), "from", "scratch").stdout.strip()
        run(*self._buildah(), "add", container, str(archive), "/")
        run(*self._buildah(), "config", "--cmd", "bash", container)
        run(*self._buildah(), "commit", "--format=docker", "--rm", container, BASE_TAG)
        archive.unlink()

    def _check_clean(self, target: str) -> None:
        """See that nothing of this host's package sources stayed in an image."""
        root = self._mounted(target)
        for line in (self._folder / "sources.list").read_text().splitlines():
            host = line.split()[1].split("/")[2]
            places = [f"{root}/{place}" for place in ("etc", "root", "var", "opt")]
            found = run("grep", "--recursive", "--files-with-matches", "--fixed-strings", host, *places, check=False)
            expect(found.returncode == 1, f"{target}: {host} stayed in {found.stdout}{found.stderr}")

    def _mounted(self, target: str) -> str:
        container = run(*self._buildah(), "from", "--pull-never", tag(target)).stdout.strip()
        root = run(*self._buildah(), "mount", container).stdout.strip()
        expect(bool(root) and (Path(root) / "opt/voxwright").is_dir(), f"{target} could not be mounted")
        return root

    def _bundle(
        self,
        target: str,
        arguments: Sequence[str],
        namespaces: dict[str, str],
        variables: Mapping[str, str],
    ) -> Path:
        """Write what an OCI runtime needs to run an image, confined as docs/architecture/90-containers.md says."""
        root = self._mounted(target)
        config = self._config(target)
        config["Env"] += [f"{name}={value}" for name, value in variables.items()]
        bundle = Path(tempfile.mkdtemp(prefix=f"bundle-{target}-", dir=self._folder))
        command = [*config["Entrypoint"], *(arguments or config.get("Cmd") or [])]
        # What every container runtime brings.
        (bundle / "hosts").write_text("127.0.0.1 localhost\n")
        specification = _specification(root, config, command, namespaces)
        specification["mounts"].append(_bound(bundle / "hosts", "/etc/hosts"))
        (bundle / "config.json").write_text(json.dumps(specification))
        return bundle

    def _config(self, target: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run(*self._buildah(), "inspect", "--type=image", tag(target)).stdout)
        return found["Docker"]["config"]  # type: ignore[no-any-return]

    def _buildah(self) -> list[str]:
        return ["buildah", *self._places(), f"--storage-driver={self._driver}"]

    def _places(self) -> list[str]:
        return [f"--root={self._storage}", f"--runroot={self._folder / 'run'}"]

    def _suitable_driver(self) -> str:
        # vfs works everywhere and copies everything for every layer; overlay does not work on top of another overlay.
        tried = run("buildah", *self._places(), "--storage-driver=overlay", "info", check=False)
        return "overlay" if tried.returncode == 0 else "vfs"

    def _runc(self) -> list[str]:
        return ["runc", f"--root={self._folder / 'runc'}"]


@dataclass(frozen=True, slots=True)
class _RuncContainer:
    engine: Buildah
    name: str
    process: subprocess.Popen[bytes]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        wait_for(lambda: self.engine.execute(self.name, "true").returncode == 0, self.process)
        return self.engine.execute(self.name, *command)

    def stop(self) -> int:
        self.engine.signal(self.name, "TERM")
        return self.process.wait(EXIT_S)

    def transcribe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.engine.transcribe(self.name, *arguments)


def _specification(root: str, config: dict[str, Any], command: list[str], namespaces: dict[str, str]) -> dict[str, Any]:
    user, group = map(int, config["User"].split(":"))
    tmpfs = {"type": "tmpfs", "source": "tmpfs"}
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", **tmpfs, "options": ["nosuid", "mode=755", "size=65536k"]},
        {"destination": "/dev/shm", **tmpfs, "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        # The embedded server starts its backend from there.
        {"destination": "/tmp", **tmpfs, "options": ["nosuid", "exec", "nodev", "mode=1777"]},
    ]
    if config["WorkingDir"] == "/recordings":
        mounts.append(_bound(ROOT / "demo", "/recordings"))
    kinds = ("pid", "ipc", "uts", "mount", "network")
    return {
        "ociVersion": "1.0.2",
        "root": {"path": root, "readonly": True},
        "process": {
            "user": {"uid": user, "gid": group},
            "args": command,
            "env": config["Env"],
            "cwd": config["WorkingDir"],
            "noNewPrivileges": True,
            "capabilities": {},
        },
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind, **_path(namespaces.get(kind))} for kind in kinds]},
    }


def _bound(source: Path, destination: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", "ro"]}


def _path(place: str | None) -> dict[str, str]:
    return {"path": place} if place else {}
