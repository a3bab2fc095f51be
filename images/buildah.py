"""Build images with buildah and run them with runc, on a Debian base image that debootstrap builds."""

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

from images.engine import (
    CLIENT,
    ROOT,
    STUB_REGISTRY,
    USER_ID,
    Container,
    Layer,
    abbreviate,
    health_check_command,
    revision,
    stub_tag,
    tag,
)
from images.host import EXIT_S, expect, fail, log, run, run_visible, started_process, wait_for
from images.sources import secrets

SUITE = "bookworm"
BASE_TAG = "localhost/debian:bookworm-slim"
UBUNTU, UBUNTU_VERSIONS = "localhost/ubuntu", ("24.04", "22.04")
# The official slim image leaves these folders out too.
EXCLUDED_FOLDERS = (
    *("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale"),
    *("var/cache/apt", "var/lib/apt/lists", "var/log"),
)


class Buildah:
    """An engine that builds with buildah and runs with runc: no daemon, and all files in one folder."""

    name = "buildah"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._storage = folder / "storage"
        self._secrets = secrets(folder)
        self._driver = os.environ.get("STORAGE_DRIVER") or self._detect_driver()

    def prepare(self) -> None:
        """Build the base image from this host's package sources."""
        self._write_apt_configuration()
        self._build_base()

    def build(self, target: str, context: Path = ROOT, arguments: Sequence[str] = ()) -> None:
        """Build a target of the Dockerfile of a folder, with further options of the build."""
        self._bud(context, "--target", target, "--tag", tag(target), *self._secrets, *revision(), *arguments)
        self._check_clean(target)

    def build_stub(self, context: Path, platform: str) -> list[str]:
        """Build the stub of NVIDIA's image from a folder; return the options that select it in the Dockerfile.

        Debian stands for Ubuntu too: this host's package sources have no Ubuntu.
        """
        self._bud(context, "--tag", stub_tag(platform))
        for version in UBUNTU_VERSIONS:
            run(*self._buildah(), "tag", BASE_TAG, f"{UBUNTU}:{version}")
        log(f"Debian {SUITE} stands for Ubuntu, whose packages are not in this host's package sources")
        return [f"--build-arg=NVIDIA={STUB_REGISTRY}", f"--build-arg=UBUNTU_IMAGE={UBUNTU}"]

    def _bud(self, context: Path, *options: str) -> None:
        volumes = [
            f"--volume={self._folder / 'sources.list'}:/etc/apt/sources.list:ro",
            f"--volume={self._folder / 'apt.conf'}:/etc/apt/apt.conf.d/99host:ro",
        ]
        isolation = ["--isolation=chroot", "--network=host", "--pull-never", "--layers", "--format=docker"]
        base = f"--build-arg=DEBIAN_IMAGE={BASE_TAG}"
        run_visible(*self._buildah(), "bud", *isolation, *volumes, base, *options, str(context))

    def health_command(self, target: str) -> list[str]:
        """Return the command of the image's own health check."""
        return health_check_command(self._config(target)["Healthcheck"]["Test"])

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
        namespaces = {} if beside is None else self._network(beside.name)
        bundle = self._bundle(target, [], namespaces, variables, folders, volumes)
        name = f"voxwright-{target}-{os.getpid()}"
        with started_process([*self._runc(), "run", "--bundle", str(bundle), name]) as process:
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

    def transcribe(self, server: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the transcriber's image in the network of the server's container."""
        bundle = self._bundle(CLIENT, arguments, self._network(server), {})
        return run(*self._runc(), "run", "--bundle", str(bundle), f"{server}-client", check=False)

    def _network(self, name: str) -> dict[str, str]:
        """Return the network namespace of a running container."""
        state = json.loads(run(*self._runc(), "state", name).stdout)
        return {"network": f"/proc/{state['pid']}/ns/net"}

    def run_once(
        self, target: str, *command: str, folders: Mapping[Path, str] | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run an image's own command or another one to its end, with folders of the host that it may read."""
        bundle = self._bundle(target, [], {}, variables, folders or {})
        if command:
            path = bundle / "config.json"
            configuration = json.loads(path.read_text())
            configuration["process"]["args"] = list(command)
            path.write_text(json.dumps(configuration))
        return run(*self._runc(), "run", "--bundle", str(bundle), f"{bundle.name}-{os.getpid()}", check=False)

    def layers(self, target: str) -> list[Layer]:
        """Return an image's layers, the lowest first."""
        image = json.loads(run(*self._buildah(), "inspect", "--type=image", tag(target)).stdout)["OCIv1"]
        made_by = [entry.get("created_by", "") for entry in image["history"] if not entry.get("empty_layer")]
        listed = json.loads((self._storage / f"{self._driver}-layers" / "layers.json").read_text())
        sizes = {layer["diff-digest"]: layer["diff-size"] for layer in listed if "diff-digest" in layer}
        layers = zip(image["rootfs"]["diff_ids"], made_by, strict=True)
        return [Layer(size_bytes=sizes[digest], made_by=abbreviate(by)) for digest, by in layers]

    def close(self) -> None:
        """Remove all containers and images, and unmount what is left below the folder."""
        run(*self._buildah(), "rm", "--all", check=False)
        run(*self._buildah(), "rmi", "--all", "--force", check=False)
        for mounted in sorted(self._mounts(), reverse=True):
            run("umount", "--lazy", mounted, check=False)

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [path for path in (line.split()[1] for line in lines) if path.startswith(f"{self._folder}/")]

    def _write_apt_configuration(self) -> None:
        line = "deb $(SITE) $(RELEASE) $(COMPONENT)"
        listed = run("apt-get", "indextargets", "--format", line, "Created-By: Packages")
        sources = list(dict.fromkeys(listed.stdout.splitlines()))
        if not any(f" {SUITE} " in line for line in sources):
            fail(f"this host has no package source for Debian {SUITE}: run `apt-get update`, or start a Docker engine")
        (self._folder / "sources.list").write_text("\n".join(sources) + "\n")
        (self._folder / "apt.conf").write_text(run("apt-config", "dump", "Acquire").stdout)

    def _build_base(self) -> None:
        root, archive = self._folder / "debian", self._folder / "debian.tar"
        sources = (self._folder / "sources.list").read_text().splitlines()
        mirror = next(line for line in sources if f" {SUITE} " in line).split()[1]
        log("building the base image with debootstrap")
        run("debootstrap", "--variant=minbase", SUITE, str(root), mirror)
        # The official image's package sources are unknown here, and this host's must not stay in the image.
        (root / "etc/apt/sources.list").write_text("")
        for folder in EXCLUDED_FOLDERS:
            for entry in (root / folder).iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        run("tar", "-C", str(root), "-cf", str(archive), ".")
        shutil.rmtree(root)
        container = run(*self._buildah(), "from", "scratch").stdout.strip()
        run(*self._buildah(), "add", container, str(archive), "/")
        run(*self._buildah(), "config", "--cmd", "bash", container)
        run(*self._buildah(), "commit", "--format=docker", "--rm", container, BASE_TAG)
        archive.unlink()

    def _check_clean(self, target: str) -> None:
        """Check that an image contains no address of this host's package sources."""
        root = self._mounted(target)
        for line in (self._folder / "sources.list").read_text().splitlines():
            host = line.split()[1].split("/")[2]
            folders = [f"{root}/{folder}" for folder in ("etc", "root", "var", "opt")]
            found = run("grep", "--recursive", "--files-with-matches", "--fixed-strings", host, *folders, check=False)
            expect(
                found.returncode == 1,
                f"{target}: this host's package source {host} is named in {found.stdout}{found.stderr}",
            )

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
        folders: Mapping[Path, str] | None = None,
        volumes: Sequence[str] = (),
    ) -> Path:
        """Write an OCI bundle that runs an image with the confinement of docs/architecture/90-containers.md."""
        root = self._mounted(target)
        config = self._config(target)
        config["Env"] += [f"{name}={value}" for name, value in variables.items()]
        bundle = Path(tempfile.mkdtemp(prefix=f"bundle-{target}-", dir=self._folder))
        command = [*config["Entrypoint"], *(arguments or config.get("Cmd") or [])]
        # Every container runtime provides this file.
        (bundle / "hosts").write_text("127.0.0.1 localhost\n")
        specification = _oci_config(root, config, command, namespaces)
        mounted = {bundle / "hosts": "/etc/hosts", **(folders or {})}
        specification["mounts"] += [_bind_mount(source, place) for source, place in mounted.items()]
        specification["mounts"] += [_volume(path) for path in volumes]
        (bundle / "config.json").write_text(json.dumps(specification))
        return bundle

    def _config(self, target: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run(*self._buildah(), "inspect", "--type=image", tag(target)).stdout)
        return found["Docker"]["config"]  # type: ignore[no-any-return]

    def _buildah(self) -> list[str]:
        return ["buildah", *self._storage_options(), f"--storage-driver={self._driver}"]

    def _storage_options(self) -> list[str]:
        return [f"--root={self._storage}", f"--runroot={self._folder / 'run'}"]

    def _detect_driver(self) -> str:
        # vfs works on every file system but copies all files for every layer. overlay does not work on another overlay.
        tried = run("buildah", *self._storage_options(), "--storage-driver=overlay", "info", check=False)
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


def _oci_config(root: str, config: dict[str, Any], command: list[str], namespaces: dict[str, str]) -> dict[str, Any]:
    user, group = map(int, config["User"].split(":"))
    tmpfs = {"type": "tmpfs", "source": "tmpfs"}
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", **tmpfs, "options": ["nosuid", "mode=755", "size=65536k"]},
        {"destination": "/dev/shm", **tmpfs, "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        # The embedded server loads its backend from here.
        {"destination": "/tmp", **tmpfs, "options": ["nosuid", "exec", "nodev", "mode=1777"]},
    ]
    if config["WorkingDir"] == "/recordings":
        mounts.append(_bind_mount(ROOT / "demo", "/recordings"))
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
        "linux": {"namespaces": [{"type": kind, **_namespace_path(namespaces.get(kind))} for kind in kinds]},
    }


def _bind_mount(source: Path, destination: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", "ro"]}


def _volume(path: str) -> dict[str, Any]:
    options = ["nosuid", "noexec", "nodev", "mode=700", f"uid={USER_ID}", f"gid={USER_ID}"]
    return {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options}


def _namespace_path(path: str | None) -> dict[str, str]:
    return {"path": path} if path else {}
