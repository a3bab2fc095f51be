"""Build images and test them together: the server's image serves, and the client's image transcribes the dialogue.

python -m images [TARGET...]    default: runtime-cpu transcriber

Both containers run as an operator should run them: read-only root, one tmpfs, their own user, no capabilities.
Needs dist/engines/embedded/cpu, and a Docker engine; or, as root on Debian, buildah, runc and debootstrap, with a base
image that debootstrap builds. Debian's and Python's packages come from this host's own package sources.
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

from images.buildah import Buildah
from images.docker import Docker
from images.engine import ROOT, SERVER, TARGETS, Engine, Layer
from images.host import fail, log, run
from images.smoke_test import run_smoke_test
from images.sources import secrets


def main(arguments: Sequence[str]) -> None:
    """Build the requested targets, and test them together when both server and client are among them."""
    parser = argparse.ArgumentParser(prog="ci/images", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: {' '.join(TARGETS)}")
    targets = parser.parse_args(arguments).targets or list(TARGETS)
    if SERVER in targets and not (ROOT / "dist/engines/embedded/cpu/manifest.json").is_file():
        fail(
            "dist/engines/embedded/cpu is missing: run `.venv/bin/python -m export` and"
            " `.venv/bin/python -m build.engines --arch cpu`"
        )
    with selected_engine() as engine:
        for target in targets:
            log(f"building {target} with {engine.name}")
            started = time.monotonic()
            engine.build(target)
            log(f"built {target} in {time.monotonic() - started:.0f} s")
        if set(TARGETS) <= set(targets):
            run_smoke_test(engine)
        for target in targets:
            print_sizes(target, engine.layers(target))


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
