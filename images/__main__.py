"""Build images and test them together: the server's image serves, and those of its clients transcribe the dialogue.

python -m images [TARGET...]                             default: runtime-cpu transcriber service
python -m images runtime --stub-nvidia [--platform NAME]  the image for GPUs, from a stub of NVIDIA's image

All containers run as an operator should run them: read-only root, one tmpfs, their own user, no capabilities.
Needs dist/engines/embedded/cpu, and a Docker engine; or, as root on Debian, buildah, runc and debootstrap, with a base
image that debootstrap builds. Debian's and Python's packages come from this host's own package sources.

The stub needs gcc and the environment of requirements.lock, but no GPU and no engines (images/nvidia_stub.py).
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from contract.platform import platforms
from images.buildah import Buildah
from images.docker import Docker
from images.engine import GPU_SERVER, ROOT, SERVER, TARGETS, Engine, Layer
from images.host import fail, log, run
from images.smoke_test import run_smoke_test
from images.sources import secrets


def main(arguments: Sequence[str]) -> None:
    """Build the requested targets, and test them together when the server and its clients are among them."""
    parser = argparse.ArgumentParser(prog="ci/images", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: {' '.join(TARGETS)}")
    parser.add_argument("--stub-nvidia", action="store_true", help="build runtime from a stub of NVIDIA's image")
    parser.add_argument("--platform", default="26.08", help="platform of the stub (default: %(default)s)")
    options = parser.parse_args(arguments)
    targets = options.targets or list(TARGETS)
    if options.stub_nvidia != (GPU_SERVER in targets) or (options.stub_nvidia and len(targets) > 1):
        fail(
            f"{GPU_SERVER} is built here from a stub of NVIDIA's image, and alone: run `ci/images {GPU_SERVER}"
            " --stub-nvidia`. To build it from NVIDIA's images use `docker build` (docs/architecture/90-containers.md)"
        )
    if options.stub_nvidia:
        build_from_stub(options.platform)
        return
    if SERVER in targets and not (ROOT / "dist/engines/embedded/cpu/manifest.json").is_file():
        fail(
            "dist/engines/embedded/cpu is missing: run `.venv/bin/python -m export` and"
            " `.venv/bin/python -m build.engines --arch cpu`"
        )
    with selected_engine() as engine:
        for target in targets:
            with timed(target, engine):
                engine.build(target)
        if set(TARGETS) <= set(targets):
            run_smoke_test(engine)
        for target in targets:
            print_sizes(target, engine.layers(target))


def build_from_stub(name: str) -> None:
    """Build the image `runtime` from a stub of NVIDIA's image, start it, and check where it stops."""
    try:
        from images import nvidia_stub  # noqa: PLC0415 - the other targets need no more than Python
    except ImportError as error:
        fail(f"{error}: --stub-nvidia needs the environment. Run `.venv/bin/python -m images runtime --stub-nvidia`")
    known = platforms()
    if name not in known or known[name].cuda is None:
        fail(f"--platform {name}: there is no image of NVIDIA for it. Name {' or '.join(nvidia_stub.PLATFORMS)}")
    with selected_engine() as engine, tempfile.TemporaryDirectory(prefix="voxwright-stub-") as folder:
        with timed(GPU_SERVER, engine):
            nvidia_stub.build(engine, Path(folder), known[name])
        nvidia_stub.check(engine, Path(folder), known[name])
        print_sizes(f"{GPU_SERVER} ({name}, from a STUB of NVIDIA's image)", engine.layers(GPU_SERVER))


@contextlib.contextmanager
def timed(target: str, engine: Engine) -> Iterator[None]:
    """Log the start of a build, and its duration at the end."""
    log(f"building {target} with {engine.name}")
    started = time.monotonic()
    yield
    log(f"built {target} in {time.monotonic() - started:.0f} s")


def print_sizes(target: str, layers: Sequence[Layer]) -> None:
    """Print the size of every layer and of the image."""
    print(f"\n{target}: {sum(layer.size_bytes for layer in layers) / 1e6:.1f} MB")
    for layer in layers:
        print(f"  {layer.size_bytes / 1e6:9.1f} MB  {layer.made_by}")


@contextlib.contextmanager
def selected_engine() -> Iterator[Engine]:
    """Yield Docker when a Docker engine runs on this host, otherwise buildah."""
    if shutil.which("docker") and run("docker", "info", check=False).returncode == 0:
        with tempfile.TemporaryDirectory() as folder:
            yield Docker(secrets=secrets(Path(folder)))
        return
    missing = [tool for tool in ("buildah", "runc", "debootstrap") if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        fail(
            "no Docker engine runs on this host. Start one, or run this as root on Debian with the packages"
            f" buildah, runc and debootstrap (missing: {', '.join(missing) or 'root'})"
        )
    with tempfile.TemporaryDirectory(prefix="voxwright-images-", dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        buildah = Buildah(Path(folder))
        try:
            buildah.prepare()
            yield buildah
        finally:
            buildah.close()


if __name__ == "__main__":
    main(sys.argv[1:])
